"""AppArmor and SELinux: what a process's labels come to as steps of init. Only where the host has the module."""

from __future__ import annotations

import os

from berth.errors import NotImplementedKind
from berth.kernel.file import read_text
from berth.runtime.labelling import APPARMOR, SELINUX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from berth.model.oci import Process

_APPARMOR = "/sys/module/apparmor/parameters/enabled"
_APPARMOR_POLICY = "/sys/kernel/security/apparmor"
_LABELLED = ("tmpfs", "devpts", "mqueue")
_SELINUX = "/sys/fs/selinux/enforce"


def apparmor_enabled() -> bool:
    """Whether profiles can be asked for: the kernel has it, and its policy is to be seen (not so in most containers)."""
    try:
        return os.path.exists(_APPARMOR_POLICY) and read_text(_APPARMOR).startswith("Y")
    except OSError:
        return False


def selinux_enabled() -> bool:
    """Whether labels can be asked for."""
    return os.path.exists(_SELINUX)


def mark(plan: dict[str, Any], text: str) -> None:
    """SELinux's label for the filesystems that a container gets of its own. NotImplementedKind as `of`."""
    if not selinux_enabled():
        raise NotImplementedKind(f"linux.mountLabel is {text}, but SELinux is not enabled on this host")
    for name, arguments in plan["steps"]:
        if name in ("mount", "mount-copy") and arguments["kind"] in _LABELLED:
            arguments["options"].append(["context", text])
    for source in plan["sources"]:
        if source["kind"] == "dev":
            source["options"].append(["context", text])


def of(process: Process) -> dict[str, str]:
    """Module to label. NotImplementedKind names a label that the host knows nothing of."""
    found: dict[str, str] = {}
    if process.apparmor_profile:
        if not apparmor_enabled():
            raise NotImplementedKind(
                f"process.apparmorProfile is {process.apparmor_profile}, but AppArmor is not enabled on this host"
            )
        found[APPARMOR] = process.apparmor_profile
    if process.selinux_label:
        if not selinux_enabled():
            raise NotImplementedKind(f"process.selinuxLabel is {process.selinux_label}, but SELinux is not enabled on this host")
        found[SELINUX] = process.selinux_label
    return found


def steps(process: Process) -> list[Any]:
    """What gives the labels, before pivot."""
    opened: list[Any] = [["open-label", {"module": module, "label": text}] for module, text in of(process).items()]
    return [*opened, ["label", {}]] if opened else []
