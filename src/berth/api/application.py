"""All routes of the API, put together."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from berth.api.routes import absent, build, containers, exec, images, networks, system, usage, verify, volumes
from berth.api.server import application
from berth.build.service import BuildService
from berth.engine.app import Engine


def build_application(engine: Engine, request_stop: Callable[[bool], None]) -> web.Application:
    """The application that serves this engine. `request_stop(stop_containers)` ends it."""
    builds = BuildService(
        config=engine.config,
        database=engine.database,
        events=engine.events,
        images=engine.images,
        layers=engine.layers,
        snapshots=engine.snapshots,
        trees=engine.trees,
        steps=engine.steps,
        expand=engine.expand,
    )
    app = application(
        [
            *system.routes(engine, request_stop),
            *usage.routes(engine, builds),
            *verify.routes(engine),
            *containers.routes(engine),
            *exec.routes(engine),
            *images.routes(engine),
            *volumes.routes(engine),
            *networks.routes(engine),
            *build.routes(engine, builds),
            *absent.routes(),
        ]
    )

    async def begin(_app: web.Application) -> None:
        builds.restore()

    async def end(_app: web.Application) -> None:
        await builds.close()

    app.on_startup.append(begin)
    app.on_cleanup.append(end)
    return app
