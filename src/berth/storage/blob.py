"""Content by digest. Files are the truth, there is no table.

    blobs/sha256/<hex>      whole, verified when it was written, mode 0600
    ingest/<hex>.part       a download that is under way, or was cut off and can be continued
    ingest/*.tmp            a small blob being written

A blob appears by rename, after its data was flushed and its digest compared.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

from berth import failpoint
from berth.contract.store import ByteStream
from berth.errors import DataLoss, NotFound, ResourceExhausted
from berth.kernel.fs import fsync_directory, naming, write_all
from berth.kernel.thread import to_its_end
from berth.model.digest import Digest, digest_of, hex_of, parse_digest
from berth.storage.space import translated

_PIECE = 1 << 20


class BlobStore:
    """Implements contract.store.Blobs below the data root."""

    def __init__(self, root: str) -> None:
        self._blobs = f"{root}/blobs/sha256"
        self._ingest = f"{root}/ingest"
        # Each one: parents that makedirs makes on the way are open to everybody.
        for directory in (os.path.dirname(self._blobs), self._blobs, self._ingest):
            os.makedirs(directory, mode=0o700, exist_ok=True)
        self._locks: dict[Digest, tuple[asyncio.Lock, int]] = {}

    def location(self, digest: Digest) -> str:
        """Where the bytes are, or would be."""
        # The grammar is checked before a digest is ever part of a path: the caller may have read it from a manifest.
        return f"{self._blobs}/{hex_of(parse_digest(digest))}"

    def path(self, digest: Digest) -> str:
        """Where the bytes are. NotFound without them."""
        place = self.location(digest)
        if not os.path.isfile(place):
            raise NotFound(f"blob {digest} is not in the store")
        return place

    def has(self, digest: Digest) -> bool:
        """Whether the content is here."""
        return os.path.isfile(self.location(digest))

    def size(self, digest: Digest) -> int:
        """Bytes of a blob. NotFound without it."""
        return os.stat(self.path(digest)).st_size

    def read(self, digest: Digest) -> bytes:
        """A small blob, verified: DataLoss when it does not match its digest."""
        place = self.path(digest)
        with translated("reading content of an image"), naming(place), open(place, "rb") as file:
            data = file.read()
        if digest_of(data) != digest:
            raise DataLoss(f"blob {digest} is damaged on disk: remove the image and pull it again")
        return data

    def write(self, data: bytes) -> Digest:
        """A small blob, durable when this returns. One that is there already is compared, not trusted."""
        digest = digest_of(data)
        place = self.location(digest)
        try:
            with open(place, "rb") as file:
                if file.read() == data:
                    return digest
        except OSError:
            # Not there, or its sectors cannot be read: it is written again, to others.
            pass
        temporary = f"{self._ingest}/{hex_of(digest)}-{os.urandom(4).hex()}.tmp"
        with translated(f"writing blob {digest}"):
            failpoint.hit("blob.write.before-file")
            try:
                fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                try:
                    write_all(fd, data)
                    os.fsync(fd)
                finally:
                    os.close(fd)
                failpoint.hit("blob.write.after-file")
                self._publish(temporary, place)
            except OSError:
                _unlink(temporary)
                raise
        failpoint.hit("blob.write.after-rename")
        return digest

    def _publish(self, temporary: str, place: str) -> None:
        os.rename(temporary, place)
        fsync_directory(self._blobs)

    async def ingest(
        self,
        expected: Digest,
        size: int,
        offset_stream: Callable[[int], ByteStream],
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """A large blob, continued where an earlier try was cut off. A `size` below 0 is unknown.

        A blob that is here already is verified, and fetched again when it is damaged. What arrives after an error of the
        stream stays for the next try; what does not match is thrown away (DataLoss).
        """
        place = self.location(expected)
        async with self._lock(expected):
            if os.path.isfile(place):
                if await asyncio.to_thread(_is_whole, place, expected):
                    if progress is not None:
                        progress(os.stat(place).st_size)
                    return
                _unlink(place)
            failpoint.hit("blob.ingest.before-file")
            part = f"{self._ingest}/{hex_of(expected)}.part"
            with translated(f"writing blob {expected}"):
                writer = _PartWriter(part, expected)
            try:
                await self._fetch(writer, expected, size, offset_stream, progress)
                failpoint.hit("blob.ingest.after-file")
                with translated(f"writing blob {expected}"):
                    await to_its_end(self._publish, part, place)
                    failpoint.hit("blob.ingest.after-rename")
            except (_Mismatch, ResourceExhausted):
                _unlink(part)
                raise
            finally:
                writer.close()

    async def _fetch(
        self,
        writer: _PartWriter,
        expected: Digest,
        size: int,
        offset_stream: Callable[[int], ByteStream],
        progress: Callable[[int], None] | None,
    ) -> None:
        have = await to_its_end(writer.resume, size)
        if have and have == size:
            if writer.digest() == expected:
                await to_its_end(writer.flush)
                return
            have = writer.restart()
        if progress is not None and have:
            progress(have)
        async for chunk in offset_stream(have):
            have += len(chunk)
            if 0 <= size < have:
                raise _Mismatch(f"blob {expected} is longer than the {size} bytes that were announced")
            if writer.add(chunk):
                await to_its_end(writer.spill)
            if progress is not None:
                progress(have)
        if have < size:
            raise DataLoss(f"blob {expected} was cut off after {have} of {size} bytes: try again to continue")
        await to_its_end(writer.flush)
        if writer.digest() != expected:
            raise _Mismatch(f"blob {expected} does not match its digest: what arrived is {writer.digest()}")

    @asynccontextmanager
    async def _lock(self, digest: Digest) -> AsyncIterator[None]:
        lock, users = self._locks.get(digest, (asyncio.Lock(), 0))
        self._locks[digest] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[digest]
            if users == 1:
                del self._locks[digest]
            else:
                self._locks[digest] = (lock, users - 1)

    def delete(self, digest: Digest) -> None:
        """Idempotent."""
        failpoint.hit("blob.delete.before-file")
        _unlink(self.location(digest))
        failpoint.hit("blob.delete.after-file")

    def walk(self) -> Iterator[tuple[Digest, int, float]]:
        """Digest, bytes and time of writing (seconds since the epoch) of every blob."""
        with os.scandir(self._blobs) as entries:
            for entry in entries:
                if len(entry.name) == 64:
                    status = entry.stat(follow_symlinks=False)
                    yield Digest(f"sha256:{entry.name}"), status.st_size, status.st_mtime

    def verify(self, digest: Digest) -> bool:
        """Whether the bytes on disk still match. Reads the whole blob."""
        return _is_whole(self.path(digest), digest)

    def sweep(self, keep: frozenset[Digest] = frozenset(), parts_before: float = float("inf")) -> int:
        """At engine start: remove what interrupted writes left. Parts of the digests to keep, and those that were written to
        after `parts_before` (seconds since the epoch), stay for the next try. Returns how many files went."""
        removed = 0
        with os.scandir(self._ingest) as entries:
            for entry in list(entries):
                stem, _, ending = entry.name.rpartition(".")
                if not entry.is_file(follow_symlinks=False):
                    continue
                if ending == "part":
                    fresh = entry.stat(follow_symlinks=False).st_mtime >= parts_before
                    if fresh or f"sha256:{stem}" in keep:
                        continue
                _unlink(entry.path)
                removed += 1
        return removed


class _Mismatch(DataLoss):
    """The bytes are wrong: they are not worth keeping for another try."""


class _PartWriter:
    """The file of a download, hashed on the way. Small chunks are joined, so that a thread is not asked for each."""

    def __init__(self, path: str, digest: Digest) -> None:
        self._action = f"writing blob {digest}"
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._hash = hashlib.sha256()
        self._pending: list[bytes] = []
        self._length = 0

    def resume(self, size: int) -> int:
        """Hash what is there; returns how many bytes. More than the size is nothing."""
        have = os.fstat(self._fd).st_size
        if 0 <= size < have:
            return self.restart()
        try:
            while piece := os.read(self._fd, _PIECE):
                self._hash.update(piece)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            # What an earlier try has left cannot be read: from the beginning, then.
            return self.restart()
        return have

    def restart(self) -> int:
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._hash = hashlib.sha256()
        return 0

    def add(self, chunk: bytes) -> bool:
        """Keep a chunk; whether it is time to spill."""
        self._pending.append(chunk)
        self._length += len(chunk)
        return self._length >= _PIECE

    def spill(self) -> None:
        """Write and hash what was kept."""
        data = b"".join(self._pending)
        self._pending, self._length = [], 0
        with translated(self._action):
            write_all(self._fd, data)
        self._hash.update(data)

    def digest(self) -> Digest:
        return Digest("sha256:" + self._hash.hexdigest())

    def flush(self) -> None:
        self.spill()
        with translated(self._action):
            os.fsync(self._fd)

    def close(self) -> None:
        """What has arrived before an error is worth keeping for the next try."""
        try:
            self.spill()
        except ResourceExhausted:
            pass
        finally:
            os.close(self._fd)


def _is_whole(path: str, digest: Digest) -> bool:
    """Whether the file has that digest; what cannot be read is as bad as what is wrong."""
    try:
        with open(path, "rb", buffering=0) as file:
            return digest == "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return False


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
