"""Answers that are a stream of JSON objects, one a line, as pull, push, load and build give them.

Nothing is sent before the first object, so an error that comes earlier is still an ordinary answer with a status of its
own; a later one is the last object of the stream, which Docker's clients look for.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
from aiohttp import web

from berth.errors import BerthError


class JsonLines:
    """One streamed answer."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._response: web.StreamResponse | None = None

    @property
    def started(self) -> bool:
        """Whether the answer's headers are out."""
        return self._response is not None

    async def start(self) -> web.StreamResponse:
        """Send the headers, if that has not happened."""
        if self._response is None:
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            await response.prepare(self._request)
            self._response = response
        return self._response

    async def send(self, message: dict[str, Any]) -> None:
        """One object. ConnectionError when the client is gone."""
        response = await self.start()
        await response.write(msgspec.json.encode(message) + b"\r\n")

    async def fail(self, error: BerthError) -> None:
        """The error as the last object; raised again when nothing was sent yet."""
        if not self.started:
            raise error
        await self.send({"errorDetail": {"message": error.message}, "error": error.message})

    async def close(self) -> web.StreamResponse:
        """End the answer. A client that has read what it wanted and is gone by then has missed nothing."""
        response = await self.start()
        with suppress(ConnectionError):
            await response.write_eof()
        return response
