"""What the kernel offers: version, system calls, namespaces, idmapped overlays, seccomp, security modules."""

from __future__ import annotations

import os
from collections.abc import Iterator

from berth.doctor.check import Scene, listed, note, ok, problem, warning
from berth.doctor.host import Host
from berth.doctor.probe import CALLS
from berth.errors import BerthError
from berth.kernel import seccomp
from berth.wire.doctor import Finding

_LEAST, _FULL = (5, 14), (5, 19)
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")


def _version(release: str) -> tuple[int, ...]:
    numbers = release.partition("-")[0].split(".")[:2]
    return tuple(int(part) for part in numbers if part.isdigit())


def version(scene: Scene) -> Iterator[Finding]:
    """Whether the kernel is new enough."""
    release = scene.host.text("/proc/sys/kernel/osrelease") or "0"
    facts = {"release": release}
    if _version(release) < _LEAST:
        yield problem(
            f"Linux {release} is too old",
            why="Containers need at least Linux 5.14, and Linux 5.19 for their isolation by user namespaces.",
            change="install a newer kernel; Debian 12's (6.1) has everything",
            facts=facts,
        )
    elif _version(release) < _FULL:
        yield warning(
            f"Linux {release} has no overlays on idmapped layers",
            why="User namespaces are off here: the root of a container is the root of the host, with fewer capabilities.",
            change="install Linux 5.19 or newer; Debian 12's (6.1) has everything",
            facts=facts,
        )
    else:
        yield ok(f"Linux {release}", facts=facts)


def calls(scene: Scene) -> Iterator[Finding]:
    """System calls that a launch cannot do without."""
    missing = scene.probes.missing_calls()
    facts = {"needed": sorted(CALLS), "missing": missing}
    if missing:
        since = ", ".join(f"{name} (Linux {CALLS[name][1]})" for name in missing)
        yield problem(
            f"system calls are missing: {since}",
            why="No container can start without them. Sandboxes and seccomp filters around berth take them away too.",
            change="run berth on a host, or in a container, that allows these calls",
            facts=facts,
        )
    else:
        yield ok(f"all system calls that a launch needs are there ({len(CALLS)} tried)", facts=facts)


def namespaces(scene: Scene) -> Iterator[Finding]:
    """The kinds of namespaces that the kernel was built with."""
    found = {name.partition("_")[0] for name in scene.host.names("/proc/self/ns")}
    missing = [name for name in _NAMESPACES if name not in found]
    facts = {"found": sorted(found), "missing": missing}
    if missing:
        yield problem(
            f"the kernel has no {listed(missing)} namespaces",
            why="Containers are separated from the host and from each other by them.",
            change="use a kernel with CONFIG_NAMESPACES and all of its kinds, such as a distribution's",
            facts=facts,
        )
    else:
        time = " and time" if "time" in found else ""
        yield ok(f"all kinds of namespaces are there: {', '.join(_NAMESPACES)}{time}", facts=facts)


def user_namespaces(scene: Scene) -> Iterator[Finding]:
    """Whether they can be made, and how many."""
    limit = scene.host.number("/proc/sys/user/max_user_namespaces")
    facts = {"limit": limit}
    refused = scene.probes.user_namespace()
    if limit == 0:
        yield problem(
            "user namespaces are switched off",
            why="Each container has one, so that its root is nobody on the host.",
            change="sysctl -w user.max_user_namespaces=15000 (and the same line in /etc/sysctl.d/)",
            facts=facts,
        )
    elif refused and scene.host.is_root():
        yield problem(
            f"user namespaces cannot be made ({refused})",
            why="Each container has one, so that its root is nobody on the host.",
            change="look for a security module or a seccomp filter around berth that forbids unshare(CLONE_NEWUSER)",
            facts=facts,
        )
    elif limit is not None and limit < 2000:
        yield warning(
            f"at most {limit} user namespaces can exist",
            why="Each running container has one of its own.",
            change="sysctl -w user.max_user_namespaces=15000 (and the same line in /etc/sysctl.d/)",
            facts=facts,
        )
    else:
        yield ok("user namespaces can be made: each container has one of its own", facts=facts)


def idmapped_overlay(scene: Scene) -> Iterator[Finding]:
    """Overlay on idmapped layers in the data root's file system, tried for real."""
    scene.need_root("whether images can be shown to containers under ids of their own")
    place = next((path for path in (f"{scene.root}/layers", scene.root) if scene.host.status(path)), "")
    if not place:
        place = os.path.dirname(scene.root)
        while not scene.host.status(place):
            place = os.path.dirname(place)
    refused = scene.probes.idmapped_overlay(scene.host.path(place))
    if refused:
        yield problem(
            f"an overlay on idmapped layers cannot be mounted in {place} ({refused})",
            why="Containers with a user namespace, which is the default, see their image that way and cannot start.",
            change="put the data root on ext4, xfs or btrfs (berthd --root DIR), or use Linux 5.19 or newer",
            facts={"directory": place, "refused": refused},
        )
    else:
        yield ok(f"overlays on idmapped layers work in {place}", facts={"directory": place})


def seccomp_filter(scene: Scene) -> Iterator[Finding]:
    """The kernel's filter and the library that compiles profiles."""
    actions = (scene.host.text("/proc/sys/kernel/seccomp/actions_avail") or "").split()
    facts = {"actions": actions}
    if "errno" not in actions:
        yield problem(
            "the kernel has no seccomp filter",
            why="It keeps dangerous system calls away from containers, and berth starts none without it.",
            change="use a kernel with CONFIG_SECCOMP_FILTER, such as a distribution's",
            facts=facts,
        )
        return
    try:
        seccomp.library()
    except (OSError, BerthError) as error:
        yield problem(
            f"libseccomp cannot be loaded ({error})",
            why="Without it no container can start but with --security-opt seccomp=unconfined.",
            change="apt-get install libseccomp2",
            facts=facts,
        )
        return
    yield ok("seccomp filters work: containers get Docker's default profile", facts=facts)


def has_apparmor(host: Host) -> bool:
    """Whether the kernel has it, switched on."""
    return host.text("/sys/module/apparmor/parameters/enabled") == "Y"


def selinux_mode(host: Host) -> str:
    """enforcing, permissive, or empty where it is not on."""
    enforcing = host.text("/sys/fs/selinux/enforce")
    return "" if enforcing is None else "enforcing" if enforcing == "1" else "permissive"


def security_modules(scene: Scene) -> Iterator[Finding]:
    """AppArmor and SELinux."""
    host = scene.host
    modules = [name for name in (host.text("/sys/kernel/security/lsm") or "").split(",") if name]
    apparmor, selinux = has_apparmor(host), selinux_mode(host)
    facts = {"modules": modules, "apparmor": apparmor, "selinux": selinux}
    if apparmor:
        yield _apparmor(host, facts)
    if selinux:
        yield note(
            f"SELinux is on ({selinux}); berth's own runtime gives containers no label of it",
            why="User namespaces, seccomp, capabilities and masked files hold them.",
            facts=facts,
        )
    if not apparmor and not selinux:
        yield ok(
            "neither AppArmor nor SELinux is on",
            why="User namespaces, seccomp, capabilities and masked files hold containers; such a module would be one more wall.",
            facts=facts,
        )


def _apparmor(host: Host, facts: dict[str, object]) -> Finding:
    if not host.exists("/sys/kernel/security/apparmor"):
        return note(
            "AppArmor is on, but its policy is not to be seen here: containers are under no profile",
            why="/sys/kernel/security is not mounted, as in most containers. All other walls stand.",
            change="mount -t securityfs securityfs /sys/kernel/security, then restart the engine",
            facts=facts,
        )
    if not any(host.exists(f"{folder}/apparmor_parser") for folder in ("/usr/sbin", "/sbin")):
        return problem(
            "AppArmor is on, but apparmor_parser is missing: the default profile cannot be loaded, and containers do not start",
            why="As with Docker, a container that cannot be put under its profile is refused.",
            change="apt-get install apparmor; or --security-opt apparmor=unconfined",
            facts=facts,
        )
    return ok("AppArmor is on: containers are under its profile docker-default, or the one that they name", facts=facts)


def fuse(scene: Scene) -> Iterator[Finding]:
    """/dev/fuse, which some containers ask for."""
    if scene.host.exists("/dev/fuse"):
        yield ok("/dev/fuse is there: containers that mount FUSE file systems can be given it (--device /dev/fuse)")
    else:
        yield note(
            "/dev/fuse is missing",
            why="Containers that mount FUSE file systems (sshfs, rclone, AppImages) need it.",
            change="modprobe fuse",
        )
