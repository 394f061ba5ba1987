"""--security-opt, sysctls: parsing and checks."""

from __future__ import annotations

import json
import re

from msgspec import Struct

from berth.errors import InvalidArgument

_SYSCTL = re.compile(r"[a-zA-Z0-9_./-]+\Z")
_IPC_SYSCTLS = frozenset(
    [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ]
)


class SecurityOptions(Struct, frozen=True, kw_only=True):
    """`seccomp` is builtin, unconfined, or the text of a profile."""

    no_new_privileges: bool = False
    seccomp: str = "builtin"
    unconfined_paths: bool = False
    writable_cgroups: bool = False


def parse_security_options(options: list[str], *, privileged: bool) -> SecurityOptions:
    """AppArmor and SELinux options are accepted; berth confines by user namespaces, seccomp and capabilities instead."""
    no_new, seccomp = False, "unconfined" if privileged else "builtin"
    unconfined_paths = writable_cgroups = False
    for option in options:
        if option in ("no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"):
            no_new = True
            continue
        if option in ("no-new-privileges:false", "no-new-privileges=false"):
            continue
        key, separator, value = _split(option)
        if key == "seccomp" and value:
            seccomp = _check_profile(value)
        elif key == "systempaths" and value == "unconfined":
            unconfined_paths = True
        elif key == "writable-cgroups" and value in ("true", "false"):
            writable_cgroups = value == "true"
        elif not (key in ("apparmor", "label") and separator):
            raise InvalidArgument(f'invalid --security-opt 2: "{option}"')
    return SecurityOptions(
        no_new_privileges=no_new, seccomp=seccomp, unconfined_paths=unconfined_paths, writable_cgroups=writable_cgroups
    )


def _split(option: str) -> tuple[str, str, str]:
    return option.partition("=" if "=" in option.split(":", 1)[0] or ":" not in option else ":")


def _check_profile(value: str) -> str:
    if value in ("unconfined", "builtin", "default"):
        return "builtin" if value == "default" else value
    try:
        json.loads(value)
    except ValueError as error:
        raise InvalidArgument(f"Decoding seccomp profile failed: {error}") from error
    return value


def check_sysctls(sysctls: dict[str, str], host_namespaces: frozenset[str]) -> None:
    """Only keys that belong to a namespace of the container's own, one value each."""
    for key, value in sysctls.items():
        if not _SYSCTL.match(key) or ".." in key or "\n" in value or "\0" in value:
            raise InvalidArgument(f'invalid sysctl "{key}={value}"')
        kind = "network" if key.startswith("net.") else "ipc" if key in _IPC_SYSCTLS or key.startswith("fs.mqueue.") else ""
        if key == "kernel.domainname":
            kind = "uts"
        if not kind:
            raise InvalidArgument(f'sysctl "{key}" is not in a separate kernel namespace')
        if kind in host_namespaces:
            raise InvalidArgument(f'sysctl "{key}" not allowed in host {kind} namespace')
