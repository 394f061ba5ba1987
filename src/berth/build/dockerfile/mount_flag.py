"""--mount of RUN: a list of key=value pairs, comma separated. ValueError says what is wrong."""

from __future__ import annotations

import csv

from berth.build.dockerfile.fields import boolean, number, octal, size
from berth.build.dockerfile.instruction import RunMount

_TYPES = ("bind", "cache", "tmpfs", "secret", "ssh")
_KEYS: dict[str, tuple[str, ...]] = {
    "bind": ("target", "source", "from", "ro", "rw"),
    "cache": ("id", "target", "ro", "rw", "sharing", "from", "source", "mode", "uid", "gid"),
    "tmpfs": ("target", "size"),
    "secret": ("id", "target", "required", "mode", "uid", "gid", "env"),
    "ssh": ("id", "target", "required", "mode", "uid", "gid"),
}
_ALIASES = {"dst": "target", "destination": "target", "src": "source", "readonly": "ro", "readwrite": "rw"}
_SWITCHES = ("ro", "rw", "required")


def parse_mount(text: str) -> RunMount:
    """The mount that the flag's value describes."""
    values = _pairs(text)
    kind = values.pop("type", "bind")
    if kind not in _TYPES:
        raise ValueError(f"unsupported mount type {kind!r}: it must be one of {', '.join(_TYPES)}")
    for key in values:
        if key not in _KEYS[kind]:
            raise ValueError(f"unexpected key {key!r} for mount type {kind!r}: it takes {', '.join(_KEYS[kind])}")
    if kind in ("bind", "cache", "tmpfs") and not values.get("target"):
        raise ValueError(f"a mount of type {kind!r} needs a target")
    sharing = values.get("sharing", "shared")
    if sharing not in ("shared", "private", "locked"):
        raise ValueError(f"unsupported sharing value {sharing!r}: it must be shared, private or locked")
    read_only = kind in ("bind", "secret", "ssh")
    if "ro" in values:
        read_only = boolean(values["ro"], "ro")
    elif "rw" in values:
        read_only = not boolean(values["rw"], "rw")
    return RunMount(
        type=kind,
        target=values.get("target", ""),
        source=values.get("source", ""),
        from_=values.get("from", ""),
        id=values.get("id", ""),
        read_only=read_only,
        sharing=sharing,
        size=size(values["size"], "size") if "size" in values else None,
        mode=octal(values["mode"], "mode") if "mode" in values else None,
        uid=number(values.get("uid", "0"), "uid"),
        gid=number(values.get("gid", "0"), "gid"),
        required=boolean(values.get("required", "false"), "required"),
    )


def _pairs(text: str) -> dict[str, str]:
    try:
        fields = next(csv.reader([text], strict=True))
    except (csv.Error, StopIteration) as error:
        raise ValueError(f"invalid --mount value {text!r}: {error or 'it is empty'}") from None
    values: dict[str, str] = {}
    for field in fields:
        key, equals, value = field.partition("=")
        key = _ALIASES.get(key.strip().lower(), key.strip().lower())
        if not equals:
            if key not in _SWITCHES:
                raise ValueError(f"invalid field {field!r} in --mount: it must be a key=value pair")
            value = "true"
        if key in values:
            raise ValueError(f"the key {key!r} is given twice in --mount")
        values[key] = value
    return values
