"""The runtimes that a container can ask for: berth's own, and the binaries of others that drive an OCI bundle.

Names are those of `--add-runtime NAME=PATH`, and well-known binaries that are found on PATH when they are asked for.
"""

from __future__ import annotations

import os
import shutil

from berth.engine.config import EngineConfig
from berth.errors import InvalidArgument

NATIVE = "berth"
# Clients name Docker's default runtime in either way; here both mean the engine's own, unless there is a runc to mean.
_OWN_NAMES = ("", NATIVE, "io.containerd.runc.v2")
_DOCKERS_DEFAULT = "runc"
_WELL_KNOWN = ("runc", "crun", "runsc", "youki", "kata-runtime")
# A service's PATH often lacks the directories that a package manager puts such binaries into.
_SEARCHED = (os.defpath, "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/sbin")


def available(config: EngineConfig) -> dict[str, str]:
    """Names and paths of the binaries that can be had at present, without berth's own."""
    search = ":".join((os.environ.get("PATH", ""), *_SEARCHED))
    found = {name: path for name in _WELL_KNOWN if (path := shutil.which(name, path=search))}
    return found | config.runtimes


def binary(config: EngineConfig, name: str) -> str:
    """The path of the binary that the name stands for; empty for berth's own. InvalidArgument for an unknown name."""
    if name in _OWN_NAMES:
        return ""
    path = available(config).get(name)
    if path is None and name != _DOCKERS_DEFAULT:
        raise InvalidArgument(f"unknown or invalid runtime name: {name}")
    return path or ""


def check_default(config: EngineConfig) -> None:
    """InvalidArgument when the engine's default runtime does not exist."""
    try:
        binary(config, config.default_runtime)
    except InvalidArgument:
        raise InvalidArgument(
            f'specified default runtime "{config.default_runtime}" does not exist: add it with --add-runtime NAME=PATH'
        ) from None


def parse_additions(options: list[str]) -> dict[str, str]:
    """`--add-runtime NAME=PATH`. InvalidArgument for another form, or a name that berth keeps for its own."""
    found: dict[str, str] = {}
    for option in options:
        name, equals, path = option.partition("=")
        if not name or not equals or not path.startswith("/"):
            raise InvalidArgument(f"invalid runtime {option!r}: the format is NAME=PATH, with an absolute path")
        if name in _OWN_NAMES:
            raise InvalidArgument(f"runtime name {name} is reserved: choose another name")
        found[name] = path
    return found
