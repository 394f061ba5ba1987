"""The `changes` of import and commit: Dockerfile instructions that touch the configuration only."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence

import msgspec

from berth.errors import InvalidArgument
from berth.model.malformed import MALFORMED
from berth.wire.container import ContainerConfig
from berth.wire.health import HealthConfig

_ESCAPED_NEWLINE = re.compile(r"\\\n[ \t]*")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_NANOSECONDS = {"ms": 1_000_000, "s": 1_000_000_000, "m": 60_000_000_000, "h": 3_600_000_000_000}
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?\Z")


def apply_changes(config: ContainerConfig, changes: Sequence[str]) -> None:
    """Change `config` in place. InvalidArgument names the instruction that is not valid."""
    for text in changes:
        for line in _ESCAPED_NEWLINE.sub(" ", text).splitlines():
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            name, _, rest = line.strip().partition(" ")
            handler = _INSTRUCTIONS.get(name.upper())
            if handler is None:
                known = ", ".join(sorted(_INSTRUCTIONS))
                raise InvalidArgument(f"{name} is not a valid change command: use one of {known}")
            if not rest.strip() and name.upper() not in ("CMD", "ENTRYPOINT"):
                raise InvalidArgument(f"{name.upper()} requires at least one argument")
            handler(config, rest.strip())


def words_or_shell(config: ContainerConfig, text: str) -> list[str]:
    """The exec form (a JSON list of strings) as it is, anything else for the shell."""
    if text.startswith("["):
        try:
            return msgspec.json.decode(text, type=list[str])
        except MALFORMED:
            pass
    return [*(config.shell or ["/bin/sh", "-c"]), text] if text else []


def _json_or_words(text: str) -> list[str]:
    if text.startswith("["):
        try:
            return msgspec.json.decode(text, type=list[str])
        except MALFORMED:
            pass
    return text.split()


def _pairs(text: str, instruction: str) -> list[tuple[str, str]]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidArgument(f"{instruction} {text}: {error}") from error
    if words and "=" not in words[0]:
        # The old form: a name, and the rest of the line.
        key, _, value = text.partition(" ")
        if not value.strip():
            raise InvalidArgument(f"{instruction} must have two arguments")
        return [(key, value.strip())]
    pairs = []
    for word in words:
        key, equals, value = word.partition("=")
        if not key:
            raise InvalidArgument(f"{instruction} names can not be blank")
        if not equals:
            raise InvalidArgument(f'Syntax error - can\'t find = in "{word}". Must be of the form: name=value')
        pairs.append((key, value))
    return pairs


def _cmd(config: ContainerConfig, text: str) -> None:
    config.cmd = words_or_shell(config, text)


def _entrypoint(config: ContainerConfig, text: str) -> None:
    config.entrypoint = words_or_shell(config, text) or None


def _env(config: ContainerConfig, text: str) -> None:
    env = list(config.env or [])
    for key, value in _pairs(text, "ENV"):
        env = [item for item in env if item.partition("=")[0] != key] + [f"{key}={value}"]
    config.env = env


def _label(config: ContainerConfig, text: str) -> None:
    config.labels = {**(config.labels or {}), **dict(_pairs(text, "LABEL"))}


def _expose(config: ContainerConfig, text: str) -> None:
    ports = dict(config.exposed_ports or {})
    for word in text.split():
        match = _PORT.match(word)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if match is None or not 0 < first <= last <= 65535:
            raise InvalidArgument(f"invalid containerPort: {word}")
        for port in range(first, last + 1):
            ports[f"{port}/{match[3] or 'tcp'}"] = {}
    config.exposed_ports = ports


def _user(config: ContainerConfig, text: str) -> None:
    config.user = text


def _workdir(config: ContainerConfig, text: str) -> None:
    config.working_dir = text if text.startswith("/") else f"{(config.working_dir or '/').rstrip('/')}/{text}"


def _volume(config: ContainerConfig, text: str) -> None:
    config.volumes = {**(config.volumes or {}), **{path: {} for path in _json_or_words(text)}}


def _onbuild(config: ContainerConfig, text: str) -> None:
    if text.split(maxsplit=1)[0].upper() in ("ONBUILD", "FROM", "MAINTAINER"):
        raise InvalidArgument(f"{text.split(maxsplit=1)[0].upper()} isn't allowed as an ONBUILD trigger")
    config.on_build = [*(config.on_build or []), text]


def _stopsignal(config: ContainerConfig, text: str) -> None:
    config.stop_signal = text


def _shell(config: ContainerConfig, text: str) -> None:
    if not text.startswith("["):
        raise InvalidArgument(f"SHELL requires the arguments to be in JSON form, not {text!r}")
    config.shell = _json_or_words(text)


def _healthcheck(config: ContainerConfig, text: str) -> None:
    health = HealthConfig()
    while text.startswith("--"):
        option, _, text = text.partition(" ")
        text = text.strip()
        name, _, value = option[2:].partition("=")
        if name == "retries" and value.isdecimal():
            health.retries = int(value)
        elif name in ("interval", "timeout", "start-period", "start-interval"):
            setattr(health, name.replace("-", "_"), _nanoseconds(value, name))
        else:
            raise InvalidArgument(f"HEALTHCHECK: unknown or invalid flag {option}")
    kind, _, rest = text.partition(" ")
    if kind.upper() == "NONE":
        health.test = ["NONE"]
    elif kind.upper() == "CMD" and rest.strip():
        rest = rest.strip()
        health.test = ["CMD", *_json_or_words(rest)] if rest.startswith("[") else ["CMD-SHELL", rest]
    else:
        raise InvalidArgument(f"Unknown type {kind!r} in HEALTHCHECK (try CMD)")
    config.healthcheck = health


def _nanoseconds(text: str, name: str) -> int:
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidArgument(f"HEALTHCHECK --{name}: invalid duration {text!r}")
    return int(sum(float(number) * _NANOSECONDS[unit] for number, unit in parts))


_INSTRUCTIONS: dict[str, Callable[[ContainerConfig, str], None]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "SHELL": _shell,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
