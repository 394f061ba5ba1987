"""Trying what the kernel does, as its version and its configuration do not tell: distributions patch and switch off.

Each trial happens in a forked process that is thrown away with its namespaces, so nothing is left on the host but, for the
moment of the trial, one directory below the data root. An answer is "" when it works, else the kernel's words.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Protocol

from berth.kernel import capability, clock, number
from berth.kernel.file import filesystem_type
from berth.kernel.libc import syscall
from berth.kernel.mount import make_private, mount
from berth.kernel.namespace import CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUSER, mapped_user_namespace, unshare
from berth.kernel.netlink import create_bridge, create_macvlan, create_veth
from berth.kernel.paths import OPENAT2
from berth.kernel.process import PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, prctl
from berth.network.foreign import find_blocking, find_dropping
from berth.network.nftables import Nftables
from berth.runtime.source import Setting, overlay
from berth.storage import quota
from berth.storage.quota import Lack

CALLS = {
    "clone3": (number.CLONE3, "5.3"),
    "fsopen": (number.FSOPEN, "5.2"),
    "open_tree": (number.OPEN_TREE, "5.2"),
    "pidfd_open": (number.PIDFD_OPEN, "5.3"),
    "close_range": (number.CLOSE_RANGE, "5.9"),
    "openat2": (OPENAT2, "5.6"),
    "mount_setattr": (number.MOUNT_SETATTR, "5.12"),
}
"""The system calls that a launch needs, with the Linux that brought them."""

_HOST_BASE = 1_000_000


class Probes(Protocol):
    """What can be tried. OSError and BerthError where even trying is impossible."""

    def missing_calls(self) -> list[str]:
        """Those of CALLS that this kernel does not have."""

    def user_namespace(self) -> str:
        """Making a user namespace, as the caller."""

    def idmapped_overlay(self, directory: str) -> str:
        """An overlay on idmapped layers in the directory's file system: how containers see their images. Root only."""

    def device(self, kind: str) -> str:
        """Making a network device (bridge, veth, macvlan, ipvlan) in a namespace of its own. Root only."""

    def blocking_chains(self) -> list[str]:
        """Chains of other firewalls that drop what is forwarded, or the ones they invite to. Root only."""

    def guarding_chains(self) -> list[str]:
        """Chains of other firewalls that drop what comes in for the host itself. Root only."""

    def filesystem(self, directory: str) -> int:
        """The magic number of the directory's file system."""

    def sizes(self, directory: str) -> Lack | None:
        """Why directories there cannot have a size; None when they can."""

    def capabilities(self) -> int:
        """Our effective capabilities, a bit mask."""

    def clock_is_synchronised(self) -> bool:
        """Whether somebody keeps the clock right."""


class KernelProbes:
    """The running kernel."""

    def missing_calls(self) -> list[str]:
        """A call with arguments that no kernel takes fails with ENOSYS where there is no such call."""
        missing = []
        for name, (call, _) in CALLS.items():
            try:
                syscall(call, -1, None, -1, None, 0, what=name)
            except OSError as error:
                if error.errno == errno.ENOSYS:
                    missing.append(name)
        return missing

    def user_namespace(self) -> str:
        """In a child, since a process cannot leave one again."""
        return _in_child(lambda: unshare(CLONE_NEWUSER))

    def idmapped_overlay(self, directory: str) -> str:
        """With the very code that launches use."""
        place = tempfile.mkdtemp(prefix=".staging-doctor-", dir=directory)
        try:
            for name in ("lower", "upper", "work", "scratch"):
                os.mkdir(f"{place}/{name}")
            return _in_child(lambda: _mount_overlay(place))
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def device(self, kind: str) -> str:
        """In a network namespace that ends with the child."""

        def make() -> None:
            unshare(CLONE_NEWNET)
            if kind == "bridge":
                create_bridge("probe", "02:00:00:00:00:01", 1500)
                return
            create_veth("probe", "", "peer", -1, "", 1500)
            if kind != "veth":
                create_macvlan("probe", "probe2", -1, "", 0, mode=0 if kind == "ipvlan" else 4, kind=kind)

        return _in_child(make)

    def blocking_chains(self) -> list[str]:
        """As the engine looks for them."""
        return [chain.place for chain in find_blocking(Nftables())]

    def guarding_chains(self) -> list[str]:
        """Those with an input hook."""
        return [chain.place for chain in find_dropping(Nftables(), "input")]

    def filesystem(self, directory: str) -> int:
        """fstatfs(2)."""
        fd = os.open(directory, os.O_PATH | os.O_CLOEXEC)
        try:
            return filesystem_type(fd)
        finally:
            os.close(fd)

    def sizes(self, directory: str) -> Lack | None:
        """As the engine looks for quotas."""
        return quota.lack(directory)

    def capabilities(self) -> int:
        """capget(2)."""
        return capability.effective()

    def clock_is_synchronised(self) -> bool:
        """adjtimex(2)."""
        return clock.is_synchronised()


def _in_child(work: Callable[[], None]) -> str:
    """Do it in a forked process; "" when it succeeded, else what the kernel said."""
    answer, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except OSError as error:
            os.write(tell, os.strerror(error.errno or 0).lower().encode())
        finally:
            os._exit(0)
    os.close(tell)
    with open(answer, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    return said or ("" if status == 0 else "the trial was killed")


def _mount_overlay(place: str) -> None:
    unshare(CLONE_NEWNS)
    make_private()
    mount("tmpfs", f"{place}/scratch", "tmpfs", 0)
    prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    extent = f"0 {_HOST_BASE} 65536"
    userns = mapped_user_namespace(extent, extent)
    source = {"store": place, "layers": ["lower"], "upper": "upper", "work": "work"}
    tree = overlay(source, Setting(_HOST_BASE, userns, f"{place}/scratch", "probe"))
    # Where the mounter's ids cannot be stored in the layers, the kernel mounts read-only without a word.
    if os.fstatvfs(tree).f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, "", "the overlay")
