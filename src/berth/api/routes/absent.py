"""What Docker's API has and this engine has not: Swarm and plugins. The answers are those of a Docker engine that is in no
swarm and has no plugin; only what would change that is refused as not there."""

from __future__ import annotations

from aiohttp import web

from berth.api.route import Handler, Route, json_response, query_filters
from berth.errors import BerthError, NotFound, NotImplementedKind, Unavailable

_NO_SWARM = "this engine has no Swarm: start containers with docker run or docker compose"
_NO_PLUGINS = "this engine has no plugins: its volume, network and log drivers are built in"
_NOT_A_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm '
    "and try again."
)
_MANAGERS_ONLY = (
    "GET /swarm",
    "POST /swarm/update",
    "GET /swarm/unlockkey",
    "GET /nodes",
    "GET /nodes/{id}",
    "DELETE /nodes/{id}",
    "POST /nodes/{id}/update",
    "GET /services",
    "POST /services/create",
    "GET /services/{id}",
    "DELETE /services/{id}",
    "POST /services/{id}/update",
    "GET /services/{id}/logs",
    "GET /tasks",
    "GET /tasks/{id}",
    "GET /tasks/{id}/logs",
    "GET /secrets",
    "POST /secrets/create",
    "GET /secrets/{id}",
    "DELETE /secrets/{id}",
    "POST /secrets/{id}/update",
    "GET /configs",
    "POST /configs/create",
    "GET /configs/{id}",
    "DELETE /configs/{id}",
    "POST /configs/{id}/update",
)
_OF_MEMBERS = ("POST /swarm/leave", "POST /swarm/unlock")
_INSTALLING = ("GET /plugins/privileges", "POST /plugins/pull", "POST /plugins/create")
_OF_ONE_PLUGIN = (
    "GET /plugins/{name:.+}/json",
    "DELETE /plugins/{name:.+}",
    "POST /plugins/{name:.+}/enable",
    "POST /plugins/{name:.+}/disable",
    "POST /plugins/{name:.+}/upgrade",
    "POST /plugins/{name:.+}/push",
    "POST /plugins/{name:.+}/set",
)


def routes() -> list[Route]:
    """The engine itself is not needed."""
    return [
        *(_route(line, _refuse(Unavailable, _NOT_A_MANAGER)) for line in _MANAGERS_ONLY),
        *(_route(line, _refuse(Unavailable, "This node is not part of a swarm")) for line in _OF_MEMBERS),
        *(_route(line, _refuse(NotImplementedKind, _NO_SWARM)) for line in ("POST /swarm/init", "POST /swarm/join")),
        Route("GET", "/plugins", _no_plugins),
        *(_route(line, _refuse(NotImplementedKind, _NO_PLUGINS)) for line in _INSTALLING),
        *(_route(line, _no_such_plugin) for line in _OF_ONE_PLUGIN),
    ]


def _route(line: str, handler: Handler) -> Route:
    method, path = line.split(" ", 1)
    return Route(method, path, handler)


def _refuse(kind: type[BerthError], message: str) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        raise kind(message)

    return handle


async def _no_plugins(request: web.Request) -> web.Response:
    query_filters(request, ("capability", "enabled", "enable"))
    return json_response([])


async def _no_such_plugin(request: web.Request) -> web.StreamResponse:
    raise NotFound(f'plugin "{request.match_info["name"]}" not found')
