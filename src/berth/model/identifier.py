"""Identifiers and names: 64 hex digits for containers, networks, images and execs; names by Docker's grammar."""

from __future__ import annotations

import re
import secrets

from berth.errors import InvalidArgument

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")
_HEX = re.compile(r"[0-9a-f]{1,64}\Z")


def new_id() -> str:
    """64 random hex digits."""
    return secrets.token_hex(32)


def short_id(identifier: str) -> str:
    """The first 12 digits, as Docker shows them."""
    return identifier.removeprefix("sha256:")[:12]


def is_id_prefix(text: str) -> bool:
    """Whether the text could be the beginning of an id."""
    return bool(_HEX.match(text))


def check_name(kind: str, name: str, given: str = "") -> str:
    """The name, or InvalidArgument in Docker's words, which repeat it as it was `given`."""
    if not NAME.match(name):
        raise InvalidArgument(f"Invalid {kind} name ({given or name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    return name
