"""A throwaway place for an engine that is asked for anything at all, `--privileged` and `-v /:/x` among it: mount, network,
process, IPC and host name namespaces of its own, the machine's files read-only, and no devices but the harmless ones."""

from __future__ import annotations

import os
import subprocess
import sys

from berth.kernel import mount as kernel
from berth.kernel.libc import AT_FDCWD
from berth.kernel.namespace import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUTS, unshare

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_CONTROL_GROUPS = "/sys/fs/cgroup"


def enter(writable: str) -> None:
    """Go on as the first process of the place; who called waits outside and ends with our status. Only `writable` can be
    written to."""
    unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS)
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        sys.exit(os.waitstatus_to_exitcode(status) & 0xFF)
    kernel.make_private()
    groups = kernel.open_tree(AT_FDCWD, _CONTROL_GROUPS, recursive=True)
    kernel.mount(writable, writable, None, kernel.MS_BIND)
    _set_read_only("/", True)
    _set_read_only(writable, False)
    _devices()
    kernel.mount("proc", "/proc", "proc", 0)
    kernel.mount("sysfs", "/sys", "sysfs", kernel.MS_RDONLY)
    kernel.move_mount(groups, AT_FDCWD, _CONTROL_GROUPS)
    os.close(groups)
    kernel.mount("tmpfs", "/run", "tmpfs", 0)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def _set_read_only(path: str, read_only: bool) -> None:
    """The mount at `path`; with those below it when they become so."""
    place = os.open(path, os.O_PATH)
    attributes = kernel.MOUNT_ATTR_RDONLY
    if read_only:
        kernel.mount_setattr(place, attributes, recursive=True)
    else:
        kernel.mount_setattr(place, clear=attributes)
    os.close(place)


def _devices() -> None:
    """A /dev in which there is nothing to break."""
    kept = {name: os.stat(f"/dev/{name}") for name in _DEVICES}
    kernel.mount("tmpfs", "/dev", "tmpfs", 0, "mode=755")
    for name, status in kept.items():
        os.mknod(f"/dev/{name}", status.st_mode, status.st_rdev)
        os.chmod(f"/dev/{name}", 0o666)
    for name, kind, options in (("shm", "tmpfs", ""), ("pts", "devpts", "newinstance,ptmxmode=0666"), ("mqueue", "mqueue", "")):
        os.mkdir(f"/dev/{name}")
        kernel.mount(kind, f"/dev/{name}", kind, 0, options)
    os.symlink("pts/ptmx", "/dev/ptmx")
    os.symlink("/proc/self/fd", "/dev/fd")
