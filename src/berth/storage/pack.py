"""From a directory to a tar: a layer back to the form of the OCI specification, or a part of a container's tree."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from zlib import crc32

from berth.kernel.fs import naming
from berth.storage import overlay
from berth.storage.tar_reader import BLOCK_DEVICE, CHAR, DIRECTORY, FIFO, FILE, HARD_LINK, SYMLINK
from berth.storage.tar_writer import TarWriter, encode
from berth.storage.unpack import LARGE_ID
from berth.storage.walk import Entry, walk

_PIECE = 1 << 20
RootLook = tuple[int, int, int]
Summed = Callable[[bytes, int], object]
Owner = Callable[[int, int], tuple[int, int]]
DEFAULT_ROOT: RootLook = (0o755, 0, 0)


class Packed:
    """What was packed: bytes of file content, ids above 65535, and how many entries there were."""

    __slots__ = ("entries", "large_ids", "size")

    def __init__(self) -> None:
        self.size = 0
        self.entries = 0
        self.large_ids: set[int] = set()


def look(status: os.stat_result) -> RootLook:
    """What is compared of a layer's root directory: mode, owner and group."""
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


def pack_layer(
    root: int,
    write: Callable[[bytes], object],
    below: RootLook = DEFAULT_ROOT,
    summed: Summed | None = None,
    unreadable: Callable[[bytes], object] | None = None,
) -> Packed:
    """A layer or an upper directory as a tar. The same directory gives the same bytes.

    `below` is how the root directory looks in the layer below: the root is a member only if it looks different. `summed` is told
    the checksum (CRC-32) of each member. With `unreadable`, it is told of members that cannot be read, and what is written is
    no tar then.
    """
    packer = _Packer(write, lambda uid, gid: (uid, gid), summed, unreadable)
    for entry in walk(root):
        if not entry.path:
            if look(entry.status) != below:
                packer.add(entry, b"./")
        elif overlay.is_whiteout(entry.status):
            directory, slash, base = entry.path.rpartition(b"/")
            packer.marker(directory + slash + overlay.WHITEOUT_PREFIX + base)
        else:
            packer.add(entry, entry.path)
        if entry.path and stat.S_ISDIR(entry.status.st_mode) and overlay.is_opaque(entry.fd):
            packer.marker(entry.path + b"/" + overlay.OPAQUE_MARKER)
    packer.finish()
    return packer.packed


def pack_tree(
    root: int,
    start: bytes,
    write: Callable[[bytes], object],
    name: Callable[[bytes], bytes],
    owner: Owner,
    enter: Callable[[Entry], bool] | None = None,
) -> Packed:
    """The directory `start` of a tree and all below. `name` makes a member's name from a path relative to the root;
    what gets none is left out. `owner` maps ids on disk to those the tar shall have.
    """
    packer = _Packer(write, owner)
    for entry in walk(root, start, enter):
        if member := name(entry.path):
            packer.add(entry, member)
    packer.finish()
    return packer.packed


def pack_single(entry: Entry, name: bytes, write: Callable[[bytes], object], owner: Owner) -> None:
    """A tar of one entry that is no directory."""
    packer = _Packer(write, owner)
    packer.add(entry, name)
    packer.finish()


class _Packer:
    def __init__(
        self,
        write: Callable[[bytes], object],
        owner: Owner,
        summed: Summed | None = None,
        unreadable: Callable[[bytes], object] | None = None,
    ) -> None:
        self._tar = TarWriter(write)
        self._owner = owner
        self._summed = summed
        self._unreadable = unreadable
        self._crc = 0
        self._links: dict[tuple[int, int], bytes] = {}
        self.packed = Packed()

    def finish(self) -> None:
        self._tar.finish()

    def marker(self, name: bytes) -> None:
        """A whiteout or an opaque marker: nothing of the node on disk shows, so that it is the same after unpacking."""
        self._tar.add(self._sum(encode(name, FILE, mode=0o600)))
        self.packed.entries += 1
        if self._summed is not None:
            self._summed(name, self._crc)

    def _sum(self, data: bytes, before: int = 0) -> bytes:
        if self._summed is not None:
            self._crc = crc32(data, before)
        return data

    def add(self, entry: Entry, name: bytes) -> None:
        """One entry under this name."""
        try:
            self._add(entry, name)
        except OSError:
            if self._unreadable is None:
                raise
            self._unreadable(name)

    def _add(self, entry: Entry, name: bytes) -> None:
        status = entry.status
        kind = _kind(status.st_mode)
        if kind is None:
            return
        self.packed.entries += 1
        if kind != DIRECTORY and status.st_nlink > 1:
            inode = (status.st_dev, status.st_ino)
            first = self._links.setdefault(inode, name)
            if first != name:
                kind = HARD_LINK
        uid, gid = self._owner(status.st_uid, status.st_gid)
        self.packed.large_ids.update(number for number in (uid, gid) if number > LARGE_ID)
        size = status.st_size if kind == FILE else 0
        link = b""
        if kind == SYMLINK:
            link = entry.link()
        elif kind == HARD_LINK:
            link = first
        if kind == DIRECTORY and not name.endswith(b"/"):
            name += b"/"
        device = (os.major(status.st_rdev), os.minor(status.st_rdev)) if kind in (CHAR, BLOCK_DEVICE) else (0, 0)
        xattrs = entry.xattrs() if kind != HARD_LINK else None
        mode = 0o777 if kind == SYMLINK else stat.S_IMODE(status.st_mode)
        mtime = status.st_mtime_ns // 1_000_000_000
        source = -1
        if size:
            with naming(name):
                source = entry.open()
        header = encode(name, kind, mode=mode, uid=uid, gid=gid, size=size, mtime=mtime, link=link, device=device, xattrs=xattrs)
        self._tar.add(self._sum(header))
        if size:
            try:
                with naming(name):
                    self._data(source, size)
            finally:
                os.close(source)
            self.packed.size += size
        if self._summed is not None:
            self._summed(name, self._crc)

    def _data(self, fd: int, size: int) -> None:
        left = size
        while left:
            piece = os.read(fd, min(left, _PIECE))
            if not piece:
                # The file has become shorter meanwhile; the header is out already.
                piece = bytes(min(left, _PIECE))
            self._tar.add(self._sum(piece, self._crc))
            left -= len(piece)
        self._tar.pad(size)


def _kind(mode: int) -> int | None:
    """Sockets have no place in a tar."""
    return {
        stat.S_IFREG: FILE,
        stat.S_IFDIR: DIRECTORY,
        stat.S_IFLNK: SYMLINK,
        stat.S_IFCHR: CHAR,
        stat.S_IFBLK: BLOCK_DEVICE,
        stat.S_IFIFO: FIFO,
    }.get(stat.S_IFMT(mode))
