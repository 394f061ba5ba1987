"""Options of the local volume driver (`docker volume create -o ...`): type, device, o, as mount(8) has them. Pure.

tmpfs is mounted afresh in each container; a bind shows a directory of the host. Network filesystems and block devices would
have to be mounted on the host and live there for ever, which an engine that leaves nothing behind does not do.
"""

from __future__ import annotations

from collections.abc import Mapping

from berth.errors import InvalidArgument, NotImplementedKind

_KNOWN = ("type", "o", "device", "size")
_FLAGS = ("bind", "rbind")


def check(options: Mapping[str, str]) -> None:
    """InvalidArgument for what makes no sense, NotImplementedKind for filesystems that are not mounted here."""
    for key in options:
        if key not in _KNOWN:
            raise InvalidArgument(f'invalid option: "{key}"')
    if not options:
        return
    if "size" in options:
        raise InvalidArgument("quota size requested but no quota support")
    for key, needed in (("device", "type"), ("type", "device"), ("o", "device"), ("o", "type")):
        if key in options and not options.get(needed):
            raise InvalidArgument(f'missing required option: "{needed}"')
    kind = options["type"]
    if is_bind(options):
        if not options["device"].startswith("/"):
            raise InvalidArgument(f"the device of a bind volume must be an absolute path: {options['device']!r}")
        return
    if kind == "tmpfs":
        return
    raise NotImplementedKind(
        f"volumes of type {kind} are not mounted by berth: mount {options['device']} on the host, "
        "and create the volume with type=none, o=bind and device=<the mounted directory>"
    )


def is_bind(options: Mapping[str, str]) -> bool:
    """Whether the volume shows a directory of the host."""
    return options.get("type") in ("none", "bind") and any(flag in _FLAGS for flag in _parts(options))


def mount_options(options: Mapping[str, str]) -> list[str]:
    """The options for the OCI mount, without those that say that it is a bind."""
    return [part for part in _parts(options) if part not in _FLAGS]


def _parts(options: Mapping[str, str]) -> list[str]:
    return [part for part in options.get("o", "").split(",") if part]
