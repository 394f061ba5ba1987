"""The instructions of a Dockerfile as values. Words are as written: variables are replaced when it is carried out."""

from __future__ import annotations

from dataclasses import dataclass

from berth.build.dockerfile.error import Location
from berth.build.dockerfile.lexer import Heredoc
from berth.wire.health import HealthConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """`text` is the instruction in one line, for the step's headline, `ONBUILD` and messages."""

    location: Location
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class From(Instruction):
    """`name` is lower case, empty without AS."""

    image: str
    name: str = ""
    platform: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMount:
    """--mount of RUN. `uid`, `gid` and `mode` are for caches; `sharing` is shared, private or locked."""

    type: str = "bind"
    target: str = ""
    source: str = ""
    from_: str = ""
    id: str = ""
    read_only: bool = True
    sharing: str = "shared"
    size: int | None = None
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Instruction):
    """`command` has one element in shell form. `script`: a here-document is the whole command."""

    command: tuple[str, ...]
    shell: bool
    heredocs: tuple[Heredoc, ...] = ()
    mounts: tuple[RunMount, ...] = ()
    network: str = ""
    script: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Command(Instruction):
    """CMD, or ENTRYPOINT."""

    keyword: str
    command: tuple[str, ...]
    shell: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Instruction):
    """COPY, or ADD. Sources may be names of `heredocs` (`<<name`)."""

    keyword: str
    sources: tuple[str, ...]
    destination: str
    heredocs: tuple[Heredoc, ...] = ()
    from_: str = ""
    chown: str = ""
    chmod: str = ""
    exclude: tuple[str, ...] = ()
    parents: bool = False
    checksum: str = ""
    unpack: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs(Instruction):
    """ENV, or LABEL: keys and values as written. `legacy`: `ENV name the rest`."""

    keyword: str
    pairs: tuple[tuple[str, str], ...]
    legacy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg(Instruction):
    """ARG: names with a default, or None."""

    args: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Words(Instruction):
    """EXPOSE or VOLUME: words; `quoted` ones came as a JSON array and are not split again."""

    keyword: str
    words: tuple[str, ...]
    quoted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Value(Instruction):
    """USER, WORKDIR, STOPSIGNAL or MAINTAINER: one value."""

    keyword: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell(Instruction):
    """SHELL."""

    command: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthcheck(Instruction):
    """HEALTHCHECK, complete."""

    health: HealthConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class OnBuild(Instruction):
    """ONBUILD: an instruction for those who build on this image, as text with its here-documents."""

    trigger: str


@dataclass(frozen=True, slots=True)
class Stage:
    """`index` from 0; `name` lower case, empty without AS."""

    index: int
    base: From
    steps: tuple[Instruction, ...]

    @property
    def name(self) -> str:
        """The name that it was given, or empty."""
        return self.base.name


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """`args` are the ARG instructions before the first FROM."""

    args: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    escape: str
    warnings: tuple[str, ...]
