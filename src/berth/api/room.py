"""Descriptors are kept for what has been begun: an engine that has nearly all of them in use refuses further requests in words,
instead of failing half-way through them or leaving clients to wait for each other."""

from __future__ import annotations

import logging
import resource
from typing import Any

from aiohttp import web

from berth.api.error import error_response
from berth.api.route import Handler
from berth.errors import Unavailable

log = logging.getLogger("berth.api")
# What a build with its workers takes, or some launches.
HEADROOM = 48


def limit() -> int:
    """How many descriptors this process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@web.middleware
async def refuse_when_full(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The kernel gives the lowest free number, so the connection's own tells how many are in use."""
    sock = request.transport.get_extra_info("socket") if request.transport is not None else None
    if sock is None or sock.fileno() < limit() - HEADROOM or request.path.endswith("/_ping"):
        return await handler(request)
    response = error_response(
        Unavailable(
            f"too many open files: berthd may have {limit()} and has nearly all in use: end clients that follow logs, events or "
            "containers, or raise the limit that it is started with (LimitNOFILE of its unit, ulimit -n)"
        )
    )
    # Another connection may get a lower number.
    response.force_close()
    return response


class Accepting:
    """The loop's exception handler: a client that cannot be accepted waits (asyncio tries each second); that is told once."""

    def __init__(self) -> None:
        self._told = 0.0

    def __call__(self, loop: Any, context: dict[str, Any]) -> None:
        """One thing that went wrong where nobody could catch it."""
        if "accept" not in str(context.get("message", "")):
            loop.default_exception_handler(context)
        elif not self._told or loop.time() - self._told > 60:
            self._told = loop.time()
            log.error("clients wait to be accepted: %s (the limit is %d)", context.get("exception"), limit())
