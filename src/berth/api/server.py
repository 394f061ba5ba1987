"""The HTTP server: routes under every version, Docker's headers, the sockets that it listens on."""

from __future__ import annotations

import grp
import os
import socket
import ssl
import stat
from collections.abc import Iterable, Sequence

import msgspec
from aiohttp import web

from berth.api import host, versions
from berth.api.error import map_errors, note_beginning
from berth.api.foreign import refuse_pages
from berth.api.hijack import Site
from berth.api.presence import give_up
from berth.api.room import refuse_when_full
from berth.api.route import API_VERSION, Handler, Route
from berth.api.tls import server_context
from berth.engine.config import EngineConfig, TlsSettings
from berth.errors import Conflict, InvalidArgument
from berth.model.version import VERSION
from berth.storage.space import translated

MAX_JSON_BODY = 64 * 1024 * 1024
# sun_path has 108 bytes and ends with a zero.
MAX_SOCKET_PATH = 107
# A client that pauses a stream may come back; what ends with the engine does not wait for it.
SHUTDOWN_SECONDS = 0.5


def _versioned(route: Route) -> Handler:
    adapt = versions.ADAPTERS.get((route.method, route.path))

    async def serve(request: web.Request) -> web.StreamResponse:
        component = request.match_info.get("api")
        version = request[API_VERSION] = versions.parse(component) if component else versions.NEWEST
        _check_query(request)
        response = await route.handler(request)
        if adapt is not None and isinstance(response, web.Response) and isinstance(response.body, bytes):
            response.body = msgspec.json.encode(adapt(msgspec.json.decode(response.body), version)) + b"\n"
        return response

    return serve


def _check_query(request: web.Request) -> None:
    """InvalidArgument for what no text of the kernel's can hold, as `route.read_body` says it of bodies."""
    if "%00" in request.rel_url.raw_query_string:
        for name, value in request.query.items():
            if "\0" in name + value:
                raise InvalidArgument(f"invalid query: {name!r} contains a NUL character, which no name, path or argument may")


async def _headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Api-Version"] = versions.text(versions.NEWEST)
    response.headers["Docker-Experimental"] = "false"
    response.headers["Ostype"] = "linux"
    response.headers["Server"] = f"berth/{VERSION} (linux)"


def application(routes: Iterable[Route]) -> web.Application:
    """An application that serves each route bare and under /v1.NN."""
    app = web.Application(middlewares=[refuse_when_full, map_errors, refuse_pages], client_max_size=MAX_JSON_BODY)
    app.on_response_prepare.extend((_headers, note_beginning))
    for route in routes:
        handler = _versioned(route)
        app.router.add_route(route.method, route.path, handler)
        app.router.add_route(route.method, r"/{api:v\d+\.\d+}" + route.path, handler)
    return app


def check_socket(path: str) -> None:
    """Whether `listen` could work; told before anything is started. InvalidArgument, or Conflict when somebody listens there."""
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise InvalidArgument(
            f"the socket's path {path} is longer than the {MAX_SOCKET_PATH} bytes that Linux allows: choose a shorter --socket"
        )
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise InvalidArgument(f"cannot use {path} as socket ({error.strerror}): choose another --socket") from error
    if not stat.S_ISSOCK(mode):
        raise InvalidArgument(f"{path} is there already, and no socket: it is left alone; choose another --socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            pass
        else:
            raise Conflict(f"another engine already listens on {path}: stop it first, or choose another --socket")


def context_of(tls: TlsSettings | None) -> ssl.SSLContext | None:
    """For the sockets on TCP. InvalidArgument names the file that cannot be used."""
    if tls is None:
        return None
    files = {"--tlscert": tls.certificate, "--tlskey": tls.key, **({"--tlscacert": tls.ca} if tls.verify else {})}
    for option, path in files.items():
        if not os.access(path, os.R_OK):
            raise InvalidArgument(f"{option} {path}: there is no such file, or it cannot be read")
    try:
        return server_context(certificate=tls.certificate, key=tls.key, ca=tls.ca if tls.verify else None)
    except (ssl.SSLError, OSError) as error:
        names = ", ".join(f"{option} {path}" for option, path in files.items())
        raise InvalidArgument(f"{names}: no usable certificates and key in PEM ({error})") from error


def group_id(name: str) -> int | None:
    """The group that the unix sockets are given to: `name`, a number too; else `berth`, if there is one. InvalidArgument."""
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name or "berth").gr_gid
    except KeyError:
        if not name:
            return None
        raise InvalidArgument(f"--group {name}: there is no such group: groupadd {name}, or name another one") from None


class Listeners:
    """The sockets of one engine. What can be refused is found out before the engine starts, what is listened on comes after."""

    def __init__(self, config: EngineConfig) -> None:
        """InvalidArgument, Conflict."""
        more = [entry.removeprefix("unix://") for entry in config.hosts if entry.startswith("unix://")]
        self._paths = list(dict.fromkeys([config.socket, *more]))
        self._group = group_id(config.group)
        self._context = context_of(config.tls)
        for path in self._paths:
            check_socket(path)
        self._tcp: list[socket.socket] = []
        try:
            for entry in config.hosts:
                if entry.startswith("tcp://"):
                    self._tcp += host.bind(entry)
        except BaseException:
            self.close()
            raise

    def open(self) -> list[tuple[socket.socket, ssl.SSLContext | None]]:
        """All of them, listening; they belong to the caller."""
        found: list[tuple[socket.socket, ssl.SSLContext | None]] = [(listen(path, self._group), None) for path in self._paths]
        for sock in self._tcp:
            sock.listen(128)
            found.append((sock, self._context))
        self._tcp = []
        return found

    def close(self) -> None:
        """Let go of what was not opened."""
        for sock in self._tcp:
            sock.close()

    def remove(self) -> None:
        """Remove the unix sockets."""
        for path in self._paths:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass


def listen(path: str, group: int | None = None) -> socket.socket:
    """A listening unix socket, 0660 for a group when there is one, else 0600. A dead engine's socket is replaced."""
    check_socket(path)
    with translated(f"making the socket {path}:"):
        return _listen(path, group)


def _listen(path: str, group: int | None) -> socket.socket:
    os.makedirs(os.path.dirname(path) or "/", mode=0o711, exist_ok=True)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(mask)
    if group is not None:
        os.chown(path, 0, group)
        os.chmod(path, 0o660)
    listener.listen(128)
    listener.setblocking(False)
    return listener


async def serve(app: web.Application, listeners: Sequence[tuple[socket.socket, ssl.SSLContext | None]]) -> web.AppRunner:
    """Serve until the runner is cleaned up. Sockets with a context speak TLS."""
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_SECONDS, keepalive_timeout=75)

    async def shut_down(_app: web.Application) -> None:
        if runner.server is not None:
            give_up(runner.server)

    app.on_shutdown.append(shut_down)
    await runner.setup()
    for listener, context in listeners:
        await Site(runner, listener, ssl_context=context).start()
    return runner
