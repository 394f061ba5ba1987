"""The HTTP server: routes under every version, Docker's headers, the unix socket."""

from __future__ import annotations

import grp
import os
import socket
import stat
from collections.abc import Iterable

import msgspec
from aiohttp import web

from berth.api import versions
from berth.api.error import map_errors
from berth.api.hijack import Site
from berth.api.presence import give_up
from berth.api.route import API_VERSION, Handler, Route
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
        response = await route.handler(request)
        if adapt is not None and isinstance(response, web.Response) and isinstance(response.body, bytes):
            response.body = msgspec.json.encode(adapt(msgspec.json.decode(response.body), version)) + b"\n"
        return response

    return serve


async def _headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Api-Version"] = versions.text(versions.NEWEST)
    response.headers["Docker-Experimental"] = "false"
    response.headers["Ostype"] = "linux"
    response.headers["Server"] = f"berth/{VERSION} (linux)"


def application(routes: Iterable[Route]) -> web.Application:
    """An application that serves each route bare and under /v1.NN."""
    app = web.Application(middlewares=[map_errors], client_max_size=MAX_JSON_BODY)
    app.on_response_prepare.append(_headers)
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


def listen(path: str) -> socket.socket:
    """A listening unix socket, 0660, for group `berth` where there is one. A dead engine's socket is replaced."""
    check_socket(path)
    with translated(f"making the socket {path}:"):
        return _listen(path)


def _listen(path: str) -> socket.socket:
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
    _give_to_group(path)
    listener.listen(128)
    listener.setblocking(False)
    return listener


def _give_to_group(path: str) -> None:
    try:
        os.chown(path, 0, grp.getgrnam("berth").gr_gid)
    except KeyError:
        return
    os.chmod(path, 0o660)


async def serve(app: web.Application, listener: socket.socket) -> web.AppRunner:
    """Serve until the runner is cleaned up."""
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_SECONDS, keepalive_timeout=75)

    async def shut_down(_app: web.Application) -> None:
        if runner.server is not None:
            give_up(runner.server)

    app.on_shutdown.append(shut_down)
    await runner.setup()
    await Site(runner, listener).start()
    return runner
