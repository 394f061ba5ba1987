from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from aiohttp import web

from berth.api import hijack

UPGRADE = b"POST /take HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    ("data", "length"),
    [
        (UPGRADE, len(UPGRADE)),
        (UPGRADE + b"more", len(UPGRADE)),
        (UPGRADE[:-1], len(UPGRADE)),
        (UPGRADE.replace(b"Content-Length: 2\r\n", b"")[:-2], len(UPGRADE) - 21),
        (UPGRADE.replace(b"tcp", b"websocket"), None),
        (UPGRADE.replace(b"POST", b"GET"), None),
        (UPGRADE.replace(b"Content-Length: 2", b"Transfer-Encoding: chunked"), None),
        (b"POST / HTTP/1.1\r\nHost: x\r\n\r\nupgrade: tcp", None),
    ],
)
def test_length_of_an_upgrade_request(data: bytes, length: int | None) -> None:
    assert hijack.upgrade_length(data) == length


async def _serve(path: Path, tls: ssl.SSLContext | None = None) -> web.AppRunner:
    async def take(request: web.Request) -> web.StreamResponse:
        if request.query.get("refuse"):
            return web.Response(status=409, text="no")
        connection = await hijack.take_over(request, multiplexed=False)
        with socket.socket(fileno=connection.fd) as sock:
            sock.setblocking(False)
            data = connection.pending
            while not data.endswith(b"end"):
                data += await asyncio.get_running_loop().sock_recv(sock, 100)
            await asyncio.get_running_loop().sock_sendall(sock, data)
        return connection.response

    app = web.Application()
    app.router.add_post("/take", take)
    runner = web.AppRunner(app)
    await runner.setup()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    await hijack.Site(runner, listener, ssl_context=tls).start()
    return runner


@pytest.mark.parametrize("pieces", [[UPGRADE + b"a lot - end"], [UPGRADE, b"a lot - end"], [UPGRADE[:-1], b"}a lot -", b" end"]])
def test_no_byte_of_the_stream_is_lost(tmp_path: Path, pieces: list[bytes]) -> None:
    async def case() -> None:
        runner = await _serve(tmp_path / "s")
        before = len(os.listdir("/proc/self/fd"))
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        answer = await reader.read()
        head, _, rest = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 UPGRADED\r\n") and rest == b"a lot - end"
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(0.01)
        assert len(os.listdir("/proc/self/fd")) == before
        await runner.cleanup()

    asyncio.run(asyncio.wait_for(case(), 10))


def test_after_a_refusal_the_connection_speaks_http_again(tmp_path: Path) -> None:
    async def case() -> None:
        runner = await _serve(tmp_path / "s")
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        for _ in range(2):
            writer.write(UPGRADE.replace(b"/take", b"/take?refuse=1"))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 409")
            assert await reader.readexactly(2) == b"no"
        writer.write(UPGRADE + b"end")
        assert (await reader.read()).endswith(b"\r\n\r\nend")
        writer.close()
        await runner.cleanup()

    asyncio.run(asyncio.wait_for(case(), 10))


def test_over_tls_no_byte_is_lost_either(tmp_path: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-days", "2"]
    subprocess.run([*command, "-keyout", "key", "-out", "cert"], cwd=tmp_path, check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    client = ssl.create_default_context(cafile=str(tmp_path / "cert"))
    client.check_hostname = False

    async def case() -> None:
        runner = await _serve(tmp_path / "s", server)
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"), ssl=client, server_hostname="x")
        writer.write(UPGRADE + b"a lot")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        writer.write(b"x" * 300_000)
        writer.write(b"end")
        assert await reader.read(-1) == b"a lot" + b"x" * 300_000 + b"end"
        writer.close()
        await runner.cleanup()

    asyncio.run(asyncio.wait_for(case(), 20))
