"""How registries ask who we are, and how we answer: Basic, and Bearer tokens (distribution's token specification).

    client -> registry   GET /v2/...                        401, WWW-Authenticate: Bearer realm="https://auth...",service=,scope=
    client -> realm      GET ?service=&scope=  (Basic)      {"token": ...}
    client -> registry   GET /v2/... Authorization: Bearer

The registry names the token server. Credentials are sent there only when it belongs to the registry's own site
(endpoint.same_site) and only over TLS, or over HTTP where the registry itself may be spoken to in HTTP; otherwise a
token is asked for anonymously (CVE-2020-15157, CVE-2026-33540).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from msgspec import Struct

from berth.errors import Forbidden
from berth.registry.credential import Credentials
from berth.registry.endpoint import Endpoint, is_loopback, same_site

_CHALLENGE = re.compile(r"\s*([A-Za-z][A-Za-z0-9!#$&.+^_`|~-]*)(?=\s|,|\Z)")
_PARAMETER = re.compile(r'\s*,?\s*([A-Za-z][A-Za-z0-9_-]*)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))')
MAX_TOKEN_RESPONSE = 256 * 1024


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate that the server offers; the scheme in lower case."""

    scheme: str
    parameters: dict[str, str]


class TokenResponse(Struct, frozen=True):
    """What a token server answers."""

    token: str | None = None
    access_token: str | None = None
    refresh_token: str | None = None


def parse_challenges(headers: list[str]) -> list[Challenge]:
    """The challenges in WWW-Authenticate headers. What does not parse is left out."""
    found: list[Challenge] = []
    for header in headers:
        position = 0
        while position < len(header):
            match = _CHALLENGE.match(header, position)
            if match is None:
                break
            position = match.end()
            parameters: dict[str, str] = {}
            while parameter := _PARAMETER.match(header, position):
                value = parameter[2] if parameter[2] is not None else parameter[3]
                parameters[parameter[1].lower()] = re.sub(r"\\(.)", r"\1", value)
                position = parameter.end()
            found.append(Challenge(match[1].lower(), parameters))
            while position < len(header) and header[position] in ", \t":
                position += 1
    return found


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What to ask a token server: a GET with `query`, or a POST of `form` where there is an identity token."""

    url: str
    query: list[tuple[str, str]]
    form: dict[str, str] | None
    authorization: str | None


def token_request(
    challenge: Challenge, endpoint: Endpoint, scopes: tuple[str, ...], credentials: Credentials, *, offline: bool = False
) -> TokenRequest:
    """The request for a token. Forbidden when the realm is no place to ask. `offline` asks for an identity token, too."""
    realm = challenge.parameters.get("realm", "")
    try:
        parts = urlsplit(realm)
        valid = parts.port is None or parts.port > 0
    except ValueError:
        parts, valid = urlsplit(""), False
    if (
        not valid
        or not realm.isascii()
        or not realm.isprintable()
        or parts.scheme not in ("http", "https")
        or not parts.netloc
        or "@" in parts.netloc
    ):
        raise Forbidden(f"the registry {endpoint.host} names {realm!r} as its token server, which is not a valid address")
    plain_allowed = "http" in endpoint.schemes and (is_loopback(parts.netloc) or same_site(endpoint.host, parts.netloc))
    if parts.scheme == "http" and not plain_allowed:
        raise Forbidden(f"the registry {endpoint.host} names a token server without TLS ({realm}), so nothing is sent there")
    given = challenge.parameters.get("scope", "").split()
    wanted = [*scopes, *(scope for scope in given if scope not in scopes)]
    service = challenge.parameters.get("service", "")
    trusted = same_site(endpoint.host, parts.netloc)
    if trusted and credentials.identity_token:
        form = {
            "grant_type": "refresh_token",
            "refresh_token": credentials.identity_token,
            "service": service,
            "client_id": "berth",
            "scope": " ".join(wanted),
        }
        return TokenRequest(realm, [], form, None)
    query = [("service", service)] if service else []
    query += [("scope", scope) for scope in wanted]
    if trusted and credentials.username:
        query.append(("account", credentials.username))
        if offline:
            query += [("offline_token", "true"), ("client_id", "berth")]
        return TokenRequest(realm, query, None, credentials.basic)
    return TokenRequest(realm, query, None, None)
