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

from berth.errors import Unauthenticated, Unavailable
from berth.model.malformed import MALFORMED
from berth.model.reference import DEFAULT_DOMAIN, Reference
from berth.registry.certificate import CERTIFICATES, host_context
from berth.registry.client import RegistryClient
from berth.registry.credential import NOBODY, Credentials, credentials_of, domain_of
from berth.registry.endpoint import Endpoint, endpoint, endpoints
from berth.registry.transport import READ_SECONDS, Transport, new_session, read_limited
from berth.wire.image import AuthConfig

SEARCH_HOST = "index.docker.io"
_MAX_SEARCH = 4 * 1024 * 1024


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
            transport = Transport(session, place, credentials, (), self._tls_for(place))
            async with transport.request("GET", f"/v1/search?{query}") as response:
                data = await read_limited(response, _MAX_SEARCH, "the result of the search")
        try:
            found = msgspec.json.decode(data, type=dict[str, Any]).get("results")
        except MALFORMED as error:
            raise Unavailable(f"the index {place.host} gave an answer that cannot be read: {error}") from error
        prefix = f"{first}/" if named and first != DEFAULT_DOMAIN else ""
        return [{**item, "name": prefix + str(item.get("name", ""))} for item in found or [] if isinstance(item, dict)]
