"""Row 20: nobody is fallen back to plain HTTP for, unless the operator said so."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from berth.errors import Forbidden, InvalidArgument, Unavailable
from berth.registry.certificate import host_context
from berth.registry.credential import Credentials
from berth.registry.endpoint import Endpoint
from berth.registry.transport import Transport, new_session, proxy_for

ME = Credentials(username="me", password="secret")


@asynccontextmanager
async def served(seen: list[str], tls: ssl.SSLContext | None = None, location: str = "") -> AsyncIterator[str]:
    async def handle(request: web.Request) -> web.Response:
        seen.append(f"{request.scheme} {request.path} {request.headers.get('Authorization', '')}")
        if location and request.path == "/v2/from":
            raise web.HTTPFound(location)
        if "Authorization" not in request.headers:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        return web.Response(text="ok")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    server = TestServer(app, host="127.0.0.1", scheme="https" if tls else "http")
    await server.start_server(ssl=tls)
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        await server.close()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody vouches for, and its key."""
    directory = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(directory / "key"), "-out", str(directory / "cert")],
        check=True, capture_output=True,
    )  # fmt: skip
    return directory


@pytest.fixture(scope="module")
def certificate(directory: Path) -> ssl.SSLContext:
    """A server's context with it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "cert", directory / "key")
    return context


async def ask(endpoint: Endpoint, target: str = "/v2/") -> None:
    async with new_session() as session, Transport(session, endpoint, ME).request("GET", target):
        pass


def test_a_secure_registry_that_speaks_plain_http_is_refused() -> None:
    async def work() -> None:
        seen: list[str] = []
        async with served(seen) as host:
            with pytest.raises(Unavailable, match="insecure registry"):
                await ask(Endpoint(host))
            assert seen == []

    asyncio.run(work())


def test_an_untrusted_certificate_is_refused_and_an_insecure_registry_accepted(certificate: ssl.SSLContext) -> None:
    async def work() -> None:
        seen: list[str] = []
        async with served(seen, certificate) as host:
            with pytest.raises(Unavailable, match="failed to verify certificate"):
                await ask(Endpoint(host))
            assert seen == []
            await ask(Endpoint(host, ("https", "http"), verify=False))
            assert seen[-1] == f"https /v2/ {ME.basic}"

    asyncio.run(work())


def test_a_redirect_away_from_tls_is_refused(certificate: ssl.SSLContext) -> None:
    async def work() -> None:
        seen: list[str] = []
        async with served(seen, certificate, "http://127.0.0.1:9/x") as host:
            with pytest.raises(Forbidden, match="from https to http"):
                await ask(Endpoint(host, verify=False), "/v2/from")

    asyncio.run(work())


def test_a_redirect_in_a_circle_ends() -> None:
    async def work() -> None:
        seen: list[str] = []
        async with served(seen, location="/v2/from") as host:
            with pytest.raises(Unavailable, match="circle"):
                await ask(Endpoint(host, ("http",)), "/v2/from")

    asyncio.run(work())


def test_proxies_are_not_for_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "intern.example.com")
    assert proxy_for("https://registry.example.com/v2/") == "http://proxy:3128"
    assert proxy_for("https://127.0.0.1:5000/v2/") is None and proxy_for("https://intern.example.com/v2/") is None


def test_a_registry_may_have_an_authority_of_its_own(directory: Path, certificate: ssl.SSLContext, tmp_path: Path) -> None:
    async def work() -> None:
        seen: list[str] = []
        async with served(seen, certificate) as host, new_session() as session:
            (tmp_path / host).mkdir()
            assert host_context(host, (str(tmp_path),)) is None
            shutil.copy(directory / "cert", tmp_path / host / "ca.crt")
            tls = host_context(host, ("/nowhere", str(tmp_path)))
            async with Transport(session, Endpoint(host), ME, (), tls).request("GET", "/v2/"):
                pass
            (tmp_path / host / "ca.crt").write_text("nonsense")
            with pytest.raises(InvalidArgument, match="cannot be read"):
                host_context(host, (str(tmp_path),))

    asyncio.run(work())


@pytest.mark.parametrize(
    ("host", "target", "expected"),
    [
        ("r.example.com:443", "/v2/", "https://r.example.com/v2/"),
        ("r.example.com", "https://R.example.com:443/x?s=a%2Fb+c", "https://R.example.com/x?s=a%2Fb+c"),
        ("r.example.com", "http://r.example.com/v2/upload", "https://r.example.com/v2/upload"),
        ("r.example.com:5000", "http://r.example.com:5000/v2/upload", "https://r.example.com:5000/v2/upload"),
        ("r.example.com", "//cdn.example.com/x", "https://cdn.example.com/x"),
    ],
)
def test_addresses_that_registries_give(host: str, target: str, expected: str) -> None:
    async def work() -> None:
        async with new_session() as session:
            transport = Transport(session, Endpoint(host), ME)
            assert transport.resolve(target) == expected
            assert transport._is_ours(expected) is ("cdn" not in expected)
            for wrong in (
                "http://cdn.example.com/x",
                "ftp://x/y",
                "https://user:password@r.example.com/",
                "file:///etc/passwd",
                "https://x:y/",
                "https://[x",
                "https://x:99999/",
                "/a b",
            ):
                with pytest.raises(Forbidden):
                    transport.resolve(wrong)

    asyncio.run(work())
