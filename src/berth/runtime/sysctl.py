"""Kernel parameters of a container: only those that belong to its own namespaces. Pure."""

from __future__ import annotations

from berth.errors import InvalidArgument

_IPC = frozenset(
    ("kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni")
) | {"kernel.shm_rmid_forced"}
_UTS = frozenset(("kernel.domainname",))


def check(name: str, value: str, namespaces: frozenset[str]) -> None:
    """InvalidArgument unless the parameter is one of a namespace that the container has of its own (CVE-2022-0811).

    `namespaces` are those that are not the host's. Names may be written with dots or slashes.
    """
    plain = dotted(name)
    if any(character in name + value for character in "\n\0+") or not _plain_path(name):
        raise InvalidArgument(f"invalid sysctl {name!r}")
    if plain in _IPC or plain.startswith("fs.mqueue."):
        _require(name, "ipc", "IPC", namespaces)
    elif plain.startswith("net."):
        _require(name, "network", "network", namespaces)
    elif plain in _UTS:
        _require(name, "uts", "UTS", namespaces)
    elif plain == "kernel.hostname":
        raise InvalidArgument(f"sysctl {name}: use --hostname instead")
    else:
        raise InvalidArgument(f"sysctl {name} is not in a separate kernel namespace")


def _plain_path(name: str) -> bool:
    return name == name.strip() and all(part not in ("", ".", "..") for part in path(name).split("/"))


def _require(name: str, kind: str, label: str, namespaces: frozenset[str]) -> None:
    if kind not in namespaces:
        raise InvalidArgument(f"sysctl {name} is not allowed in the host {label} namespace")


def dotted(name: str) -> str:
    """net/ipv4/conf/eth0.1/forwarding is net.ipv4.conf.eth0/1.forwarding; whichever separator comes first decides."""
    for character in name:
        if character == ".":
            return name
        if character == "/":
            return name.translate({ord("/"): ".", ord("."): "/"})
    return name


def path(name: str) -> str:
    """The file below /proc/sys."""
    return dotted(name).translate({ord("."): "/", ord("/"): "."})
