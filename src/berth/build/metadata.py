"""Instructions that only change the configuration, as one pure function: configuration in, configuration and history text out."""

from __future__ import annotations

import json
import posixpath
import re
import signal
from collections.abc import Callable

from msgspec.structs import replace

from berth.build.dockerfile.error import StepError
from berth.build.dockerfile.expansion import ExpansionError, expand_words
from berth.build.dockerfile.instruction import (
    Arg,
    Command,
    Healthcheck,
    Instruction,
    OnBuild,
    Pairs,
    Shell,
    Value,
    Words,
)
from berth.build.scope import Scope
from berth.build.state import DEFAULT_SHELL
from berth.wire.container import ContainerConfig

Changed = tuple[ContainerConfig, str]

_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?\Z", re.IGNORECASE)


def apply(config: ContainerConfig, instruction: Instruction, scope: Scope, *, command_set: bool) -> Changed:
    """The new configuration, and what the history says. `command_set`: this stage had a CMD of its own before.

    WORKDIR only changes the configuration here. StepError for what cannot be carried out.
    """
    env = config.env or []
    try:
        match instruction:
            case Arg():
                return config, f"ARG {scope.declare(instruction, env)}"
            case Pairs(keyword="ENV"):
                return _env(config, instruction, scope)
            case Pairs():
                return _label(config, instruction, scope)
            case Command():
                return _command(config, instruction, command_set)
            case Words():
                return _words(config, instruction, scope)
            case Value():
                return _VALUES[instruction.keyword](config, scope.expand(instruction.value, env))
            case Shell():
                return replace(config, shell=list(instruction.command)), f"SHELL [{' '.join(instruction.command)}]"
            case Healthcheck():
                health = instruction.health
                return replace(config, healthcheck=health), f"HEALTHCHECK {json.dumps(health.test)}"
            case OnBuild():
                triggers = [*(config.on_build or ()), instruction.trigger]
                return replace(config, on_build=triggers), f"ONBUILD {instruction.trigger}"
    except ExpansionError as error:
        raise StepError(f"failed to process {instruction.text!r}: {error}", instruction.location) from None
    except ValueError as error:
        raise StepError(str(error), instruction.location) from None
    raise AssertionError(f"not a metadata instruction: {instruction.text}")


def set_env(env: list[str] | None, name: str, value: str) -> list[str]:
    """The environment with one variable set, in its old place if it had one."""
    result = list(env or ())
    for index, entry in enumerate(result):
        if entry.partition("=")[0] == name:
            result[index] = f"{name}={value}"
            return result
    result.append(f"{name}={value}")
    return result


def workdir(config: ContainerConfig, path: str) -> str:
    """The absolute form of a WORKDIR, relative to the one before."""
    joined = posixpath.normpath(posixpath.join("/", config.working_dir or "/", path))
    return "/" + joined.lstrip("/")


def _env(config: ContainerConfig, instruction: Pairs, scope: Scope) -> Changed:
    before = config.env or []
    after, texts = list(before), []
    for raw_name, raw_value in instruction.pairs:
        name = scope.expand(raw_name, before)
        value = scope.expand(raw_value, before)
        if not name:
            raise ValueError("ENV names can not be blank")
        after = set_env(after, name, value)
        texts.append(f"{name}={value}")
    return replace(config, env=after), f"ENV {' '.join(texts)}"


def _label(config: ContainerConfig, instruction: Pairs, scope: Scope) -> Changed:
    env = config.env or []
    labels, texts = dict(config.labels or {}), []
    for raw_name, raw_value in instruction.pairs:
        name, value = scope.expand(raw_name, env), scope.expand(raw_value, env)
        if not name:
            raise ValueError("LABEL names can not be blank")
        labels[name] = value
        texts.append(f"{name}={value}")
    return replace(config, labels=labels), f"LABEL {' '.join(texts)}"


def _command(config: ContainerConfig, instruction: Command, command_set: bool) -> Changed:
    shell = tuple(config.shell or DEFAULT_SHELL)
    command = [*shell, *instruction.command] if instruction.shell else list(instruction.command)
    text = f"{instruction.keyword} {json.dumps(command, ensure_ascii=False)}"
    if instruction.keyword == "CMD":
        return replace(config, cmd=command), text
    return replace(config, entrypoint=command, cmd=config.cmd if command_set else None), text


def _words(config: ContainerConfig, instruction: Words, scope: Scope) -> Changed:
    variables = scope.variables(config.env or [])
    words: list[str] = []
    for word in instruction.words:
        if instruction.quoted:
            words.append(scope.expand(word, config.env or []))
        else:
            words.extend(expand_words(word, variables, scope.escape))
    if instruction.keyword == "EXPOSE":
        ports = dict(config.exposed_ports or {})
        for word in words:
            ports.update({port: {} for port in exposed(word)})
        return replace(config, exposed_ports=ports), f"EXPOSE {' '.join(words)}"
    if any(not word for word in words):
        raise ValueError("VOLUME specified can not be an empty string")
    volumes = dict(config.volumes or {}) | {word: {} for word in words}
    return replace(config, volumes=volumes), f"VOLUME [{' '.join(words)}]"


def exposed(word: str) -> list[str]:
    """The ports of one word of EXPOSE: 80, 80/udp, 8000-8010/tcp. ValueError."""
    match = _PORT.match(word)
    if match is None:
        raise ValueError(f"invalid containerPort: {word!r}: EXPOSE takes port[/protocol] or first-last[/protocol]")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 0 < first <= last <= 65535:
        raise ValueError(f"invalid range format for --expose: {word!r}: ports are from 1 to 65535, and the first comes first")
    return [f"{port}/{(match[3] or 'tcp').lower()}" for port in range(first, last + 1)]


def _user(config: ContainerConfig, value: str) -> Changed:
    if not value:
        raise ValueError("USER requires a name or an id: the variable in it is empty")
    return replace(config, user=value), f"USER {value}"


def _workdir(config: ContainerConfig, value: str) -> Changed:
    if not value:
        raise ValueError("WORKDIR requires a path: the variable in it is empty")
    path = workdir(config, value)
    return replace(config, working_dir=path), f"WORKDIR {path}"


def _stop_signal(config: ContainerConfig, value: str) -> Changed:
    name = value.upper().removeprefix("SIG")
    known = name in {item.name.removeprefix("SIG") for item in signal.Signals} or name.startswith("RTM")
    if not known and not (value.isdigit() and 0 < int(value) <= 64):
        raise ValueError(f"Invalid signal: {value}")
    return replace(config, stop_signal=value), f"STOPSIGNAL {value}"


def _maintainer(config: ContainerConfig, value: str) -> Changed:
    return config, f"MAINTAINER {value}"


_VALUES: dict[str, Callable[[ContainerConfig, str], Changed]] = {
    "USER": _user,
    "WORKDIR": _workdir,
    "STOPSIGNAL": _stop_signal,
    "MAINTAINER": _maintainer,
}
