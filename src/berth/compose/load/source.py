"""Which files make the project, where it lies and what it is called."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from berth.compose.problem import ComposeInvalid
from berth.errors import InvalidArgument, NotFound

NAMES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
OVERRIDES = ("compose.override.yml", "compose.override.yaml", "docker-compose.override.yml", "docker-compose.override.yaml")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*\Z")


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What the user said about which project is meant. Relative paths start at `cwd`."""

    files: tuple[str, ...] = ()
    project_name: str | None = None
    project_directory: str | None = None
    profiles: tuple[str, ...] = ()
    env_files: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    cwd: str = field(default_factory=os.getcwd)


def find_files(options: LoadOptions, variables: Mapping[str, str]) -> tuple[str, ...]:
    """The files: those named, those of COMPOSE_FILE, else the usual names here and above. `-` is standard input."""
    named = options.files
    if not named and variables.get("COMPOSE_FILE"):
        separator = variables.get("COMPOSE_PATH_SEPARATOR") or os.pathsep
        named = tuple(part for part in variables["COMPOSE_FILE"].split(separator) if part)
    if named:
        files = tuple(
            name if name == "-" else os.path.normpath(os.path.join(options.cwd, os.path.expanduser(name))) for name in named
        )
        for file in files:
            if file != "-" and not os.path.isfile(file):
                raise NotFound(f"open {file}: no such file or directory")
        return files
    folder = os.path.join(options.cwd, options.project_directory or "")
    while True:
        found = _usual(folder)
        if found:
            return found
        above = os.path.dirname(os.path.normpath(folder))
        if above == os.path.normpath(folder):
            raise NotFound("no configuration file provided: not found (looked for " + ", ".join(NAMES) + " here and above)")
        folder = above


def _usual(folder: str) -> tuple[str, ...]:
    main = next((os.path.join(folder, name) for name in NAMES if os.path.isfile(os.path.join(folder, name))), None)
    if main is None:
        return ()
    main = os.path.normpath(main)
    override = next((os.path.join(folder, name) for name in OVERRIDES if os.path.isfile(os.path.join(folder, name))), None)
    return (main,) if override is None else (main, os.path.normpath(override))


def project_directory(options: LoadOptions, files: tuple[str, ...]) -> str:
    """The directory that relative paths start at."""
    if options.project_directory:
        return os.path.normpath(os.path.join(options.cwd, options.project_directory))
    return options.cwd if files[0] == "-" else os.path.dirname(files[0])


def project_name(options: LoadOptions, variables: Mapping[str, str], in_file: str | None, folder: str) -> str:
    """--project-name, COMPOSE_PROJECT_NAME, `name:` of the last file that has it, the directory's."""
    for name in (options.project_name, variables.get("COMPOSE_PROJECT_NAME"), in_file):
        if name:
            if not _NAME.match(name):
                raise InvalidArgument(
                    f'invalid project name "{name}": must consist only of lowercase alphanumeric characters, hyphens, '
                    "and underscores as well as start with a letter or number"
                )
            return name
    name = normalize_name(os.path.basename(os.path.realpath(folder)))
    if not name:
        raise ComposeInvalid("the project name must not be empty: give one with -p, or with `name:` in the file")
    return name


def normalize_name(name: str) -> str:
    """A directory's name as a project's: lower case, without what a name may not have."""
    return re.sub(r"[^-_a-z0-9]", "", name.lower()).lstrip("_-")
