"""The one table from error kinds to HTTP, and the middleware that applies it."""

from __future__ import annotations

import errno
import logging
import secrets

from aiohttp import web

from berth import errors
from berth.api.route import Handler, json_response
from berth.storage.space import translate

# Set in a request once the head of its answer is out.
_BEGUN = web.RequestKey("berth.begun", bool)
log = logging.getLogger("berth.api")
# What the host may refuse at any place, and is no bug: no room, no descriptors, a disk that failed or can only be read.
_HOST = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO, errno.EROFS)

STATUS: tuple[tuple[type[errors.BerthError], int], ...] = (
    (errors.InvalidArgument, 400),
    (errors.Unauthenticated, 401),
    (errors.Forbidden, 403),
    (errors.NotFound, 404),
    (errors.AlreadyExists, 409),
    (errors.Conflict, 409),
    (errors.NotModified, 304),
    (errors.NotImplementedKind, 501),
    (errors.Unavailable, 503),
)


def status_of(error: errors.BerthError) -> int:
    """The HTTP status of an error's kind; 500 for those that have no other."""
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


def of_host(error: OSError, doing: str) -> errors.BerthError | None:
    """What the host has refused, while `doing` something, in words; None for what is a bug."""
    return translate(error, doing) if error.errno in _HOST else None


def error_response(error: errors.BerthError) -> web.Response:
    """Docker's error body."""
    status = status_of(error)
    if status == 304:
        return web.Response(status=304)
    return json_response({"message": error.message}, status)


async def note_beginning(request: web.Request, response: web.StreamResponse) -> None:
    """The head of the answer goes out: from now on there is no other."""
    request[_BEGUN] = True


@web.middleware
async def map_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn errors into answers. What is no berth error is a bug: the log gets the traceback, the client an id to look for.

    An answer that has begun cannot be finished, and only a broken connection says so: the reason is in the log."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        if error.status in (404, 405):
            return json_response({"message": "page not found"}, 404)
        return json_response({"message": error.text or error.reason}, error.status)
    except Exception as error:  # the request handler's loop: one bad request must not end the engine
        known = _known(request, error)
        if not request.get(_BEGUN) or request.transport is None:
            return _internal(request) if known is None else error_response(known)
        request.transport.abort()
        if known is None:
            return _internal(request)
        if not isinstance(error, ConnectionError):
            log.warning("the answer to %s %s was broken off: %s", request.method, request.path, known.message)
        return error_response(known)


def _known(request: web.Request, error: Exception) -> errors.BerthError | None:
    """What the client is told; None for what is a bug."""
    if isinstance(error, errors.BerthError):
        return error
    if isinstance(error, ConnectionError):
        # Nobody is left to answer; the server notices when it tries.
        return None if isinstance(error, ConnectionRefusedError) else errors.Unavailable("the client has gone")
    return of_host(error, f"serving {request.method} {request.path}") if isinstance(error, OSError) else None


def _internal(request: web.Request) -> web.Response:
    number = secrets.token_hex(4)
    log.exception("error %s while serving %s %s", number, request.method, request.path)
    return json_response({"message": f"berth: internal error {number}; the engine's log has the details"}, 500)
