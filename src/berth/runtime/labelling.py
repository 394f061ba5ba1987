"""Labels of AppArmor and SELinux, given to the program that the next execve starts. Lean.

A label is written to a file of the process's own attributes in procfs, and waits there until execve; a child that is forked
meanwhile has it too. So it is written while /proc is the host's: a container's could lead the write elsewhere
(CVE-2019-16884). By init in two steps, `open-label` and `label`, which may have others in between; by what enters a container
at once, before it does.
"""

from __future__ import annotations

import errno
import os

from berth.kernel.file import PROC_SUPER_MAGIC, filesystem_type
from berth.runtime.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from berth.runtime.init import Init

APPARMOR, SELINUX = "apparmor", "selinux"
_ATTRIBUTES = "/proc/thread-self/attr/"


def open_label(state: Init, *, module: str, label: str) -> None:
    """While /proc is the host's."""
    state.labels.append((_open(module, label), module, label))


def label(state: Init) -> None:
    """The labels take effect at execve."""
    for fd, module, text in state.labels:
        _write(fd, module, text)
        os.close(fd)
    state.labels.clear()


def give(labels: Mapping[str, str]) -> None:
    """Module to label: for this process's next program, or that of a child which it forks."""
    for module, text in labels.items():
        fd = _open(module, text)
        try:
            _write(fd, module, text)
        finally:
            os.close(fd)


def _open(module: str, text: str) -> int:
    names = ("apparmor/exec", "exec") if module == APPARMOR else ("exec",)
    for name in names:
        try:
            fd = os.open(_ATTRIBUTES + name, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.ENOENT and name != names[-1]:
                continue
            raise Failure(module, error.errno or 0, text) from None
        if filesystem_type(fd) == PROC_SUPER_MAGIC:
            return fd
        os.close(fd)
        break
    raise Failure(module, errno.EINVAL, text)


def _write(fd: int, module: str, text: str) -> None:
    try:
        os.write(fd, (f"exec {text}" if module == APPARMOR else text).encode())
    except OSError as error:
        raise Failure(module, error.errno or 0, text) from None
