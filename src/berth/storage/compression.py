"""Compressed streams: told by their first bytes, undone by libraries, never by a program, and in a confined worker only
(`expander` is the engine's side of that, `expansion` the worker).

gzip (isal), zstd, bzip2 and xz decompressors have one interface: decompress(data, max_length), needs_input, eof,
unused_data. Members that follow one another (pigz, zstd frames, skippable frames) are one stream.
"""

from __future__ import annotations

import bz2
import lzma
import threading
from collections.abc import Callable, Iterator

from backports import zstd
from isal import igzip_lib, isal_zlib

from berth.errors import DataLoss, InvalidArgument
from berth.storage.channel import Abandoned, Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class _Decompressor(Protocol):
        @property
        def eof(self) -> bool: ...
        @property
        def needs_input(self) -> bool: ...
        @property
        def unused_data(self) -> bytes: ...
        def decompress(self, data: bytes, max_length: int = -1, /) -> bytes: ...


PIECE = 1 << 20
LONGEST_MAGIC = 6
_XZ_MEMORY = 256 << 20
_ZSTD_WINDOW_LOG = 27


def _gzip() -> _Decompressor:
    made: _Decompressor = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    return made


def _zstd() -> _Decompressor:
    made: _Decompressor = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG})
    return made


def _xz() -> _Decompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)


_FORMATS: dict[str, tuple[tuple[bytes, ...], Callable[[], _Decompressor]]] = {
    "gzip": ((b"\x1f\x8b\x08",), _gzip),
    "zstd": ((b"\x28\xb5\x2f\xfd", *(bytes([0x50 + n, 0x2A, 0x4D, 0x18]) for n in range(16))), _zstd),
    "bzip2": ((b"BZh",), bz2.BZ2Decompressor),
    "xz": ((b"\xfd7zXZ\x00",), _xz),
}
_ISAL: type[Exception] = igzip_lib.IsalError  # type: ignore[assignment]
_DAMAGED: tuple[type[Exception], ...] = (OSError, EOFError, ValueError, lzma.LZMAError, zstd.ZstdError, _ISAL)


def detect(head: bytes) -> str:
    """`gzip`, `zstd`, `bzip2`, `xz`, or `` for anything else (a plain tar)."""
    for name, (magics, _) in _FORMATS.items():
        if head.startswith(magics):
            return name
    return ""


def opening(read: Callable[[], bytes]) -> tuple[str, bytes]:
    """The format of a stream, and its beginning, which `detect` needed."""
    head = read()
    while len(head) < LONGEST_MAGIC:
        more = read()
        if not more:
            break
        head += more
    return detect(head), head


def counting(read: Callable[[], bytes], consumed: Callable[[int], None] | None) -> Callable[[], bytes]:
    """`read` that tells how many bytes there have been."""
    if consumed is None:
        return read
    total = 0

    def take() -> bytes:
        nonlocal total
        chunk = read()
        if chunk:
            total += len(chunk)
            consumed(total)
        return chunk

    return take


def expand(read: Callable[[], bytes], consumed: Callable[[int], None] | None = None) -> Iterator[bytes]:
    """contract.store.Expand in this process: for the confined worker (`expansion`), and for tests. Pieces of at most 1 MiB."""
    take = counting(read, consumed)
    name, head = opening(take)
    if name:
        yield from _undo(name, head, take)
        return
    while head:
        yield head
        head = take()


def _undo(name: str, data: bytes, take: Callable[[], bytes]) -> Iterator[bytes]:
    magics, make = _FORMATS[name]
    decompressor = make()
    while True:
        try:
            out = decompressor.decompress(data, PIECE)
        except _DAMAGED as error:
            raise DataLoss(f"not valid {name}: {error or 'it is damaged'}") from error
        if out:
            yield out
        if decompressor.eof:
            data = decompressor.unused_data or take()
            while data and len(data) < LONGEST_MAGIC and (more := take()):
                data += more
            if not data.startswith(magics):
                _ignore_padding(name, data, take)
                return
            decompressor = make()
        elif decompressor.needs_input:
            data = take()
            if not data:
                raise DataLoss(f"not valid {name}: it ends too early")
        else:
            data = b""


def _ignore_padding(name: str, data: bytes, take: Callable[[], bytes]) -> None:
    while data:
        if data.strip(b"\0"):
            raise DataLoss(f"not valid {name}: something else follows")
        data = take()


def compress_gzip(pieces: Iterator[bytes], level: int = 1) -> Iterator[bytes]:
    """A gzip stream without name and time, so that equal content gives equal bytes."""
    if level not in (0, 1, 2, 3):
        raise InvalidArgument(f"gzip level {level}: it must be 0 to 3")
    compressor = isal_zlib.compressobj(level=level, wbits=31)
    for piece in pieces:
        if out := compressor.compress(piece):
            yield out
    yield compressor.flush()


class Pipeline:
    """Decompression in a thread of its own, and every piece given to `watch` in another: hashing holds nothing up.

    A context manager; `read` gives the pieces. At the end `drain` reads what the consumer left and waits for the watcher.
    """

    def __init__(self, pieces: Iterator[bytes], watch: Callable[[bytes], object] | None = None) -> None:
        self._pieces = pieces
        self._watch = watch
        self._out = Channel()
        self._watched = Channel()
        self._threads = [threading.Thread(target=self._produce, name="expand", daemon=True)]
        if watch is not None:
            self._threads.append(threading.Thread(target=self._hash, name="hash", daemon=True))

    def _produce(self) -> None:
        error: BaseException | None = None
        try:
            for piece in self._pieces:
                if self._watch is not None:
                    self._watched.put(piece)
                self._out.put(piece)
        except Abandoned:
            pass
        except BaseException as raised:
            error = raised
        finally:
            self._watched.finish()
            self._out.finish(error)

    def _hash(self) -> None:
        assert self._watch is not None
        while piece := self._watched.get():
            self._watch(piece)

    def __enter__(self) -> Pipeline:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._out.abandon()
        for thread in self._threads:
            thread.join()

    def read(self) -> bytes:
        """The next piece, empty at the end. Raises what the decompression raised."""
        return self._out.get()

    def drain(self) -> None:
        """Read to the end, and wait until everything was watched."""
        while self._out.get():
            pass
        for thread in self._threads:
            thread.join()
