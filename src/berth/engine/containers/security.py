"""--security-opt, sysctls: parsing and checks."""

from __future__ import annotations

import json
import re
from typing import Any

from msgspec import Struct

from berth.errors import InvalidArgument

_SYSCTL = re.compile(r"[a-zA-Z0-9_./-]+\Z")
# As Go's strconv reads them.
_TRUE, _FALSE = ("1", "t", "T", "true", "TRUE", "True"), ("0", "f", "F", "false", "FALSE", "False")
_BOOLEANS = dict.fromkeys(_TRUE, True) | dict.fromkeys(_FALSE, False)
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
    """`seccomp` is builtin, unconfined, or the text of a profile; `apparmor` a profile's name; `labels` are SELinux's."""

    privileged: bool = False
    no_new_privileges: bool = False
    seccomp: str = "builtin"
    unconfined_paths: bool = False
    writable_cgroups: bool = False
    apparmor: str = ""
    labels: tuple[str, ...] = ()


def parse_security_options(options: list[str], *, privileged: bool, no_new_privileges: bool = False) -> SecurityOptions:
    """In Docker's forms: a name alone, name=value, or name:value as of old. `no_new_privileges` is the engine's default."""
    found: dict[str, Any] = {
        "privileged": privileged,
        "no_new_privileges": no_new_privileges,
        "seccomp": "unconfined" if privileged else "builtin",
    }
    labels: list[str] = []
    for option in options:
        key, separator, value = _split(option)
        if key == "label" and separator:
            labels.append(value)
        elif option == "disable":
            labels.append(option)
        elif key == "apparmor" and separator:
            found["apparmor"] = value
        elif key == "seccomp" and value:
            found["seccomp"] = _check_profile(value)
        elif key == "systempaths" and value == "unconfined":
            found["unconfined_paths"] = True
        elif option == "no-new-privileges":
            found["no_new_privileges"] = True
        elif separator and key in ("no-new-privileges", "writable-cgroups") and value in _BOOLEANS:
            found[key.replace("-", "_")] = _BOOLEANS[value]
        else:
            raise InvalidArgument(f'invalid --security-opt {2 if separator else 1}: "{option}"')
    return SecurityOptions(**found, labels=tuple(labels))


def _split(option: str) -> tuple[str, str, str]:
    return option.partition("=" if "=" in option else ":")


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
