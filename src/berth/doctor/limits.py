"""Limits of the host that many containers, or large ones, run into; rights and clock that the engine needs."""

from __future__ import annotations

from collections.abc import Iterator

from berth.doctor.check import Scene, note, ok, warning
from berth.kernel.capability import NUMBERS
from berth.wire.doctor import Finding

_DESCRIPTORS = 65_536
_MAX_MAP_COUNT = 262_144


def descriptors(scene: Scene) -> Iterator[Finding]:
    """Open files: of the whole host and of one process."""
    most, each = (scene.host.number(f"/proc/sys/fs/{name}") for name in ("file-max", "nr_open"))
    used = scene.host.number("/proc/sys/fs/file-nr")
    facts = {"file_max": most, "nr_open": each, "used": used}
    if most and used and used > most * 0.8:
        yield warning(
            f"{used} of {most} files are open on this host",
            why="Nothing can be opened any more once they are used up, by the engine either.",
            change=f"sysctl -w fs.file-max={most * 4}",
            facts=facts,
        )
    elif each is not None and each < _DESCRIPTORS:
        yield warning(
            f"a process can open at most {each} files",
            why="Databases and proxies in containers ask for more (--ulimit nofile).",
            change="sysctl -w fs.nr_open=1048576",
            facts=facts,
        )
    else:
        yield ok(f"enough files can be opened: {used or 0} of {most} are, at most {each} by one process", facts=facts)


def inotify(scene: Scene) -> Iterator[Finding]:
    """Watches and instances, which all containers of one user id share."""
    instances = scene.host.number("/proc/sys/fs/inotify/max_user_instances")
    watches = scene.host.number("/proc/sys/fs/inotify/max_user_watches")
    facts = {"instances": instances, "watches": watches}
    if instances is None or watches is None:
        return
    if instances < 256 or watches < 65_536:
        yield note(
            f"at most {instances} inotify instances and {watches} watches for each user",
            why="Development servers and log shippers watch files; beyond that they fail with `too many open files`.",
            change="sysctl -w fs.inotify.max_user_instances=1024 fs.inotify.max_user_watches=1048576",
            facts=facts,
        )
    else:
        yield ok(f"each user may have {instances} inotify instances and {watches} watches", facts=facts)


def processes(scene: Scene) -> Iterator[Finding]:
    """Process ids and threads."""
    pids, threads = (scene.host.number(f"/proc/sys/kernel/{name}") for name in ("pid_max", "threads-max"))
    words = (scene.host.text("/proc/loadavg") or "").split()
    now = int(words[3].partition("/")[2]) if len(words) > 3 and words[3].partition("/")[2].isdigit() else 0
    facts = {"pid_max": pids, "threads_max": threads, "now": now}
    least = min(value for value in (pids, threads, 1 << 30) if value)
    if now > least * 0.8:
        yield warning(
            f"{now} of {least} possible processes and threads exist",
            why="Nobody can start anything once there are no more, in containers and on the host alike.",
            change="limit containers (--pids-limit 512), or sysctl -w kernel.pid_max=4194304 kernel.threads-max=1000000",
            facts=facts,
        )
    elif pids is not None and pids <= 32_768:
        yield note(
            f"there are only {pids} process ids",
            why="A few hundred containers of programs with many threads use them up.",
            change="sysctl -w kernel.pid_max=4194304",
            facts=facts,
        )
    else:
        yield ok(f"{now} of {least} possible processes and threads exist", facts=facts)


def rights(scene: Scene) -> Iterator[Finding]:
    """CAP_SYS_RESOURCE: raising hard limits, lowering oom_score_adj."""
    scene.need_root("the engine's capabilities")
    held = scene.probes.capabilities()
    missing = [name for name in ("CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_RESOURCE") if not held >> NUMBERS[name] & 1]
    facts = {"missing": missing}
    if "CAP_SYS_ADMIN" in missing or "CAP_NET_ADMIN" in missing:
        yield warning(
            f"root is not all-powerful here: {', '.join(missing)} is missing",
            why="berth runs inside a container itself and cannot mount, or cannot make networks.",
            change="give the outer container these capabilities (--privileged does)",
            facts=facts,
        )
    elif missing:
        yield note(
            "root may not raise hard limits here (CAP_SYS_RESOURCE is missing)",
            why="--ulimit above the engine's own hard limits and --oom-score-adj below 0 are refused.",
            change="start berthd where root has the capability; some virtual machines and containers take it away",
            facts=facts,
        )
    else:
        yield ok("root has the capabilities that the engine needs", facts=facts)


def memory_maps(scene: Scene) -> Iterator[Finding]:
    """vm.max_map_count."""
    value = scene.host.number("/proc/sys/vm/max_map_count")
    if value is None:
        return
    if value < _MAX_MAP_COUNT:
        yield note(
            f"a process can have at most {value} memory maps (vm.max_map_count)",
            why="Elasticsearch, OpenSearch and some games refuse to start below 262144.",
            change=f"sysctl -w vm.max_map_count={_MAX_MAP_COUNT}",
            facts={"max_map_count": value},
        )
    else:
        yield ok(f"a process can have {value} memory maps", facts={"max_map_count": value})


def overcommit(scene: Scene) -> Iterator[Finding]:
    """vm.overcommit_memory."""
    value = scene.host.number("/proc/sys/vm/overcommit_memory")
    facts = {"overcommit_memory": value}
    if value == 2:
        yield warning(
            "the kernel promises no more memory than it has (vm.overcommit_memory=2)",
            why="Programs with large address spaces, and engines that fork, fail though memory is free.",
            change="sysctl -w vm.overcommit_memory=1",
            facts=facts,
        )
    elif value == 0:
        yield ok("memory is promised with care (vm.overcommit_memory=0); Redis asks for 1 in its log", facts=facts)
    else:
        yield ok("memory is promised freely (vm.overcommit_memory=1)", facts=facts)


def clock(scene: Scene) -> Iterator[Finding]:
    """Time."""
    if scene.probes.clock_is_synchronised():
        yield ok("the clock is kept in step with others")
    else:
        yield note(
            "nobody keeps the clock in step with others (NTP)",
            why="Containers use the host's clock. A wrong one breaks TLS certificates, tokens and `apt-get update` in builds.",
            change="timedatectl set-ntp true, or apt-get install systemd-timesyncd",
        )
