"""Environment files: `.env` of a project and `env_file` of a service.

NAME=value        # a comment needs a space before it
export NAME=value
NAME='as it is'   NAME="with \\n escapes and ${VARIABLES}"   quoted values may span lines
NAME              taken from the surrounding environment
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path as FilePath

from berth.compose.load.interpolate import InterpolationFailed, expand
from berth.compose.problem import ComposeInvalid, Mark

_KEY = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_.\-\[\]]*)[ \t]*")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$$", "'": "'"}


def read_env_file(path: str, variables: Mapping[str, str], *, raw: bool = False) -> dict[str, str | None]:
    """A file's variables; None for a name without a value. `raw` takes values as they are written."""
    try:
        text = FilePath(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ComposeInvalid(f"env file {path} not found: create it, or mark it with `required: false`") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ComposeInvalid(f"env file {path} cannot be read: {error}") from error
    if raw:
        return _raw(text)
    return parse_env(text, variables, path)


def parse_env(text: str, variables: Mapping[str, str], file: str) -> dict[str, str | None]:
    """Variables of an environment file's text. Earlier ones may be used in later ones; `variables` win over them there."""
    found: dict[str, str | None] = {}
    at, line = 0, 1
    while at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        if not text[at:end].strip() or text[at:end].lstrip().startswith("#"):
            at, line = end + 1, line + 1
            continue
        match = _KEY.match(text, at, end)
        if not match:
            raise ComposeInvalid(f"unexpected character in variable name: {text[at:end].strip()!r}", Mark(file, line))
        key, after = match.group(1), match.end()
        if after >= end or text[after] == "#":
            found[key] = None
            at, line = end + 1, line + 1
            continue
        if text[after] not in "=:":
            raise ComposeInvalid(f"unexpected character {text[after]!r} after variable name {key}", Mark(file, line))
        known = {**{k: v for k, v in found.items() if v is not None}, **variables}
        try:
            value, stop = _value(text, after + 1, known)
        except InterpolationFailed as error:
            raise ComposeInvalid(str(error), Mark(file, line)) from error
        found[key] = value
        line += text.count("\n", at, stop) + 1
        at = stop + 1
    return found


def _value(text: str, at: int, variables: Mapping[str, str]) -> tuple[str, int]:
    while at < len(text) and text[at] in " \t":
        at += 1
    if at < len(text) and text[at] in "'\"":
        return _quoted(text, at, variables)
    end = text.find("\n", at)
    end = len(text) if end < 0 else end
    value = re.split(r"(?:^|\s)#", text[at:end].rstrip("\r"), maxsplit=1)[0].strip()
    return expand(value, variables), end


def _quoted(text: str, at: int, variables: Mapping[str, str]) -> tuple[str, int]:
    quote, out = text[at], []
    at += 1
    while at < len(text) and text[at] != quote:
        if text[at] == "\\" and at + 1 < len(text):
            following = text[at + 1]
            if quote == '"':
                out.append(_ESCAPES.get(following, "\\" + following))
            else:
                out.append(following if following == "'" else "\\" + following)
            at += 2
            continue
        out.append(text[at])
        at += 1
    if at >= len(text):
        raise InterpolationFailed("unterminated quoted value")
    value = "".join(out)
    end = text.find("\n", at)
    return (expand(value, variables) if quote == '"' else value), len(text) if end < 0 else end


def _raw(text: str) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            key, equals, value = line.partition("=")
            found[key.strip()] = value if equals else None
    return found


def project_environment(environ: Mapping[str, str], files: tuple[str, ...], *, required: bool) -> dict[str, str]:
    """The variables for interpolation: the shell's, above those of the project's environment files (later files win)."""
    below: dict[str, str] = {}
    for path in files:
        if not required and not os.path.isfile(path):
            continue
        found = read_env_file(path, {**below, **environ})
        below.update({key: value for key, value in found.items() if value is not None})
    return {**below, **environ}
