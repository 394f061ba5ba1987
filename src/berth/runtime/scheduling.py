"""How the kernel runs a process: scheduler, I/O priority, personality. From the specification's names to numbers. Pure."""

from __future__ import annotations

from berth.errors import InvalidArgument, NotImplementedKind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from berth.model.oci import IOPriority, Personality, Scheduler

_POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_DOMAINS = {"LINUX": 0x0000, "LINUX32": 0x0008}


def attributes(scheduler: Scheduler) -> dict[str, Any]:
    """The arguments of sched_setattr(2). InvalidArgument for a policy or flag that does not exist."""
    if scheduler.policy not in _POLICIES:
        raise InvalidArgument(f"scheduler policy {scheduler.policy} does not exist")
    unknown = [flag for flag in scheduler.flags if flag not in _FLAGS]
    if unknown:
        raise InvalidArgument(f"scheduler flag {unknown[0]} does not exist")
    return {
        "policy": _POLICIES[scheduler.policy],
        "flags": sum(_FLAGS[flag] for flag in set(scheduler.flags)),
        "nice": scheduler.nice,
        "priority": scheduler.priority,
        "runtime": scheduler.runtime,
        "deadline": scheduler.deadline,
        "period": scheduler.period,
    }


def io_priority(priority: IOPriority) -> int:
    """The value for ioprio_set(2)."""
    if priority.class_ not in _IO_CLASSES:
        raise InvalidArgument(f"I/O priority class {priority.class_} does not exist")
    if not 0 <= priority.priority <= 7:
        raise InvalidArgument(f"I/O priority {priority.priority} is not between 0 and 7")
    return _IO_CLASSES[priority.class_] << 13 | priority.priority


def personality(wanted: Personality) -> int:
    """The value for personality(2)."""
    if wanted.domain not in _DOMAINS:
        raise InvalidArgument(f"personality domain {wanted.domain} does not exist: LINUX and LINUX32 do")
    if wanted.flags:
        raise NotImplementedKind("personality flags are not supported: the specification defines none yet")
    return _DOMAINS[wanted.domain]
