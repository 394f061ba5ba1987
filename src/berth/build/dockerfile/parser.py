"""From logical lines to stages. Every error is a DockerfileError with the place in it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

from berth.build.dockerfile.error import DockerfileError, Location, Source
from berth.build.dockerfile.fields import Flags, duration, json_array, name_value_pairs, split_flags
from berth.build.dockerfile.instruction import (
    Arg,
    Command,
    Copy,
    Dockerfile,
    From,
    Healthcheck,
    Instruction,
    OnBuild,
    Pairs,
    Run,
    Shell,
    Stage,
    Value,
    Words,
)
from berth.build.dockerfile.lexer import LogicalLine, is_heredoc_word, lex, split_words
from berth.build.dockerfile.mount_flag import parse_mount
from berth.wire.health import HealthConfig

_STAGE_NAME = re.compile(r"[a-z][a-z0-9_.-]*\Z")
_RESERVED = ("scratch", "context")


def parse(text: str, name: str = "Dockerfile") -> Dockerfile:
    """The whole file. `name` is for messages."""
    source = Source(name, text)
    lexed = lex(source)
    if not lexed.lines:
        raise DockerfileError(f"the Dockerfile ({name}) cannot be empty: file with no instructions", Location(source, 1, 1))
    args: list[Arg] = []
    heads: list[tuple[From, list[Instruction]]] = []
    warnings = list(lexed.warnings)
    for line in lexed.lines:
        instruction = _instruction(line, lexed.escape)
        warnings.extend(_warnings(instruction))
        if isinstance(instruction, From):
            heads.append((instruction, []))
        elif heads:
            heads[-1][1].append(instruction)
        elif isinstance(instruction, Arg):
            args.append(instruction)
        else:
            raise DockerfileError(f"no build stage in current context: {line.keyword.upper()} before FROM", line.location)
    if not heads:
        raise DockerfileError("no build stage in the Dockerfile: it needs a FROM", lexed.lines[-1].location)
    stages = tuple(Stage(index, head, tuple(steps)) for index, (head, steps) in enumerate(heads))
    return Dockerfile(tuple(args), stages, lexed.escape, tuple(warnings))


def parse_trigger(text: str, image: str) -> Instruction:
    """The instruction of an ONBUILD trigger that came with an image."""
    source = Source(f"ONBUILD of {image}", text)
    lines = lex(source).lines
    if len(lines) != 1 or lines[0].keyword.upper() in ("FROM", "ONBUILD", "MAINTAINER"):
        raise DockerfileError(f"the image {image} has an ONBUILD trigger that is not allowed", Location(source, 1, 1))
    return _instruction(lines[0], "\\")


def _instruction(line: LogicalLine, escape: str) -> Instruction:
    keyword = line.keyword.upper()
    read = _READERS.get(keyword)
    if read is None:
        near = difflib.get_close_matches(keyword, _READERS, 1, 0.5)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise DockerfileError(f"unknown instruction: {line.keyword}{hint}", line.location)
    try:
        flags = split_flags(line.rest, escape) if keyword in _WITH_FLAGS else Flags((), line.rest.strip())
        flags.allow(*_WITH_FLAGS.get(keyword, ()))
        return read(_Parts(keyword, flags, line, escape))
    except ValueError as error:
        raise DockerfileError(str(error), line.location) from None


class _Parts:
    """What the readers work on."""

    def __init__(self, keyword: str, flags: Flags, line: LogicalLine, escape: str) -> None:
        self.keyword = keyword
        self.flags = flags
        self.rest = flags.rest
        self.line = line
        self.location = line.location
        self.escape = escape
        self.text = f"{keyword} {line.rest}".strip()

    def need(self) -> str:
        """The arguments, of which there must be one at least."""
        if not self.rest:
            raise ValueError(f"{self.keyword} requires at least one argument")
        return self.rest


def _from(parts: _Parts) -> From:
    words = parts.need().split()
    if len(words) not in (1, 3) or (len(words) == 3 and words[1].lower() != "as"):
        raise ValueError("FROM requires either one or three arguments: FROM image [AS name]")
    name = words[2].lower() if len(words) == 3 else ""
    if name and not _STAGE_NAME.match(name):
        raise ValueError(f'invalid name for build stage: "{words[2]}", name can\'t start with a number or contain symbols')
    if name in _RESERVED:
        raise ValueError(f'invalid name for build stage: "{words[2]}", the name is reserved')
    return From(location=parts.location, text=parts.text, image=words[0], name=name, platform=parts.flags.one("platform"))


def _run(parts: _Parts) -> Run:
    array = json_array(parts.rest)
    heredocs = parts.line.heredocs
    if array is None and not parts.rest:
        parts.need()
    if array == ():
        raise ValueError("RUN requires at least one argument: the array is empty")
    network = parts.flags.one("network")
    if network not in ("", "default", "none", "host"):
        raise ValueError(f"unsupported network mode {network!r}: it must be default, none or host")
    security = parts.flags.one("security")
    if security not in ("", "sandbox"):
        raise ValueError(f"unsupported security mode {security!r}: only sandbox is available")
    return Run(
        location=parts.location,
        text=parts.text,
        command=array if array is not None else (parts.rest,),
        shell=array is None,
        heredocs=heredocs,
        mounts=tuple(parse_mount(value) for value in parts.flags.many("mount")),
        network=network,
        script=len(heredocs) == 1 and array is None and is_heredoc_word(parts.rest),
    )


def _command(parts: _Parts) -> Command:
    array = json_array(parts.rest)
    command = array if array is not None else (parts.rest,) if parts.rest else ()
    return Command(
        location=parts.location, text=parts.text, keyword=parts.keyword, command=command, shell=array is None and bool(parts.rest)
    )


def _copy(parts: _Parts) -> Copy:
    array = json_array(parts.rest)
    words = array if array is not None else tuple(split_words(parts.rest, parts.escape))
    if len(words) < 2:
        raise ValueError(
            f"{parts.keyword} requires at least two arguments, but only {len(words)} was provided. "
            "Destination could not be determined"
        )
    flags = parts.flags
    checksum = flags.one("checksum")
    if checksum and not re.fullmatch(r"sha256:[0-9a-f]{64}", checksum):
        raise ValueError(f"invalid --checksum {checksum!r}: it must be sha256: and 64 hex digits")
    flags.switch("link")
    if flags.switch("keep-git-dir"):
        raise ValueError("--keep-git-dir is not supported: git sources are not")
    return Copy(
        location=parts.location,
        text=parts.text,
        keyword=parts.keyword,
        sources=words[:-1],
        destination=words[-1],
        heredocs=parts.line.heredocs,
        from_=flags.one("from"),
        chown=flags.one("chown"),
        chmod=flags.one("chmod"),
        exclude=flags.many("exclude"),
        parents=bool(flags.switch("parents")),
        checksum=checksum,
        unpack=flags.switch("unpack"),
    )


def _pairs(parts: _Parts) -> Pairs:
    pairs, legacy = name_value_pairs(parts.need(), parts.keyword, parts.escape)
    return Pairs(location=parts.location, text=parts.text, keyword=parts.keyword, pairs=pairs, legacy=legacy)


def _arg(parts: _Parts) -> Arg:
    found: list[tuple[str, str | None]] = []
    parts.need()
    for word in split_words(parts.rest, parts.escape):
        name, equals, value = word.partition("=")
        if not name:
            raise ValueError("ARG names can not be blank")
        found.append((name, value if equals else None))
    return Arg(location=parts.location, text=parts.text, args=tuple(found))


def _words(parts: _Parts) -> Words:
    array = json_array(parts.need()) if parts.keyword == "VOLUME" else None
    words = array if array is not None else tuple(split_words(parts.rest, parts.escape))
    if not words or any(not word.strip() for word in words):
        raise ValueError(f"{parts.keyword} requires at least one argument, and none may be empty")
    return Words(location=parts.location, text=parts.text, keyword=parts.keyword, words=words, quoted=array is not None)


def _value(parts: _Parts) -> Value:
    value = parts.need()
    if parts.keyword in ("USER", "STOPSIGNAL") and len(split_words(value, parts.escape)) != 1:
        raise ValueError(f"{parts.keyword} requires exactly one argument")
    return Value(location=parts.location, text=parts.text, keyword=parts.keyword, value=value)


def _shell(parts: _Parts) -> Shell:
    array = json_array(parts.rest)
    if not array:
        raise ValueError('SHELL requires the arguments to be in JSON form: SHELL ["executable", "argument"]')
    return Shell(location=parts.location, text=parts.text, command=array)


def _healthcheck(parts: _Parts) -> Healthcheck:
    kind, _, rest = parts.need().partition(" ")
    rest = rest.strip()
    health = HealthConfig()
    if kind.upper() == "NONE":
        if rest:
            raise ValueError("HEALTHCHECK NONE takes no arguments")
        health.test = ["NONE"]
    elif kind.upper() == "CMD":
        array = json_array(rest)
        if not rest or array == ():
            raise ValueError("Missing command after HEALTHCHECK CMD")
        health.test = ["CMD", *array] if array is not None else ["CMD-SHELL", rest]
    else:
        raise ValueError(f"Unknown type {kind!r} in HEALTHCHECK (try CMD)")
    flags = parts.flags
    for name in ("interval", "timeout", "start-period", "start-interval"):
        text = flags.one(name)
        if text:
            setattr(health, name.replace("-", "_"), duration(text, f"--{name}"))
    retries = flags.one("retries")
    if retries:
        if not re.fullmatch(r"[0-9]{1,9}", retries):
            raise ValueError(f"--retries must be a number that is not negative, not {retries!r}")
        health.retries = int(retries)
    return Healthcheck(location=parts.location, text=parts.text, health=health)


def _onbuild(parts: _Parts) -> OnBuild:
    trigger = parts.need()
    keyword = trigger.split(None, 1)[0].upper()
    if keyword == "ONBUILD":
        raise ValueError("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if keyword in ("FROM", "MAINTAINER"):
        raise ValueError(f"{keyword} isn't allowed as an ONBUILD trigger")
    body = "".join(f"\n{doc.content}{doc.name}" for doc in parts.line.heredocs)
    _instruction(LogicalLine(keyword, trigger[len(keyword) :].strip(), parts.location, parts.line.heredocs), parts.escape)
    return OnBuild(location=parts.location, text=parts.text, trigger=trigger + body)


def _warnings(instruction: Instruction) -> list[str]:
    """What is allowed and still worth a line."""
    place = f"{instruction.location.source.name}:{instruction.location.start}"
    found = []
    if isinstance(instruction, Value) and instruction.keyword == "MAINTAINER":
        found.append(f"{place}: MAINTAINER is deprecated: use LABEL org.opencontainers.image.authors=...")
    if isinstance(instruction, Pairs) and instruction.legacy:
        found.append(f'{place}: "{instruction.keyword} key=value" should be used instead of "{instruction.keyword} key value"')
    if isinstance(instruction, Run | Command) and instruction.shell and instruction.command[0].startswith("["):
        found.append(f"{place}: the arguments look like a JSON array and are not one (use double quotes): the shell gets them")
    return found


_COPY_FLAGS = ("chown", "chmod", "link", "exclude")
_WITH_FLAGS: dict[str, tuple[str, ...]] = {
    "FROM": ("platform",),
    "RUN": ("mount", "network", "security"),
    "COPY": (*_COPY_FLAGS, "from", "parents"),
    "ADD": (*_COPY_FLAGS, "checksum", "unpack", "keep-git-dir"),
    "HEALTHCHECK": ("interval", "timeout", "start-period", "start-interval", "retries"),
}
_READERS: dict[str, Callable[[_Parts], Instruction]] = {
    "FROM": _from,
    "RUN": _run,
    "CMD": _command,
    "ENTRYPOINT": _command,
    "COPY": _copy,
    "ADD": _copy,
    "ENV": _pairs,
    "LABEL": _pairs,
    "ARG": _arg,
    "EXPOSE": _words,
    "VOLUME": _words,
    "USER": _value,
    "WORKDIR": _value,
    "STOPSIGNAL": _value,
    "MAINTAINER": _value,
    "SHELL": _shell,
    "HEALTHCHECK": _healthcheck,
    "ONBUILD": _onbuild,
}
