"""Capabilities of a container: the default set, add and drop, and those that a user namespace cannot give."""

from __future__ import annotations

from berth.errors import InvalidArgument

_ALL = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST "
    "NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE "
    "SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM "
    "BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
_DEFAULT = (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE"
)
_HOST_ONLY = (
    "AUDIT_CONTROL AUDIT_READ BPF IPC_LOCK LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD PERFMON SYSLOG SYS_MODULE SYS_NICE "
    "SYS_PACCT SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM"
)
ALL = tuple(_ALL.split())
DEFAULT = frozenset(_DEFAULT.split())
# The kernel asks for these in the initial user namespace: granted in another one, they do nothing.
HOST_ONLY = frozenset(_HOST_ONLY.split())


def parse_capabilities(names: list[str], what: str) -> list[str]:
    """Without the CAP_ prefix, upper case; ALL stays. `what` (CapAdd, CapDrop) is for the message."""
    result = []
    for name in names:
        bare = name.upper().removeprefix("CAP_")
        if bare != "ALL" and bare not in ALL:
            raise InvalidArgument(f'invalid {what}: unknown capability: "CAP_{bare}"')
        result.append(bare)
    return result


def of_engine() -> frozenset[str]:
    """What this process may hand on: on some hosts (inside another container, say) root lacks capabilities."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        held = next(int(line.split()[1], 16) for line in file if line.startswith("CapBnd:"))
    return frozenset(name for number, name in enumerate(ALL) if held >> number & 1)


def effective(add: list[str], drop: list[str], *, privileged: bool, host_user: bool) -> tuple[str, ...]:
    """The CAP_* names in the kernel's order. In the host's user namespace nobody gets more than the engine has itself."""
    added, dropped = parse_capabilities(add, "CapAdd"), parse_capabilities(drop, "CapDrop")
    if privileged:
        chosen = set(ALL)
    elif "ALL" in added:
        chosen = set(ALL) - set(dropped)
    elif "ALL" in dropped:
        chosen = set(added)
    else:
        chosen = (set(DEFAULT) - set(dropped)) | set(added)
    if host_user:
        chosen &= of_engine()
    return tuple(f"CAP_{name}" for name in ALL if name in chosen)


def host_only(add: list[str]) -> tuple[str, ...]:
    """Those asked for that only work in the host's user namespace. ALL asks for every one of them."""
    added = parse_capabilities(add, "CapAdd")
    if "ALL" in added:
        return ("ALL",)
    return tuple(name for name in added if name in HOST_ONLY)
