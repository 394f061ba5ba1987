"""The one table from error kinds to HTTP, and the middleware that applies it."""

from __future__ import annotations

import errno
import logging
import secrets

from aiohttp import web

from berth import errors
from berth.api.route import Handler, json_response
from berth.storage.space import translate

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


@web.middleware
async def map_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn errors into answers. What is no berth error is a bug: the log gets the traceback, the client an id to look for."""
    try:
        return await handler(request)
    except errors.BerthError as error:
        return error_response(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        if error.status in (404, 405):
            return json_response({"message": "page not found"}, 404)
        return json_response({"message": error.text or error.reason}, error.status)
    except ConnectionError as error:
        if isinstance(error, ConnectionRefusedError):
            return _internal(request)
        # Nobody is left to answer; the server notices when it tries.
        return web.Response(status=499)
    except OSError as error:
        refused = of_host(error, f"serving {request.method} {request.path}")
        return _internal(request) if refused is None else error_response(refused)
    except Exception:  # the request handler's loop: one bad request must not end the engine
        return _internal(request)


def _internal(request: web.Request) -> web.Response:
    number = secrets.token_hex(4)
    log.exception("error %s while serving %s %s", number, request.method, request.path)
    return json_response({"message": f"berth: internal error {number}; the engine's log has the details"}, 500)
