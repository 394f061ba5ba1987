"""Whether the files of a layer are still those that were unpacked or committed, and how those that are not come back.

A layer is packed again as our own tar (`pack_layer`): its digest decides, and a checksum of each member tells which file it is.
What it should be is the layer's diff id, with `layers/<chain id>/sums` for the names, where berth made the layer itself; else the
blob that it came in is unpacked again beside it. Nothing of this costs anything when a container starts or an image is pulled.

    sums        one record a member: "<crc32 of header and content, 8 hex digits> <name>\\0", in the order of the tar
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from berth.kernel.fs import remove_tree_at
from berth.kernel.paths import open_here
from berth.model.digest import Digest
from berth.storage import overlay
from berth.storage.pack import RootLook, pack_layer
from berth.storage.unpack import copy_directory_attributes
from berth.storage.walk import walk

Names = dict[bytes, int]
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


@dataclass(frozen=True, slots=True)
class Summed:
    """A tree as a tar: its digest, the checksum of each member, and what of it could not be read."""

    digest: Digest
    names: Names
    unreadable: frozenset[bytes] = field(default=frozenset())


def sum_tree(directory: str, below: RootLook, stop: Callable[[], bool]) -> Summed:
    """Read all of a layer's directory. What the disk does not give is noted, not raised."""
    digest, names, lost = hashlib.sha256(), Names(), set[bytes]()

    def write(data: bytes) -> None:
        if stop():
            raise InterruptedError
        digest.update(data)

    fd = os.open(directory, _DIRECTORY | os.O_CLOEXEC)
    try:
        pack_layer(fd, write, below, names.__setitem__, lost.add)
    finally:
        os.close(fd)
    return Summed(Digest("sha256:" + digest.hexdigest()), names, frozenset(lost))


def write_sums(path: str, names: Names) -> None:
    """Keep them. Whoever calls flushes the filesystem."""
    with open(path, "xb") as file:
        file.writelines(b"%08x %b\0" % (crc, name) for name, crc in names.items())


def read_sums(path: str) -> Names:
    """Those that were kept; none if they are missing or damaged: then only the layer is known, not the file."""
    try:
        with open(path, "rb") as file:
            records = file.read().split(b"\0")[:-1]
        return {record[9:]: int(record[:8], 16) for record in records}
    except (OSError, ValueError):
        return {}


def differing(expected: Names, found: Summed) -> list[bytes]:
    """The members that are not the same in both, missing or too many, in the order of their names."""
    names = expected.keys() | found.names.keys()
    return sorted(name for name in names if name in found.unreadable or expected.get(name) != found.names.get(name))


def path_of(name: bytes) -> bytes:
    """Where a member of our tar is in the directory of a layer; empty for the root."""
    directory, _, base = name.rstrip(b"/").rpartition(b"/")
    if base == overlay.OPAQUE_MARKER:
        return directory
    if base.startswith(overlay.WHITEOUT_PREFIX):
        base = base[len(overlay.WHITEOUT_PREFIX) :]
    return b"/".join(part for part in (directory, base) if part not in (b"", b"."))


def mend(whole: str, damaged: str, names: Iterable[bytes]) -> None:
    """Put what `names` name from the whole tree into the damaged one, by renames, one entry at a time: a container on it goes
    on with what it has opened, and finds the new files when it opens them again. Done again after a kill, it does the rest."""
    fds = [os.open(path, _DIRECTORY | os.O_CLOEXEC) for path in (whole, damaged)]
    try:
        _Mender(*fds).run(sorted({path_of(name) for name in names}))
    finally:
        for fd in fds:
            os.close(fd)


class _Mender:
    def __init__(self, whole: int, damaged: int) -> None:
        self._whole = whole
        self._damaged = damaged
        self._moved: list[bytes] = []

    def run(self, paths: list[bytes]) -> None:
        """Parents come before what is in them."""
        paths = self._with_links(paths)
        # Of directories that stay the times are set last, since each change in them changes those: in both trees.
        times = {parent: self._time(parent) for path in paths for parent in (_parent(path), path)}
        for path in paths:
            if not any(path.startswith(done + b"/") for done in self._moved):
                self._one(path)
        for path, time in sorted(times.items(), reverse=True):
            if time is not None:
                fd = open_here(self._damaged, path or b".", _DIRECTORY)
                try:
                    os.utime(fd, ns=(time, time))
                finally:
                    os.close(fd)

    def _with_links(self, paths: list[bytes]) -> list[bytes]:
        """Also the other names of files that have several: they are to be one file again."""
        found = set(paths)
        for root in self._whole, self._damaged, self._whole:
            statuses = [status for path in found if (status := _status(root, path)) is not None]
            inodes = {status.st_ino for status in statuses if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode)}
            if inodes:
                found |= {entry.path for entry in walk(root) if entry.status.st_ino in inodes}
        return sorted(found)

    def _time(self, path: bytes) -> int | None:
        """Of a directory of the whole tree."""
        try:
            fd = open_here(self._whole, path or b".", _DIRECTORY)
        except OSError:
            return None
        try:
            return os.fstat(fd).st_mtime_ns
        finally:
            os.close(fd)

    def _one(self, path: bytes) -> None:
        wanted, found = (status and status.st_mode for status in (_status(self._whole, path), _status(self._damaged, path)))
        if wanted is not None and found is not None and stat.S_ISDIR(wanted) and stat.S_ISDIR(found):
            self._directory(path)
            return
        base = path.rpartition(b"/")[2]
        target = open_here(self._damaged, _parent(path) or b".", _DIRECTORY)
        try:
            if found is not None:
                remove_tree_at(target, base) if stat.S_ISDIR(found) else os.unlink(base, dir_fd=target)
            if wanted is None:
                return
            source = open_here(self._whole, _parent(path) or b".", _DIRECTORY)
            try:
                os.rename(base, base, src_dir_fd=source, dst_dir_fd=target)
            finally:
                os.close(source)
        finally:
            os.close(target)
        self._moved.append(path)

    def _directory(self, path: bytes) -> None:
        wanted, found = (open_here(root, path or b".", _DIRECTORY) for root in (self._whole, self._damaged))
        try:
            for attribute in os.listxattr(found):
                if overlay.keeps(attribute) or attribute == overlay.OPAQUE:
                    os.removexattr(found, attribute)
            copy_directory_attributes(wanted, found)
            if overlay.is_opaque(wanted):
                overlay.set_opaque(found)
        finally:
            os.close(wanted)
            os.close(found)


def _parent(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


def _status(root: int, path: bytes) -> os.stat_result | None:
    try:
        fd = open_here(root, path or b".", os.O_PATH | os.O_NOFOLLOW)
    except OSError as error:
        # Not there, or something else is where its parent should be.
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        return None
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)
