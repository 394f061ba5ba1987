"""Compressing layers of our own on their way out: gzip at level 1 by isal, in a thread, digest and size counted.

The header carries no time, so the same tar gives the same bytes: a repository digest is stable even where the descriptor
of an earlier push was lost.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast

from isal import isal_zlib

from berth.contract.store import ByteStream
from berth.kernel.fs import naming
from berth.model.digest import Digest
from berth.storage.space import translated

_PIECE = 1 << 20
_GZIP = 31
FILE_PIECE = 1 << 18


class GzipStream:
    """One compression. `digest` and `size` are those of what was yielded so far; `consumed` of what went in."""

    def __init__(self, source: ByteStream) -> None:
        self._source = source
        self._hash = hashlib.sha256()
        self.size = 0
        self.consumed = 0

    @property
    def digest(self) -> Digest:
        """Of the compressed bytes."""
        return Digest(f"sha256:{self._hash.hexdigest()}")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        compressor = isal_zlib.compressobj(1, isal_zlib.DEFLATED, _GZIP)
        waiting = bytearray()
        async with aclosing(cast(Any, self._source)) as pieces:
            async for piece in pieces:
                waiting += piece
                self.consumed += len(piece)
                if len(waiting) >= _PIECE:
                    data = await asyncio.to_thread(self._compress, compressor, bytes(waiting))
                    waiting.clear()
                    if data:
                        yield data
        data = self._compress(compressor, bytes(waiting)) + self._count(compressor.flush())
        yield data

    def _compress(self, compressor: isal_zlib.Compress, data: bytes) -> bytes:
        return self._count(compressor.compress(data))

    def _count(self, data: bytes) -> bytes:
        self._hash.update(data)
        self.size += len(data)
        return data


async def read_file(path: str, offset: int = 0, size: int | None = None) -> AsyncIterator[bytes]:
    """A file, or a part of it, in pieces, read in threads."""
    left = size
    with open(path, "rb") as file:
        file.seek(offset)
        while left is None or left > 0:
            with translated("reading content of an image"), naming(path):
                piece = await asyncio.to_thread(file.read, FILE_PIECE if left is None else min(FILE_PIECE, left))
            if not piece:
                return
            if left is not None:
                left -= len(piece)
            yield piece
