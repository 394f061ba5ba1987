"""What the docker CLI's cases need around them: images on the engine, registries on the loopback."""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.engine import busybox_tar
from support.registry import registry


def cli_version() -> str:
    """What the docker CLI calls itself."""
    return subprocess.run(["docker", "--version"], capture_output=True, text=True, check=True).stdout.strip()


def prepare(host: str) -> None:
    """Import the image that all cases use, and start what comes with an engine's first container."""
    image = ["import", "-c", 'CMD ["sh"]', "-", "busybox"]
    for arguments, data in ((image, busybox_tar()), (["run", "--rm", "busybox", "true"], b"")):
        subprocess.run(["docker", "-H", host, *arguments], input=data, check=True, capture_output=True)


@contextlib.contextmanager
def surroundings() -> Iterator[tuple[list[tuple[str, str]], dict[str, str]]]:
    """Two registries, one with the account me:secret. Yields (what is to be hidden, the steps' environment: $R and $RP)."""
    folder = Path(tempfile.mkdtemp(prefix="cli-cases-"))
    try:
        with registry(folder / "open") as open_one, registry(folder / "closed", password="secret") as closed:
            yield [(open_one, "<registry>"), (closed, "<private>")], {"R": open_one, "RP": closed}
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)


@dataclass(frozen=True)
class Command:
    """A command of the docker CLI: its flags, each in its short and long form, and all names it goes by."""

    flags: tuple[tuple[str, ...], ...]
    names: frozenset[str]


def commands() -> dict[str, Command]:
    """Every command of the docker CLI without plugins, by its words. create has all flags of run, and the same effects."""
    found: dict[str, Command] = {}

    def visit(path: tuple[str, ...]) -> None:
        text = subprocess.run(["docker", *path, "--help"], capture_output=True, text=True, check=True).stdout
        parts = re.findall(r"^(?:[A-Z][a-z]+ )?Commands:\n((?:  .*\n)+)", text, re.MULTILINE)
        inner = [name.rstrip("*") for part in parts for name in re.findall(r"^  (\S+) +\S", part, re.MULTILINE)]
        for name in inner:
            visit((*path, name))
        if inner or not path:
            return
        flags = re.findall(r"^ +(?:(-[A-Za-z0-9]), )?(--[a-z0-9-]+)", text, re.MULTILINE)
        aliases = re.search(r"^Aliases:\n +(.*)$", text, re.MULTILINE)
        names = {name.strip().removeprefix("docker ") for name in (aliases[1] if aliases else "").split(",")} - {""}
        names |= {" ".join(path)}
        if path[-1] in ("create", "run") and path[0] in ("create", "run", "container"):
            names |= {"create", "run", "container create", "container run"}
        found[" ".join(path)] = Command(
            tuple(tuple(filter(None, pair)) for pair in flags if pair[1] != "--help"), frozenset(names)
        )

    visit(())
    return found
