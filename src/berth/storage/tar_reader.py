"""Reading tar streams: ustar, pax, GNU long names and numbers, sparse files in all their forms. Nothing is seeked.

Every size that is read into memory is bounded. Names stay bytes. What a member means for a filesystem is not decided here.
Sources: POSIX.1-2001 pax; GNU tar manual, "Tar Internals" (sparse formats 0.0, 0.1, 1.0 and the old GNU one).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from zlib import adler32

from berth.errors import DataLoss
from berth.kernel.fs import write_all

BLOCK = 512
FILE, HARD_LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO = range(7)

_KINDS = {
    0: FILE,
    ord("0"): FILE,
    ord("7"): FILE,
    ord("S"): FILE,
    ord("1"): HARD_LINK,
    ord("2"): SYMLINK,
    ord("3"): CHAR,
    ord("4"): BLOCK_DEVICE,
    ord("5"): DIRECTORY,
    ord("D"): DIRECTORY,
    ord("6"): FIFO,
}
_ZERO = bytes(BLOCK)
_HEADER_LIMIT = 8 << 20
_SPARSE_LIMIT = 1 << 18
_XATTR = b"SCHILY.xattr."
_SIZE_LIMIT = 1 << 60
_MODULUS = 65521


class Source:
    """Exact reads from a stream of chunks. `read` gives the next chunk, empty at the end."""

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read
        self._chunk = b""
        self._at = 0

    def take(self, count: int) -> bytes:
        """Exactly `count` bytes, or fewer at the end of the stream."""
        start, end = self._at, self._at + count
        if end <= len(self._chunk):
            self._at = end
            return self._chunk[start:end]
        parts = [self._chunk[start:]]
        have = len(parts[0])
        while have < count:
            self._chunk = self._read()
            self._at = 0
            if not self._chunk:
                return b"".join(parts)
            part = self._chunk[: count - have]
            self._at = len(part)
            have += len(part)
            parts.append(part)
        return b"".join(parts)

    def piece(self, most: int) -> memoryview:
        """The next bytes without a copy: at least one and at most `most`. DataLoss at the end of the stream."""
        if self._at >= len(self._chunk):
            self._chunk = self._read()
            self._at = 0
            if not self._chunk:
                raise DataLoss("the tar stream ends in the middle of a file")
        start = self._at
        self._at = min(len(self._chunk), start + most)
        return memoryview(self._chunk)[start : self._at]

    def skip(self, count: int) -> None:
        """Pass over bytes."""
        if self._at + count <= len(self._chunk):
            self._at += count
            return
        while count:
            count -= len(self.piece(count))


class Member:
    """One entry. `mtime` is in nanoseconds; `size` is the logical size; `sparse` lists the (offset, length) that have data."""

    __slots__ = ("gid", "kind", "link", "major", "minor", "mode", "mtime", "name", "size", "sparse", "stored", "uid", "xattrs")

    def __init__(self) -> None:
        self.name = b""
        self.kind = FILE
        self.mode = 0o644
        self.uid = 0
        self.gid = 0
        self.size = 0
        self.stored = 0
        self.mtime = 0
        self.link = b""
        self.major = 0
        self.minor = 0
        self.xattrs: dict[str, bytes] | None = None
        self.sparse: list[tuple[int, int]] | None = None


def parse_number(field: bytes) -> int:
    """A number field: octal digits, or base-256 when the first bit is set (GNU)."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big")
        bits = 8 * len(field)
        if field[0] & 0x40:
            return value - (1 << bits)
        return value & ((1 << (bits - 1)) - 1)
    text = field.partition(b"\0")[0].strip(b" ")
    # Only digits: `int` would take signs, prefixes and underscores as well, which other readers refuse.
    if text.isdigit() and b"8" not in text and b"9" not in text:
        return int(text, 8)
    if text:
        raise DataLoss(f"it is no tar archive, or damaged: {field!r} stands where a number should be")
    return 0


def parse_time(text: bytes) -> int:
    """Nanoseconds from decimal seconds of any precision, negative ones too."""
    whole, _, fraction = text.partition(b".")
    negative = whole.startswith(b"-")
    try:
        seconds = int(whole or b"0")
        nanoseconds = int((fraction + b"000000000")[:9] or b"0")
    except ValueError:
        raise DataLoss(f"the tar stream is damaged: {text!r} is no time") from None
    return seconds * 1_000_000_000 + (-nanoseconds if negative else nanoseconds)


def parse_pax(data: bytes) -> list[tuple[bytes, bytes]]:
    """The records of a pax header, in order: length, space, key, equals, value, newline."""
    records = []
    at = 0
    while at < len(data) and data[at]:
        space = data.find(b" ", at, at + 20)
        try:
            length = int(data[at:space])
        except ValueError:
            length = 0
        if space < 0 or length < space - at + 3 or at + length > len(data) or data[at + length - 1] != 0x0A:
            raise DataLoss("the tar stream is damaged: a pax header does not parse")
        key, _, value = data[space + 1 : at + length - 1].partition(b"=")
        records.append((key, value))
        at += length
    return records


def check_header(header: bytes) -> None:
    """DataLoss when the checksum is wrong."""
    field = header[148:156]
    stored = parse_number(field)
    # The low half of Adler-32 is one more than the sum of the bytes, in one call.
    if adler32(header) & 0xFFFF == (stored + 1 - 256 + sum(field)) % _MODULUS:
        return
    # Some old writers summed signed characters.
    signed = sum(byte - 256 if byte > 127 else byte for byte in header[:148] + header[156:]) + 256
    if signed != stored:
        raise DataLoss("the tar stream is damaged: a header does not match its checksum")


class TarReader:
    """Members of a stream, one by one. Data of a member is read, by `copy_to`, before the next one is asked for."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._global: dict[bytes, bytes] = {}
        self._left = 0
        self._padding = 0
        self._member = Member()
        self._numbers: dict[bytes, int] = {}

    def next(self) -> Member | None:
        """The next member, None at the end of the archive."""
        if self._left or self._padding:
            self._source.skip(self._left + self._padding)
            self._left = self._padding = 0
        pax: list[tuple[bytes, bytes]] = []
        long_name = long_link = None
        while True:
            header = self._source.take(BLOCK)
            if len(header) < BLOCK:
                if header:
                    raise DataLoss("the tar stream ends in the middle of a header")
                return None
            if header == _ZERO:
                return None
            check_header(header)
            kind = header[156]
            if kind == 0x78:
                pax = parse_pax(self._extension(header))
            elif kind == 0x67:
                self._global.update(parse_pax(self._extension(header)))
            elif kind == 0x4C:
                long_name = self._extension(header).partition(b"\0")[0]
            elif kind == 0x4B:
                long_link = self._extension(header).partition(b"\0")[0]
            elif kind == 0x56:
                self._extension(header)
            else:
                return self._read_member(header, pax, long_name, long_link)

    def _extension(self, header: bytes) -> bytes:
        size = parse_number(header[124:136])
        if not 0 <= size <= _HEADER_LIMIT:
            raise DataLoss(f"the tar stream is damaged: an extended header of {size} bytes")
        data = self._source.take(size)
        if len(data) < size:
            raise DataLoss("the tar stream ends in the middle of a header")
        self._source.skip(-size % BLOCK)
        return data

    def _number(self, field: bytes) -> int:
        found = self._numbers.get(field)
        if found is None:
            found = parse_number(field)
            if len(self._numbers) < 4096:
                self._numbers[field] = found
        return found

    def _read_member(
        self, header: bytes, pax: list[tuple[bytes, bytes]], long_name: bytes | None, long_link: bytes | None
    ) -> Member:
        member = Member()
        kind = _KINDS.get(header[156])
        if kind is None:
            raise DataLoss(f"the tar stream has a member of unknown type {chr(header[156])!r}")
        member.kind = kind
        member.name = header[:100].partition(b"\0")[0]
        member.mode = self._number(header[100:108]) & 0o7777
        member.uid = self._number(header[108:116])
        member.gid = self._number(header[116:124])
        member.size = parse_number(header[124:136])
        member.mtime = parse_number(header[136:148]) * 1_000_000_000
        if header[257:263] == b"ustar\0" and header[345]:
            member.name = header[345:500].partition(b"\0")[0] + b"/" + member.name
        if kind:
            member.link = header[157:257].partition(b"\0")[0]
            if kind in (CHAR, BLOCK_DEVICE):
                member.major = parse_number(header[329:337])
                member.minor = parse_number(header[337:345])
        if long_name is not None:
            member.name = long_name
        if long_link is not None:
            member.link = long_link
        records = [*self._global.items(), *pax] if self._global else pax
        sparse = _apply_pax(member, records) if records else None
        if kind == FILE and member.name.endswith(b"/") and header[156] == 0:
            member.kind = DIRECTORY
        self._begin_data(member, header, sparse)
        return member

    def _begin_data(self, member: Member, header: bytes, sparse: dict[bytes, bytes] | None) -> None:
        if member.kind != FILE:
            # Links and directories have no data, whatever size some writers put there.
            stored = member.size = 0
        else:
            stored = member.size
        if not 0 <= stored <= _SIZE_LIMIT:
            raise DataLoss(f"the tar stream is damaged: a file of {stored} bytes")
        self._member = member
        self._left = stored
        self._padding = -stored % BLOCK
        if member.kind == FILE:
            if header[156] == 0x53:
                self._read_old_sparse(member, header)
            elif sparse:
                self._read_pax_sparse(member, sparse)
        if member.sparse is not None:
            _check_sparse(member, self._left)
        member.stored = self._left

    def _read_old_sparse(self, member: Member, header: bytes) -> None:
        member.sparse = []
        _sparse_entries(header[386:482], member.sparse)
        member.size = parse_number(header[483:495])
        more = header[482]
        while more:
            block = self._source.take(BLOCK)
            if len(block) < BLOCK or len(member.sparse) > _SPARSE_LIMIT:
                raise DataLoss("the tar stream is damaged: a sparse map does not end")
            _sparse_entries(block[:504], member.sparse)
            more = block[504]

    def _read_pax_sparse(self, member: Member, sparse: dict[bytes, bytes]) -> None:
        if b"map" in sparse:
            numbers = _decimals(sparse[b"map"].split(b",") if sparse[b"map"] else [])
        elif sparse.get(b"major") == b"1":
            numbers = self._read_sparse_map()
        else:
            return
        member.sparse = list(zip(numbers[::2], numbers[1::2], strict=True)) if len(numbers) % 2 == 0 else None
        if member.sparse is None:
            raise DataLoss("the tar stream is damaged: a sparse map has an odd number of fields")
        size = sparse.get(b"realsize", sparse.get(b"size"))
        if size is not None:
            member.size = _decimal(size)

    def _read_sparse_map(self) -> list[int]:
        """Format 1.0: the map is in front of the data, decimal numbers by lines, padded to a block."""
        text = b""
        wanted = -1
        while True:
            block = self._source.take(BLOCK)
            self._left -= BLOCK
            if len(block) < BLOCK or self._left < 0:
                raise DataLoss("the tar stream is damaged: a sparse map does not end")
            text += block
            if wanted < 0 and b"\n" in text:
                count = _decimal(text.partition(b"\n")[0])
                if count > _SPARSE_LIMIT:
                    raise DataLoss("the tar stream is damaged: a sparse map is too long")
                wanted = 2 * count + 1
            if wanted >= 0 and text.count(b"\n") >= wanted:
                return _decimals(text.split(b"\n")[1:wanted])
            if len(text) > 64 * _SPARSE_LIMIT:
                raise DataLoss("the tar stream is damaged: a sparse map is too long")

    def piece(self) -> memoryview:
        """The next data of the present member as it is stored, empty at its end. What a sparse map means is up to the caller."""
        if not self._left:
            return memoryview(b"")
        piece = self._source.piece(self._left)
        self._left -= len(piece)
        return piece

    def copy_to(self, fd: int) -> None:
        """Write the data of the present member into an empty file."""
        member = self._member
        if member.sparse is None:
            while self._left:
                piece = self._source.piece(self._left)
                written = os.write(fd, piece)
                if written < len(piece):
                    write_all(fd, piece[written:])
                self._left -= len(piece)
            return
        for offset, length in member.sparse:
            os.lseek(fd, offset, os.SEEK_SET)
            while length:
                piece = self._source.piece(length)
                write_all(fd, piece)
                length -= len(piece)
                self._left -= len(piece)
        os.ftruncate(fd, member.size)


def _apply_pax(member: Member, records: list[tuple[bytes, bytes]]) -> dict[bytes, bytes] | None:
    """Override fields of the member; returns the GNU.sparse.* records."""
    sparse: dict[bytes, bytes] = {}
    offsets: list[bytes] = []
    for key, value in records:
        if key == b"path":
            member.name = value
        elif key == b"linkpath":
            member.link = value
        elif key == b"mtime":
            member.mtime = parse_time(value) if value else member.mtime
        elif key == b"size":
            member.size = _decimal(value) if value else member.size
        elif key == b"uid":
            member.uid = _decimal(value) if value else member.uid
        elif key == b"gid":
            member.gid = _decimal(value) if value else member.gid
        elif key.startswith(_XATTR):
            if member.xattrs is None:
                member.xattrs = {}
            member.xattrs[os.fsdecode(key[len(_XATTR) :])] = value
        elif key.startswith(b"GNU.sparse."):
            if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                offsets.append(value)
            sparse[key[11:]] = value
    if offsets:
        sparse[b"map"] = b",".join(offsets)
    if b"name" in sparse:
        member.name = sparse[b"name"]
    return sparse or None


def _decimal(field: bytes) -> int:
    if not field.isdigit() or len(field) > 20:
        raise DataLoss("the tar stream is damaged: a number in an extended header does not parse")
    return int(field)


def _decimals(fields: list[bytes]) -> list[int]:
    return [_decimal(field) for field in fields]


def _sparse_entries(data: bytes, into: list[tuple[int, int]]) -> None:
    for at in range(0, len(data), 24):
        if not data[at]:
            return
        into.append((parse_number(data[at : at + 12]), parse_number(data[at + 12 : at + 24])))


def _check_sparse(member: Member, stored: int) -> None:
    end = total = 0
    for offset, length in member.sparse or ():
        if offset < end or length < 0:
            raise DataLoss("the tar stream is damaged: a sparse map is out of order")
        end = offset + length
        total += length
    if total != stored or not end <= member.size <= _SIZE_LIMIT:
        raise DataLoss("the tar stream is damaged: a sparse map does not fit its file")
