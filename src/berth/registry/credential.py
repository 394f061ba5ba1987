"""Credentials as Docker's clients hand them over: the X-Registry-Auth and X-Registry-Config headers."""

from __future__ import annotations

import base64
import binascii
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from berth.errors import InvalidArgument
from berth.model.reference import DEFAULT_DOMAIN
from berth.wire.image import AuthConfig

_MAX_HEADER = 64 * 1024
T = TypeVar("T")


class Credentials(Struct, frozen=True, kw_only=True):
    """What proves who the user is. Empty strings for what is not given."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def __bool__(self) -> bool:
        return bool(self.username or self.identity_token or self.registry_token)

    def __repr__(self) -> str:
        return f"Credentials({self.username!r}, ...)"

    @property
    def basic(self) -> str:
        """The value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


NOBODY = Credentials()


def decode_auth(header: str | None) -> AuthConfig | None:
    """X-Registry-Auth; None when it is missing or holds nothing. InvalidArgument when it cannot be read."""
    found = _decode(header, AuthConfig, "X-Registry-Auth")
    return found if found is not None and credentials_of(found) else None


def decode_config(header: str | None) -> dict[str, AuthConfig]:
    """X-Registry-Config: credentials by registry."""
    return _decode(header, dict[str, AuthConfig], "X-Registry-Config") or {}


def _decode(header: str | None, kind: type[T], name: str) -> T | None:
    if not header:
        return None
    if len(header) > _MAX_HEADER:
        raise InvalidArgument(f"invalid {name} header: it is too long")
    text = header.strip().replace("+", "-").replace("/", "_").rstrip("=")
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return None if data.strip() in (b"", b"null") else msgspec.json.decode(data, type=kind)
    except (binascii.Error, ValueError, RecursionError) as error:
        raise InvalidArgument(f"invalid {name} header: it must be base64url-encoded JSON ({error})") from error


def credentials_of(config: AuthConfig | None) -> Credentials:
    """The credentials in an AuthConfig, also those in its `auth` field (base64 of name:password)."""
    if config is None:
        return NOBODY
    username, password = config.username or "", config.password or ""
    if not username and config.auth:
        try:
            username, _, password = base64.b64decode(config.auth, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise InvalidArgument(f"invalid credentials: the auth field must be base64 of name:password ({error})") from error
    return Credentials(
        username=username,
        password=password.strip("\0"),
        identity_token=config.identitytoken or "",
        registry_token=config.registrytoken or "",
    )


def domain_of(server: str) -> str:
    """The registry that a server address means: https://index.docker.io/v1/ is docker.io."""
    try:
        host = urlsplit(server if "://" in server else f"//{server}").netloc.rpartition("@")[2].lower()
    except ValueError as error:
        raise InvalidArgument(f"invalid address of a registry {server!r}: {error}") from None
    return DEFAULT_DOMAIN if host in ("", "index.docker.io", "registry-1.docker.io", DEFAULT_DOMAIN) else host


def for_domain(config: dict[str, AuthConfig], domain: str) -> AuthConfig | None:
    """The entry for a registry."""
    return next((auth for server, auth in config.items() if domain_of(server) == domain.lower()), None)
