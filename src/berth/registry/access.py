"""Ways into registries: clients for a repository (mirrors first), the check of a login, the search.

One session lives as long as one piece of work.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from berth.errors import Forbidden, InvalidArgument, NotFound, Unauthenticated, Unavailable
from berth.model.malformed import MALFORMED
from berth.model.reference import DEFAULT_DOMAIN, Reference
from berth.registry.certificate import CERTIFICATES, host_context
from berth.registry.client import RegistryClient, next_page
from berth.registry.credential import NOBODY, Credentials, credentials_of, domain_of
from berth.registry.endpoint import Endpoint, endpoint, endpoints
from berth.registry.transport import READ_SECONDS, Transport, new_session, read_limited
from berth.wire.image import AuthConfig

SEARCH_HOST = "index.docker.io"
_MAX_SEARCH = 4 * 1024 * 1024
_MAX_PAGES = 100


async def _from_catalog(transport: Transport, term: str, limit: int) -> list[dict[str, Any]]:
    """Repositories whose name has the term in it. Unavailable when the registry does not list its repositories."""
    found: list[dict[str, Any]] = []
    target: str | None = "/v2/_catalog?n=1000"
    for _ in range(_MAX_PAGES):
        if target is None or len(found) >= limit:
            break
        try:
            async with transport.request("GET", target) as response:
                data = await read_limited(response, _MAX_SEARCH, "the list of repositories")
                following, base = next_page(response.headers.get("Link", "")), str(response.url)
            names = msgspec.json.decode(data, type=_Catalog).repositories or []
        except (NotFound, InvalidArgument, Unauthenticated, Forbidden) as error:
            host = transport.endpoint.host
            raise Unavailable(f"{host} has no index to search, and does not list its repositories: {error.message}") from error
        except MALFORMED as error:
            raise Unavailable(f"the list of repositories of {transport.endpoint.host} cannot be read: {error}") from error
        found += [{"name": name} for name in names if term in name.lower()]
        target = transport.resolve(following, base) if following and names else None
    return found[:limit]


class _Catalog(Struct, frozen=True):
    repositories: list[str] | None = None


class Registries:
    """What the engine was told about registries. `delay` is the first pause between tries, `read_seconds` how long a
    registry may be silent, `certificates` are directories with a folder for each host that has authorities of its own."""

    def __init__(
        self,
        mirrors: Sequence[str] = (),
        insecure: Sequence[str] = (),
        *,
        delay: float = 0.5,
        read_seconds: float = READ_SECONDS,
        certificates: Sequence[str] = CERTIFICATES,
    ) -> None:
        self._read_seconds = read_seconds
        self._mirrors = tuple(mirrors)
        self._insecure = tuple(insecure)
        self._delay = delay
        self._certificates = tuple(certificates)

    @asynccontextmanager
    async def open(
        self, reference: Reference, credentials: Credentials = NOBODY, actions: str = "pull", *, mirrors: bool = True
    ) -> AsyncIterator[list[RegistryClient]]:
        """Clients for the reference's repository, in the order in which to ask; only the last is the registry itself."""
        found = endpoints(reference.domain, self._mirrors if mirrors else (), self._insecure)
        scopes = (f"repository:{reference.path}:{actions}",)
        async with new_session(self._read_seconds) as session:
            yield [
                RegistryClient(
                    Transport(session, place, credentials, scopes, self._tls_for(place)), reference.path, delay=self._delay
                )
                for place in found
            ]

    def _tls_for(self, place: Endpoint) -> ssl.SSLContext | None:
        return host_context(place.host, self._certificates) if "https" in place.schemes and place.verify else None

    async def login(self, auth: AuthConfig) -> str:
        """Check credentials. The identity token, where the registry gives one. Unauthenticated, Unavailable."""
        domain = domain_of(auth.serveraddress or "")
        place = endpoints(domain, (), self._insecure)[0]
        async with new_session(self._read_seconds) as session:
            transport = Transport(session, place, credentials_of(auth), (), self._tls_for(place))
            try:
                async with transport.request("GET", "/v2/"):
                    pass
            except Unauthenticated as error:
                raise Unauthenticated(f'Get "{transport.origin}/v2/": {error.message}') from error
            return transport.identity_token

    async def search(self, term: str, limit: int, credentials: Credentials = NOBODY) -> list[dict[str, Any]]:
        """Ask a registry's index (Docker Hub's, or that of the host before the first slash). Unavailable."""
        first, slash, rest = term.partition("/")
        named = bool(slash) and ("." in first or ":" in first or first == "localhost")
        place = endpoint(first if named else SEARCH_HOST, self._insecure)
        query = urlencode({"q": rest if named else term, "n": limit})
        async with new_session(self._read_seconds) as session:
            tls = self._tls_for(place)
            try:
                async with Transport(session, place, credentials, (), tls).request("GET", f"/v1/search?{query}") as response:
                    data = await read_limited(response, _MAX_SEARCH, "the result of the search")
                found = msgspec.json.decode(data, type=dict[str, Any]).get("results")
            except MALFORMED as error:
                raise Unavailable(f"the index {place.host} gave an answer that cannot be read: {error}") from error
            except (NotFound, InvalidArgument):
                if not named:
                    raise
                # A registry of the distribution API has no index; what it lists is searched here.
                transport = Transport(session, place, credentials, ("registry:catalog:*",), tls)
                found = await _from_catalog(transport, rest.lower(), limit)
        prefix = f"{first}/" if named and first != DEFAULT_DOMAIN else ""
        return [{**item, "name": prefix + str(item.get("name", ""))} for item in found or [] if isinstance(item, dict)]
