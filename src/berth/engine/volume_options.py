"""Options of the local volume driver (`docker volume create -o ...`): type, device, o, as mount(8) has them. Pure.

Containers that run at the same time share a tmpfs (see memory_volumes); a bind shows a directory of the host. Network and disk
filesystems are mounted by the runtime for each container that starts, with the host's network and rights, and go with it: nothing
is ever mounted on the host.
Without a type a volume is a directory of the engine, and `size` limits it by a project quota.
"""

from __future__ import annotations

from collections.abc import Mapping

from berth.engine.storage_options import quota_size
from berth.errors import InvalidArgument, NotImplementedKind
from berth.network.host import is_address
from berth.runtime.mount_options import parse

_KNOWN = ("type", "o", "device", "size")
_FLAGS = ("bind", "rbind")
# ro, nosuid, nodev and noexec: the same bits in mount(2) and in mount_setattr(2).
_PLAIN_FLAGS = 0xF
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph"})
DISK = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "erofs", "squashfs", "iso9660", "udf", "vfat", "exfat", "ntfs3"}
)


def check(options: Mapping[str, str]) -> None:
    """InvalidArgument for what makes no sense, NotImplementedKind for filesystems that are not mounted here."""
    for key in options:
        if key not in _KNOWN:
            raise InvalidArgument(f'invalid option: "{key}"')
    if not options:
        return
    size(options)
    if "size" in options and "type" in options:
        raise InvalidArgument(
            "the option size is for volumes without a type, which are directories: one of type tmpfs takes its size with "
            "o=size=64m, other file systems have their own"
        )
    for key, needed in (("device", "type"), ("type", "device"), ("o", "device"), ("o", "type")):
        if key in options and not options.get(needed):
            raise InvalidArgument(f'missing required option: "{needed}"')
    if "type" not in options:
        return
    kind = options["type"]
    if is_bind(options):
        if not options["device"].startswith("/"):
            raise InvalidArgument(f"the device of a bind volume must be an absolute path: {options['device']!r}")
        return
    if kind == "tmpfs":
        return
    if kind in NETWORK or kind in DISK:
        _check_filesystem(kind, options)
        return
    raise NotImplementedKind(
        f"volumes of type {kind} are not mounted by berth: mount {options['device']} on the host, "
        "and create the volume with type=none, o=bind and device=<the mounted directory>"
    )


def _check_filesystem(kind: str, options: Mapping[str, str]) -> None:
    """What the kernel would refuse with no more than `invalid argument`."""
    address = next((part.partition("=")[2] for part in _parts(options) if part.startswith("addr=")), None)
    if kind in ("nfs", "nfs4") and address is None:
        raise InvalidArgument(
            f"a volume of type {kind} needs the server's address: -o o=addr=192.0.2.1,... with -o device=:/path"
        )
    if address is not None and not is_address(address):
        raise InvalidArgument(f"addr={address}: give the IP address of the server: names are not looked up")
    if kind in DISK and not options["device"].startswith("/"):
        raise InvalidArgument(f"the device of a volume of type {kind} must be an absolute path: {options['device']!r}")


def size(options: Mapping[str, str]) -> int:
    """What a volume on the engine's own disk may hold, 0 for any size. InvalidArgument."""
    return quota_size(options["size"]) if "size" in options else 0


def is_bind(options: Mapping[str, str]) -> bool:
    """Whether the volume shows a directory of the host."""
    return options.get("type") in ("none", "bind") and any(flag in _FLAGS for flag in _parts(options))


def mount_options(options: Mapping[str, str]) -> list[str]:
    """The options for the OCI mount, without those that say that it is a bind."""
    return [part for part in _parts(options) if part not in _FLAGS]


def data(options: Mapping[str, str]) -> list[list[str | None]]:
    """Those of the options that are for the filesystem itself, as pairs; the others are each mount's own."""
    return parse(mount_options(options), "the volume").data


def mount_text(options: Mapping[str, str]) -> str:
    """How it is mounted, as Docker puts it into an error: flags with the bits of mount(2), then the filesystem's options."""
    flags = parse(mount_options(options), "the volume").attributes & _PLAIN_FLAGS
    told = ",".join("=".join(filter(None, pair)) for pair in data(options))
    return ", ".join([*([f"flags: {flags:#x}"] if flags else []), *([f"data: {told}"] if told else [])])


def _parts(options: Mapping[str, str]) -> list[str]:
    return [part for part in options.get("o", "").split(",") if part]
