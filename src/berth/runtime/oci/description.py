"""The commands that need no container: spec, features, steps."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from berth.errors import AlreadyExists
from berth.kernel import capability, namespace
from berth.kernel import seccomp as filters
from berth.runtime import bundle_steps, mount_options, plan
from berth.runtime.oci import bundle as bundles
from berth.runtime.oci import jsontext

if TYPE_CHECKING:
    from berth.runtime.oci.journal import Journal
    from berth.runtime.oci.usage import Options

_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
_RESTRICTED = ["nosuid", "noexec", "nodev"]
_MASKED = (
    "/proc/acpi /proc/asound /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list /proc/timer_stats /proc/sched_debug "
    "/sys/firmware /proc/scsi"
)
_READONLY = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger"


def spec(root: str, options: Options, journal: Journal) -> int:
    """The command: config.json of a shell."""
    path = os.path.join(options.text("bundle", "."), "config.json")
    text = jsontext.encode(template("rootless" in options), indent=2) + "\n"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise AlreadyExists("File config.json exists. Remove it first") from None
    os.write(fd, text.encode())
    os.close(fd)
    return 0


def _mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, **({"options": list(options)} if options else {})}


def template(rootless: bool) -> dict[str, Any]:
    """A specification to begin with. `rootless`: with a user namespace in which the caller is root."""
    names = ["pid", "network", "ipc", "uts", "mount", "cgroup"]
    linux: dict[str, Any] = {
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "namespaces": [{"type": name} for name in names],
        "maskedPaths": _MASKED.split(),
        "readonlyPaths": _READONLY.split(),
    }
    tty = ["gid=5"]
    if rootless:
        tty = []
        linux["namespaces"].append({"type": "user"})
        linux["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
    process = {
        "terminal": True,
        "user": {"uid": 0, "gid": 0},
        "args": ["sh"],
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
        "cwd": "/",
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": True,
    }
    mounts = [
        _mount("/proc", "proc", "proc"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", *tty),
        _mount("/dev/shm", "tmpfs", "shm", *_RESTRICTED, "mode=1777", "size=65536k"),
        _mount("/dev/mqueue", "mqueue", "mqueue", *_RESTRICTED),
        _mount("/sys", "sysfs", "sysfs", *_RESTRICTED, "ro"),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", *_RESTRICTED, "relatime", "ro"),
    ]
    root = {"path": "rootfs", "readonly": True}
    return {
        "ociVersion": bundles.VERSION,
        "process": process,
        "root": root,
        "hostname": "berth",
        "mounts": mounts,
        "linux": linux,
    }


def steps(root: str, options: Options, journal: Journal) -> int:
    """The command: the plan of a launch as text."""
    bundle = bundles.read(os.path.abspath(options.text("bundle", ".")))
    bundle_steps.install()
    sys.stdout.write(plan.describe(bundles.compile_launch(bundle, bundles.Wish(root, "steps"))))
    return 0


def features(root: str, options: Options, journal: Journal) -> int:
    """The command."""
    sys.stdout.write(jsontext.encode(document(), indent=2) + "\n")
    return 0


def document() -> dict[str, Any]:
    """The features document of the specification: what this runtime can do, whether or not this host can."""
    flags = sorted(filters.FILTER_FLAGS)
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": bundles.VERSION,
        "hooks": list(bundles.HOOKS),
        "mountOptions": sorted(mount_options.names()),
        "linux": {
            "namespaces": sorted(namespace.FLAGS),
            "capabilities": list(capability.NUMBERS),
            "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": False},
            "seccomp": {
                "enabled": True,
                "actions": sorted(filters.ACTIONS),
                "operators": sorted(filters.OPERATORS),
                "archs": sorted(filters.ARCHITECTURES),
                "knownFlags": flags,
                "supportedFlags": flags,
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
        },
        "potentiallyUnsafeConfigAnnotations": [],
    }
