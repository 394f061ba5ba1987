"""Writing tars that are the same every time: ustar, pax only where a value does not fit, whole seconds, no names of owners.

One content has one encoding, so a layer's digest follows from its directory alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from berth.storage.tar_reader import BLOCK, BLOCK_DEVICE, CHAR, DIRECTORY, FIFO, FILE, HARD_LINK, SYMLINK

_LETTERS = {FILE: b"0", HARD_LINK: b"1", SYMLINK: b"2", CHAR: b"3", BLOCK_DEVICE: b"4", DIRECTORY: b"5", FIFO: b"6"}
_BATCH = 1 << 18
_ID_LIMIT = 0o7777777
_SIZE_LIMIT = 0o77777777777
END = bytes(2 * BLOCK)


class TarWriter:
    """Headers and data joined into chunks for `write`."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._parts: list[bytes] = []
        self._length = 0

    def add(self, data: bytes) -> None:
        """Bytes of the stream."""
        self._parts.append(data)
        self._length += len(data)
        if self._length >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Hand over what was joined so far."""
        if self._parts:
            data = b"".join(self._parts)
            self._parts, self._length = [], 0
            self._write(data)

    def finish(self) -> None:
        """The end of the archive."""
        self.add(END)
        self.flush()

    def pad(self, size: int) -> None:
        """Fill up the last block of a file of that size."""
        if size % BLOCK:
            self.add(bytes(-size % BLOCK))


def encode(
    name: bytes,
    kind: int,
    *,
    mode: int = 0,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime: int = 0,
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
    xattrs: Mapping[str, bytes] | None = None,
) -> bytes:
    """The header of a member, after a pax header where one is needed. `mtime` is in seconds."""
    pax: dict[bytes, bytes] = {}
    prefix = b""
    short = name
    if len(name) > 100 or not name.isascii():
        prefix, short = _split(name)
        if not short:
            pax[b"path"] = name
            short = _ascii(name)
    if len(link) > 100 or not link.isascii():
        pax[b"linkpath"] = link
        link = _ascii(link)
    for key, value in ((b"uid", uid), (b"gid", gid)):
        if value > _ID_LIMIT:
            pax[key] = b"%d" % value
    if size > _SIZE_LIMIT:
        pax[b"size"] = b"%d" % size
    if not 0 <= mtime <= _SIZE_LIMIT:
        pax[b"mtime"] = b"%d" % mtime
    for attribute, content in (xattrs or {}).items():
        pax[b"SCHILY.xattr." + attribute.encode("utf-8", "surrogateescape")] = content
    header = _ustar(
        short,
        prefix,
        _LETTERS[kind],
        mode,
        uid if uid <= _ID_LIMIT else 0,
        gid if gid <= _ID_LIMIT else 0,
        size if size <= _SIZE_LIMIT else 0,
        mtime if 0 <= mtime <= _SIZE_LIMIT else 0,
        link,
        device,
    )
    if not pax:
        return header
    records = b"".join(_record(key, pax[key]) for key in sorted(pax))
    extension = _ustar(b"PaxHeaders.0/" + short[-80:].strip(b"/"), b"", b"x", 0o644, 0, 0, len(records), 0, b"", (0, 0))
    return extension + records + bytes(-len(records) % BLOCK) + header


def _ascii(name: bytes) -> bytes:
    """What readers without pax see: it only has to be harmless."""
    return name.decode("ascii", "replace").replace("�", "_").encode()[:100].strip(b"/") or b"_"


def _split(name: bytes) -> tuple[bytes, bytes]:
    """The prefix and name fields of ustar, or empty ones when the name does not fit."""
    if not name.isascii() or len(name) > 256:
        return b"", b""
    at = name.rfind(b"/", 0, min(156, len(name) - 1))
    if at <= 0 or len(name) - at - 1 > 100:
        return b"", b""
    return name[:at], name[at + 1 :]


def _record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    total = length + len(str(length))
    total = length + len(str(total))
    return b"%d %s=%s\n" % (total, key, value)


def _ustar(
    name: bytes,
    prefix: bytes,
    letter: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    link: bytes,
    device: tuple[int, int],
) -> bytes:
    header = b"".join(
        (
            name.ljust(100, b"\0"),
            b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, uid, gid, size, mtime),
            b"        ",
            letter,
            link.ljust(100, b"\0"),
            b"ustar\x0000",
            bytes(64),
            b"%07o\0%07o\0" % device,
            prefix.ljust(167, b"\0"),
        )
    )
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]
