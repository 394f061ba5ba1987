"""AppArmor's default profile: whether it is loaded, and loading it with AppArmor's own compiler.

The name is Docker's, since clients and files name it. Whoever loaded a profile of that name, Docker or an administrator with
rules of his own, is right: it is not replaced. It stays when the engine ends, as the containers do.
"""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from importlib.resources import files

from berth.errors import Unavailable
from berth.kernel.file import read_text
from berth.runtime.label import apparmor_enabled

DEFAULT_PROFILE = "docker-default"
_LOADED = "/sys/kernel/security/apparmor/profiles"
_PARSER = "apparmor_parser"
_SECONDS = 60
_ADVICE = "or start the container with --security-opt apparmor=unconfined"


def is_loaded(name: str = DEFAULT_PROFILE) -> bool:
    """Whether the kernel has a profile of this name."""
    try:
        return any(line.startswith(f"{name} (") for line in read_text(_LOADED).splitlines())
    except OSError:
        return False


def text(name: str, engine: str) -> str:
    """The default profile. `engine` is the profile that the engine itself is under, or unconfined."""
    body = _template().partition("\nprofile ")
    return body[1] + body[2].replace('"NAME"', f'"{name}"').replace('"ENGINE"', f'"{engine}"')


def ensure(profile: str | None = DEFAULT_PROFILE) -> None:
    """Load the default profile where it is asked for and missing. Blocking. Unavailable says what to do if it cannot be."""
    if profile != DEFAULT_PROFILE or not apparmor_enabled() or is_loaded():
        return
    failed = f"AppArmor enabled on system but the {DEFAULT_PROFILE} profile could not be loaded: "
    parser = shutil.which(_PARSER) or shutil.which(_PARSER, path="/usr/sbin:/sbin")
    if parser is None:
        raise Unavailable(f"{failed}{_PARSER} is not installed: install the package apparmor, {_ADVICE}")
    try:
        done = subprocess.run(
            [parser, "--replace", "--skip-cache"],
            input=text(DEFAULT_PROFILE, _own_profile()).encode(), capture_output=True, timeout=_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{failed}{error}: mend that, {_ADVICE}") from error
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip() or f"{_PARSER} ended with {done.returncode}"
        raise Unavailable(f"{failed}{reason}: mend that, {_ADVICE}")


@cache
def _template() -> str:
    return (files("berth.runtime") / "data" / "apparmor.profile").read_text(encoding="utf-8")


def _own_profile() -> str:
    """As `docker-default (enforce)` or `unconfined`, without the mode."""
    for name in ("apparmor/current", "current"):
        try:
            return read_text(f"/proc/self/attr/{name}").rstrip("\0\n").partition(" (")[0] or "unconfined"
        except OSError:
            continue
    return "unconfined"
