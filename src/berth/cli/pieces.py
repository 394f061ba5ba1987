"""A read-only file over pieces of bytes, for tarfile's streaming mode."""

from __future__ import annotations

from collections.abc import Iterator


class PieceReader:
    """Reads what an iterator gives."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = b""

    def read(self, size: int = -1) -> bytes:
        """`size` bytes, fewer at the end; all of them without a size."""
        while size < 0 or len(self._left) < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._left += piece
        cut = len(self._left) if size < 0 else size
        out, self._left = self._left[:cut], self._left[cut:]
        return out
