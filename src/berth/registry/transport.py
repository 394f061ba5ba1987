"""HTTP to one registry server: TLS, authentication, redirects, and what goes wrong, as kinds of errors.

Redirects are followed by hand: the Authorization header stays with the origin (scheme, host, port) it is for, and a
redirect from https to http is refused. Cookies are not kept, netrc is not read, proxies come from the environment.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from yarl import URL

from berth.errors import BerthError, DataLoss, Forbidden, Unauthenticated, Unavailable
from berth.model.malformed import MALFORMED
from berth.model.version import VERSION
from berth.registry.auth import MAX_TOKEN_RESPONSE, Challenge, TokenRequest, TokenResponse, parse_challenges, token_request
from berth.registry.credential import NOBODY, Credentials
from berth.registry.endpoint import Endpoint, host_name, is_loopback
from berth.registry.refusal import refusal, retry_seconds

Body = Callable[[], Any]
USER_AGENT = f"berth/{VERSION} (linux; docker-compatible)"
CONNECT_SECONDS = 20.0
READ_SECONDS = 90.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 8
# A limit that is over soon is waited for, any other is told.
_PATIENCE, _LEAST_PAUSE = 20.0, 0.1
_MAX_ERROR_BODY = 64 * 1024
_NETWORK_ERRORS = (aiohttp.ClientError, TimeoutError, OSError)


def new_session(read_seconds: float = READ_SECONDS) -> aiohttp.ClientSession:
    """A session for one piece of work. The caller closes it. A server may be silent for `read_seconds`."""
    return aiohttp.ClientSession(
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=CONNECT_SECONDS, sock_read=read_seconds),
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
        connector=aiohttp.TCPConnector(limit=16, ttl_dns_cache=30),
    )


async def read_limited(response: aiohttp.ClientResponse, limit: int, what: str) -> bytes:
    """The body, or DataLoss when it is longer than `limit`."""
    data = bytearray()
    async for piece in response.content.iter_chunked(65536):
        data += piece
        if len(data) > limit:
            raise DataLoss(f"{what} is longer than the {limit} bytes that are allowed")
    return bytes(data)


def unreachable(method: str, url: str, error: BaseException) -> Unavailable:
    """Docker's wording of a request that got no answer, and what to do."""
    host = urlsplit(url).netloc
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return Unavailable(
            f'{method.capitalize()} "{url}": tls: failed to verify certificate: {error.certificate_error}: add the authority of '
            f"{host} to this host's trust store, or list it as an insecure registry"
        )
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return Unavailable(
            f'{method.capitalize()} "{url}": {error.os_error}: if {host} speaks plain HTTP, list it as an insecure registry'
        )
    reason = _reason(error, host)
    return Unavailable(
        f'{method.capitalize()} "{url}": {reason}: {host} cannot be reached from this host. Check its name and the '
        "network; without a way out, use a registry mirror, or load the image from an archive"
    )


def _origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port, whatever way they are written."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)


def _reason(error: BaseException, host: str) -> str:
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"dial tcp: lookup {host_name(host)}: no such host"
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno:
        return f"dial tcp {host}: connect: {os.strerror(error.os_error.errno).lower()}"
    return str(error) or type(error).__name__


class Transport:
    """Requests to one endpoint with one set of credentials, for `scopes` (repository:name:pull,push)."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        endpoint: Endpoint,
        credentials: Credentials = NOBODY,
        scopes: tuple[str, ...] = (),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.identity_token = ""
        self._session = session
        # A mirror is somebody else: what the user gave for the registry is not for it.
        self._credentials = NOBODY if endpoint.mirror else credentials
        self._scopes = scopes
        self._tls = tls
        self._scheme: str | None = endpoint.schemes[0] if len(endpoint.schemes) == 1 else None
        self._authorization: str | None = None
        self._authenticating = asyncio.Lock()

    @property
    def origin(self) -> str:
        """scheme://host, as far as it is known."""
        return f"{self._scheme or self.endpoint.schemes[0]}://{self.endpoint.host}"

    def add_scope(self, scope: str) -> None:
        """One more thing that the next token is for."""
        if scope not in self._scopes:
            self._scopes += (scope,)
            self._authorization = None

    @asynccontextmanager
    async def request(
        self,
        method: str,
        target: str,
        *,
        headers: dict[str, str] | None = None,
        body: Body | None = None,
        expect: tuple[int, ...] = (200,),
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request, authenticated when the registry asks for it. `target` is a path, or a URL that the registry gave.
        `body` makes the body anew for each try. An answer with a status not in `expect` is raised as its kind."""
        for last in (False, True):
            used = self._authorization
            response = await self._send_patiently(method, target, dict(headers or {}), body)
            try:
                if response.status == 401 and not last and self._is_ours(str(response.url)):
                    challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
                    if await self._authenticate(challenges, used):
                        continue
                if response.status not in expect:
                    raise refusal(response.status, await self._error_body(response), response.headers.get("Retry-After", ""))
                yield response
                return
            finally:
                response.release()

    async def _error_body(self, response: aiohttp.ClientResponse) -> bytes:
        try:
            return (await response.content.read(_MAX_ERROR_BODY)) if response.method != "HEAD" else b""
        except _NETWORK_ERRORS:
            return b""

    async def _send_patiently(
        self, method: str, target: str, headers: dict[str, str], body: Body | None
    ) -> aiohttp.ClientResponse:
        """Again after a moment when the registry says that it has too much to do, and for how long."""
        waited = 0.0
        while True:
            response = await self._send(method, target, headers, body)
            pause = retry_seconds(response.headers.get("Retry-After", ""))
            if response.status not in (429, 503) or pause is None or waited + pause > _PATIENCE:
                return response
            response.release()
            waited += max(pause, _LEAST_PAUSE)
            await asyncio.sleep(max(pause, _LEAST_PAUSE))

    async def _send(self, method: str, target: str, headers: dict[str, str], body: Body | None) -> aiohttp.ClientResponse:
        if self._scheme is None:
            await self._find_scheme()
        url = self.resolve(target)
        for _ in range(_MAX_REDIRECTS):
            sent = dict(headers)
            if self._authorization is not None and self._is_ours(url):
                sent["Authorization"] = self._authorization
            response = await self._once(method, url, sent, body)
            if response.status not in _REDIRECTS or method not in ("GET", "HEAD") or "Location" not in response.headers:
                return response
            response.release()
            url = self.resolve(response.headers["Location"], url)
        raise Unavailable(f'{method.capitalize()} "{url}": the registry {self.endpoint.host} redirects in a circle')

    async def _once(self, method: str, url: str, headers: dict[str, str], body: Body | None) -> aiohttp.ClientResponse:
        try:
            return await self._session.request(
                method,
                URL(url, encoded=True),
                headers=headers,
                data=body() if body else None,
                allow_redirects=False,
                ssl=self._certificate_check(url),
                proxy=proxy_for(url),
            )
        except _NETWORK_ERRORS as error:
            if isinstance(error.__cause__, BerthError):
                # What was to be sent could not be read: no fault of the network.
                raise error.__cause__ from None
            raise unreachable(method, url, error) from error
        except ValueError as error:
            raise Unavailable(f"the registry {self.endpoint.host} gave an address that cannot be used: {error}") from error

    def _certificate_check(self, url: str) -> ssl.SSLContext | bool:
        if _origin(url)[1:] != _origin(f"{urlsplit(url).scheme}://{self.endpoint.host}")[1:]:
            # What is set up for the registry, a client certificate above all, is not for where it sends us.
            return True
        return self._tls or self.endpoint.verify

    async def _find_scheme(self) -> None:
        """The first scheme that the endpoint answers to; only endpoints that may be spoken to in HTTP have two."""
        for scheme in self.endpoint.schemes:
            url = f"{scheme}://{self.endpoint.host}/v2/"
            try:
                response = await self._once("GET", url, {}, None)
            except Unavailable:
                if scheme == self.endpoint.schemes[-1]:
                    raise
                continue
            response.release()
            self._scheme = scheme
            return

    def resolve(self, target: str, base: str | None = None) -> str:
        """An absolute URL. Forbidden for one that leads away from TLS."""
        try:
            url = str(URL(base or self.origin + "/", encoded=True).join(URL(target, encoded=True)))
            parts = urlsplit(url)
            _origin(url)
        except ValueError as error:
            raise Forbidden(f"the registry {self.endpoint.host} gave an address that is not valid: {error}") from error
        if not url.isascii() or not url.isprintable() or " " in url:
            raise Forbidden(f"the registry {self.endpoint.host} gave an address that is not valid: {url!r}")
        if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc:
            raise Forbidden(f"the registry {self.endpoint.host} leads to {url!r}, which is not a valid address")
        if parts.scheme == "http" and not (base or self.origin).startswith("http://"):
            if parts.hostname == host_name(self.endpoint.host) and parts.port == urlsplit(self.origin).port:
                # A registry behind a proxy that ends TLS often does not know that it is spoken to in https.
                return "https" + url.removeprefix("http")
            raise Forbidden(f"the registry {self.endpoint.host} leads from https to http ({parts.netloc}), which is refused")
        return url

    def _is_ours(self, url: str) -> bool:
        return _origin(url) == _origin(self.origin)

    async def _authenticate(self, challenges: list[Challenge], used: str | None) -> bool:
        """Get an Authorization header other than the one that was `used` in vain. Whether another try makes sense."""
        async with self._authenticating:
            if self._authorization is not None and self._authorization != used:
                # Another request, at the same time, has got one.
                return True
            return await self._answer(challenges, used)

    async def _answer(self, challenges: list[Challenge], used: str | None) -> bool:
        bearer = next((challenge for challenge in challenges if challenge.scheme == "bearer"), None)
        if bearer is not None:
            self._authorization = await self._bearer(bearer)
            return self._authorization is not None
        if any(challenge.scheme == "basic" for challenge in challenges):
            if not self._credentials.username:
                raise Unauthenticated(f'Get "{self.origin}/v2/": no basic auth credentials')
            self._authorization = self._credentials.basic
            return self._authorization != used
        return False

    async def _bearer(self, challenge: Challenge) -> str:
        if self._credentials.registry_token:
            return f"Bearer {self._credentials.registry_token}"
        request = token_request(challenge, self.endpoint, self._scopes, self._credentials, offline=not self._scopes)
        answer = await self._fetch_token(request)
        token = answer.token or answer.access_token
        if not token or not token.isascii() or not token.isprintable():
            raise Unauthenticated(f"the token server of {self.endpoint.host} gave no token that can be used")
        self.identity_token = answer.refresh_token or ""
        return f"Bearer {token}"

    async def _fetch_token(self, request: TokenRequest) -> TokenResponse:
        url = str(URL(request.url).update_query(request.query)) if request.query else request.url
        headers = {"Authorization": request.authorization} if request.authorization else {}
        form = request.form
        response = await self._once("POST" if form else "GET", url, headers, (lambda: form) if form else None)
        try:
            if response.status != 200:
                raise refusal(response.status, await self._error_body(response), response.headers.get("Retry-After", ""))
            data = await read_limited(response, MAX_TOKEN_RESPONSE, "the answer of the token server")
            return msgspec.json.decode(data, type=TokenResponse)
        except MALFORMED as error:
            raise Unavailable(f"the token server of {self.endpoint.host} gave an answer that cannot be read: {error}") from error
        except _NETWORK_ERRORS as error:
            raise unreachable("GET", request.url, error) from error
        finally:
            response.release()


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for a URL; never one for loopback addresses."""
    parts = urlsplit(url)
    if is_loopback(parts.netloc) or urllib.request.proxy_bypass(host_name(parts.netloc)):
        return None
    return urllib.request.getproxies().get(parts.scheme)
