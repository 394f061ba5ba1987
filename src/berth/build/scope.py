"""Which variables an instruction sees: build arguments that were declared, and the environment of the image."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from berth.build.dockerfile.expansion import ExpansionError, expand
from berth.build.dockerfile.instruction import Arg

PREDEFINED = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
"""Build arguments that RUN gets without ARG, upper and lower case, and that are in no history and no cache key."""

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386", "riscv64": "riscv64", "ppc64le": "ppc64le"}


def host_architecture() -> str:
    """Go's name of this machine's architecture."""
    return _MACHINES.get(platform.machine(), platform.machine())


def platform_arguments(wanted: str) -> dict[str, str]:
    """TARGETPLATFORM, BUILDPLATFORM and their parts. `wanted` is os/architecture[/variant], or empty for the host's own."""
    found: dict[str, str] = {}
    own = f"linux/{host_architecture()}"
    for prefix, value in (("TARGET", wanted or own), ("BUILD", own)):
        system, _, rest = value.partition("/")
        architecture, _, variant = rest.partition("/")
        found |= {f"{prefix}PLATFORM": value, f"{prefix}OS": system, f"{prefix}ARCH": architecture, f"{prefix}VARIANT": variant}
    return found


@dataclass(slots=True)
class Scope:
    """`given` are the build arguments of the request, `inherited` those before the first FROM, `platform` the automatic ones.
    `declared` grows with each ARG; None is declared without a value."""

    given: Mapping[str, str]
    inherited: Mapping[str, str | None]
    platform: Mapping[str, str]
    escape: str = "\\"
    declared: dict[str, str | None] = field(default_factory=dict)

    def declare(self, arg: Arg, env: Iterable[str]) -> str:
        """Carry out ARG; the text for the history, with defaults and without given values. ExpansionError."""
        texts = []
        for raw_name, raw_default in arg.args:
            name = self.expand(raw_name, env)
            default = self.expand(raw_default, env) if raw_default is not None else None
            texts.append(name if default is None else f"{name}={default}")
            if name in self.given:
                value: str | None = self.given[name]
            elif default is not None:
                value = default
            else:
                value = self.inherited.get(name, self.platform.get(name))
            self.declared[name] = value
        return " ".join(texts)

    def variables(self, env: Iterable[str]) -> dict[str, str]:
        """Arguments with a value, overridden by the environment."""
        found = {name: value for name, value in self.declared.items() if value is not None}
        for entry in env:
            name, _, value = entry.partition("=")
            found[name] = value
        return found

    def expand(self, text: str, env: Iterable[str]) -> str:
        """Variables replaced and quotes removed. ExpansionError."""
        return expand(text, self.variables(env), self.escape)

    def run_arguments(self, env: Iterable[str]) -> list[str]:
        """NAME=value of the declared arguments that the environment does not override, sorted: part of a RUN step's identity."""
        names = {entry.partition("=")[0] for entry in env}
        return sorted(
            f"{name}={value}"
            for name, value in self.declared.items()
            if value is not None and name not in names and name.upper() not in PREDEFINED
        )

    def proxies(self) -> list[str]:
        """NAME=value of the predefined arguments of the request."""
        return sorted(f"{name}={value}" for name, value in self.given.items() if name.upper() in PREDEFINED)


def global_arguments(args: Iterable[Arg], given: Mapping[str, str], wanted_platform: str, escape: str) -> dict[str, str | None]:
    """The arguments before the first FROM. They count in FROM, and in stages that declare them again. ExpansionError."""
    automatic = platform_arguments(wanted_platform)
    found: dict[str, str | None] = {}
    for arg in args:
        for name, default in arg.args:
            seen = automatic | {key: value for key, value in found.items() if value is not None}
            if name in given:
                found[name] = given[name]
            elif default is not None:
                found[name] = expand(default, seen, escape)
            else:
                found[name] = automatic.get(name)
    return found


__all__ = ["PREDEFINED", "ExpansionError", "Scope", "global_arguments", "host_architecture", "platform_arguments"]
