"""Short forms of single attributes as long forms: ports, volumes, devices, environment, hosts and the like."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import Any

from berth.compose.units import parse_bool, parse_size
from berth.errors import InvalidArgument

_MODES = {
    "ro",
    "rw",
    "z",
    "Z",
    "nocopy",
    "copy",
    "cached",
    "delegated",
    "consistent",
    "rprivate",
    "private",
    "rshared",
    "shared",
    "rslave",
    "slave",
}
_PROPAGATION = {"rprivate", "private", "rshared", "shared", "rslave", "slave"}
_PORT = re.compile(
    r"(?:(?P<ip>\[[^\]]+\]|[^:]*):)??(?:(?P<published>\d*(?:-\d+)?):)?(?P<target>\d+(?:-\d+)?)(?:/(?P<protocol>[A-Za-z]+))?\Z"
)


def text(value: Any) -> str:
    """A scalar as text; booleans as YAML writes them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def text_list(value: Any) -> list[str]:
    """One text or a list of texts."""
    if value is None:
        return []
    return [text(item) for item in value] if isinstance(value, list) else [text(value)]


def mapping(value: Any) -> dict[str, str | None]:
    """A mapping, or a list of NAME=VALUE; None for a name without a value."""
    if value is None:
        return {}
    if isinstance(value, dict):
        return {str(key): None if item is None else text(item) for key, item in value.items()}
    found: dict[str, str | None] = {}
    for item in value:
        key, equals, rest = text(item).partition("=")
        found[key] = rest if equals else None
    return found


def text_mapping(value: Any) -> dict[str, str]:
    """As `mapping`, with empty texts for missing values."""
    return {key: item or "" for key, item in mapping(value).items()}


def command(value: Any) -> list[str] | None:
    """A command line: a text is split as a shell would, None stays None."""
    if value is None:
        return None
    if isinstance(value, list):
        return [text(item) for item in value]
    try:
        return shlex.split(str(value))
    except ValueError as error:
        raise InvalidArgument(f"invalid command line {value!r}: {error}") from error


def health_test(value: Any) -> list[str]:
    """A test: a text is run by the container's shell."""
    return ["CMD-SHELL", value] if isinstance(value, str) else [text(item) for item in value]


def ports(value: Any) -> list[dict[str, Any]]:
    """Ports, ranges unfolded."""
    found: list[dict[str, Any]] = []
    for item in value or []:
        found.extend(_long_port(item) if isinstance(item, dict) else _short_port(text(item)))
    return found


def _long_port(item: dict[str, Any]) -> list[dict[str, Any]]:
    if item.get("target") is None:
        raise InvalidArgument("invalid port: target is missing")
    port = {"mode": "ingress", "protocol": "tcp", **{key: v for key, v in item.items() if v is not None}}
    port["target"] = _port_number(item["target"])
    if "published" in port:
        port["published"] = text(port["published"])
        if not port["published"]:
            del port["published"]
    return [port]


def _short_port(item: str) -> list[dict[str, Any]]:
    match = _PORT.match(item)
    if not match:
        raise InvalidArgument(f"invalid port '{item}': write [[ip:][published]:]target[/protocol]")
    protocol = (match["protocol"] or "tcp").lower()
    if protocol not in ("tcp", "udp", "sctp"):
        raise InvalidArgument(f"invalid port '{item}': the protocol must be tcp, udp or sctp")
    targets = _range(match["target"], item)
    published = _range(match["published"], item) if match["published"] else []
    if published and len(published) != len(targets):
        if len(targets) > 1:
            raise InvalidArgument(f"invalid port '{item}': the ranges of published and target ports have different lengths")
        published_texts = [match["published"]]
    else:
        published_texts = [str(number) for number in published]
    found = []
    for index, target in enumerate(targets):
        port: dict[str, Any] = {"mode": "ingress", "target": target, "protocol": protocol}
        if published_texts:
            port["published"] = published_texts[index]
        if match["ip"]:
            port["host_ip"] = match["ip"].strip("[]")
        found.append(port)
    return found


def _range(value: str, item: str) -> list[int]:
    low, dash, high = value.partition("-")
    first = _port_number(low)
    last = _port_number(high) if dash else first
    if last < first:
        raise InvalidArgument(f"invalid port '{item}': the range runs backwards")
    return list(range(first, last + 1))


def _port_number(value: Any) -> int:
    try:
        number = int(value)
    except ValueError as error:
        raise InvalidArgument(f"invalid port number '{value}'") from error
    if not 0 <= number <= 65535:
        raise InvalidArgument(f"invalid port number {number}: the highest is 65535")
    return number


def volumes(value: Any) -> list[dict[str, Any]]:
    """Mounts. Whether a source is a path or a volume's name shows in how it begins."""
    return [_long_volume(item) if isinstance(item, dict) else _short_volume(text(item)) for item in value or []]


def _long_volume(item: dict[str, Any]) -> dict[str, Any]:
    if not item.get("type"):
        raise InvalidArgument("invalid volume: type is missing")
    if not item.get("target"):
        raise InvalidArgument("invalid volume: target is missing")
    if item["type"] == "bind" and not item.get("source"):
        raise InvalidArgument(f"invalid volume for {item['target']}: a bind mount needs a source")
    mount = {key: v for key, v in item.items() if v is not None}
    if "read_only" in mount:
        mount["read_only"] = parse_bool(mount["read_only"])
    if mount["type"] == "bind":
        bind = dict(mount.get("bind") or {})
        # The long form does not make a missing source, unless told to.
        bind["create_host_path"] = parse_bool(bind.get("create_host_path", True))
        mount["bind"] = bind
    if isinstance(mount.get("volume"), dict):
        volume = dict(mount["volume"])
        if "nocopy" in volume:
            volume["nocopy"] = parse_bool(volume["nocopy"])
        if "labels" in volume:
            volume["labels"] = text_mapping(volume["labels"])
        mount["volume"] = volume
    if isinstance(mount.get("tmpfs"), dict):
        tmpfs = dict(mount["tmpfs"])
        if "size" in tmpfs:
            tmpfs["size"] = parse_size(tmpfs["size"])
        if "mode" in tmpfs:
            tmpfs["mode"] = _mode(tmpfs["mode"])
        mount["tmpfs"] = tmpfs
    return mount


def _short_volume(item: str) -> dict[str, Any]:
    parts = item.split(":")
    if len(parts) > 3 or not all(parts):
        raise InvalidArgument(f"invalid volume '{item}': write [source:]target[:options]")
    if len(parts) == 1:
        return {"type": "volume", "target": parts[0]}
    options = parts[2].split(",") if len(parts) == 3 else []
    if len(parts) == 2 and not parts[1].startswith("/") and set(parts[1].split(",")) <= _MODES:
        return _with_options({"type": "volume", "target": parts[0]}, parts[1].split(","), item)
    source, target = parts[0], parts[1]
    is_path = source.startswith((".", "/", "~"))
    mount: dict[str, Any] = {"type": "bind" if is_path else "volume", "source": source, "target": target}
    if is_path:
        mount["bind"] = {"create_host_path": True}
    return _with_options(mount, options, item)


def _with_options(mount: dict[str, Any], options: list[str], item: str) -> dict[str, Any]:
    for option in options:
        if option not in _MODES:
            raise InvalidArgument(f"invalid volume '{item}': unknown option '{option}'")
        if option == "ro":
            mount["read_only"] = True
        elif option == "nocopy":
            mount["volume"] = {"nocopy": True}
        elif option in ("z", "Z") and mount["type"] == "bind":
            mount["bind"] = {**mount["bind"], "selinux": option}
        elif option in _PROPAGATION and mount["type"] == "bind":
            mount["bind"] = {**mount["bind"], "propagation": option}
    return mount


def devices(value: Any) -> list[dict[str, str]]:
    """Devices: SOURCE[:TARGET[:PERMISSIONS]], or a CDI name, which has no slash in front."""
    found = []
    for item in value or []:
        if isinstance(item, dict):
            source = text(item["source"])
            found.append(
                {
                    "source": source,
                    "target": text(item.get("target") or source),
                    "permissions": text(item.get("permissions") or "rwm"),
                }
            )
            continue
        parts = text(item).split(":")
        if len(parts) == 2 and re.fullmatch(r"[rwm]+", parts[1]):
            parts = [parts[0], parts[0], parts[1]]
        if len(parts) > 3 or not parts[0]:
            raise InvalidArgument(f"invalid device mapping '{item}'")
        found.append(
            {
                "source": parts[0],
                "target": parts[1] if len(parts) > 1 else parts[0],
                "permissions": parts[2] if len(parts) > 2 else "rwm",
            }
        )
    return found


def extra_hosts(value: Any) -> dict[str, list[str]]:
    """Host names with their addresses: a mapping, or a list of name=ip or name:ip."""
    found: dict[str, list[str]] = {}
    if isinstance(value, dict):
        return {str(name): text_list(addresses) for name, addresses in value.items()}
    for item in value or []:
        name, separator, address = text(item).partition("=")
        if not separator:
            name, separator, address = text(item).partition(":")
        if not separator or not name or not address:
            raise InvalidArgument(f"invalid additional host, missing IP: '{item}'")
        found.setdefault(name.strip(), []).append(address.strip().strip("[]"))
    return found


def file_references(value: Any) -> list[dict[str, Any]]:
    """Secrets or configs of a service."""
    found: list[dict[str, Any]] = []
    for item in value or []:
        reference = {key: v for key, v in item.items() if v is not None} if isinstance(item, dict) else {"source": text(item)}
        if "source" not in reference:
            raise InvalidArgument("source is missing")
        for key in ("uid", "gid"):
            if key in reference:
                reference[key] = text(reference[key])
        if "mode" in reference:
            reference["mode"] = _mode(reference["mode"])
        found.append(reference)
    return found


def _mode(value: Any) -> int:
    if isinstance(value, int):
        return value
    try:
        return int(str(value), 8)
    except ValueError as error:
        raise InvalidArgument(f"invalid file mode {value!r}: write it in octal digits") from error


def env_files(value: Any) -> list[dict[str, Any]]:
    """Environment files with whether they have to exist."""
    found = []
    for item in value if isinstance(value, list) else [value] if value is not None else []:
        entry = dict(item) if isinstance(item, dict) else {"path": text(item)}
        entry["required"] = parse_bool(entry.get("required", True))
        if entry.get("format") not in (None, "raw"):
            raise InvalidArgument(f"unsupported env_file format {entry['format']!r}: the only one is raw")
        found.append(entry)
    return found


def depends_on(value: Any) -> dict[str, dict[str, Any]]:
    """Dependencies with their conditions."""
    if isinstance(value, list):
        value = {name: {"condition": "service_started"} for name in value}
    found = {}
    for name, item in (value or {}).items():
        entry = dict(item or {})
        entry.setdefault("condition", "service_started")
        entry["required"] = parse_bool(entry.get("required", True))
        if "restart" in entry:
            entry["restart"] = parse_bool(entry["restart"])
        found[str(name)] = entry
    return found


def named(value: Any) -> dict[str, dict[str, Any]]:
    """Names with settings: a list of names, or a mapping whose values may be null."""
    if isinstance(value, list):
        return {text(name): {} for name in value}
    return {str(name): dict(item or {}) for name, item in (value or {}).items()}


def ulimits(value: Any) -> dict[str, dict[str, int]]:
    """Limits as soft and hard."""
    found = {}
    for name, item in (value or {}).items():
        if isinstance(item, dict):
            found[str(name)] = {"soft": int(item["soft"]), "hard": int(item["hard"])}
        else:
            found[str(name)] = {"soft": int(item), "hard": int(item)}
    return found


def block_io(value: Any) -> dict[str, Any]:
    """Block device limits, rates in bytes."""
    found: dict[str, Any] = {}
    for key, item in (value or {}).items():
        if key == "weight":
            found[key] = int(item)
        elif key == "weight_device":
            found[key] = [{"path": text(entry["path"]), "weight": int(entry["weight"])} for entry in item]
        else:
            found[key] = [{"path": text(entry["path"]), "rate": parse_size(entry["rate"])} for entry in item]
    return found


def integer(value: Any) -> int:
    """A whole number, or the text of one."""
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"invalid integer: {value!r}") from error


def number(value: Any) -> float:
    """A number, or the text of one."""
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"invalid number: {value!r}") from error


Transform = Callable[[Any], Any]
