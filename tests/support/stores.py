"""Stores in a temporary directory, archives to put in, and pictures of trees to compare."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from berth.engine.events import Events
from berth.engine.memory_volumes import MemoryVolumes
from berth.engine.volumes import VolumeService
from berth.model.descriptor import OCI_LAYER, Descriptor
from berth.model.digest import Digest
from berth.storage.blob import BlobStore
from berth.storage.compression import expand
from berth.storage.database import Database
from berth.storage.layer import LayerStore
from berth.storage.quota import Quotas
from berth.storage.snapshot import SnapshotStore

EMPTY = sorted(os.path.basename(path) for path in LayerStore.fixed)


@dataclass
class Stores:
    """The stores on one data root."""

    root: Path
    database: Database
    blobs: BlobStore
    layers: LayerStore
    snapshots: SnapshotStore
    quotas: Quotas

    def blob(self, data: bytes) -> Descriptor:
        """The data as a blob of the store."""
        return Descriptor(media_type=OCI_LAYER, digest=self.blobs.write(data), size=len(data))

    def fs(self, chain: Digest) -> Path:
        """The directory of a layer."""
        return self.root / self.layers.directory(chain)


@contextmanager
def open_stores(root: Path) -> Iterator[Stores]:
    """Stores on a data root that is made if need be. At the end nothing may be left half done."""
    root.mkdir(mode=0o700, exist_ok=True)
    database = Database(str(root / "berth.db"))
    blobs = BlobStore(str(root))
    quotas = Quotas(str(root))
    layers = LayerStore(str(root), database, blobs, expand, quotas)
    yield Stores(root, database, blobs, layers, SnapshotStore(str(root), database, layers, quotas), quotas)
    layers.close()
    database.close()
    left = [name for name in os.listdir(root / "layers") if name.startswith(".")]
    assert not left, f"left half done: {left}"


async def stream(data: bytes, piece: int = 5000) -> AsyncIterator[bytes]:
    """The data in pieces."""
    for at in range(0, len(data), piece):
        yield data[at : at + piece]


async def collect(chunks: AsyncIterator[bytes]) -> bytes:
    """All of a stream."""
    return b"".join([chunk async for chunk in chunks])


def archive(*members: tuple[str, str, object], **options: object) -> bytes:
    """A tar: (name, kind, value) with kind file, dir, link, hard, fifo, char, whose value is content, mode or target."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, value in members:
            info = tarfile.TarInfo(name)
            info.mtime = 1_600_000_000
            data = b""
            if kind == "file":
                data = value if isinstance(value, bytes) else str(value).encode()
                info.size = len(data)
            elif kind == "dir":
                info.type = tarfile.DIRTYPE
                info.mode = int(str(value)) if value else 0o755
            elif kind in ("link", "hard"):
                info.type = tarfile.SYMTYPE if kind == "link" else tarfile.LNKTYPE
                info.linkname = str(value)
            elif kind == "fifo":
                info.type = tarfile.FIFOTYPE
            elif kind == "char":
                info.type = tarfile.CHRTYPE
                info.devmajor, info.devminor = value  # type: ignore[misc]
            for key, attribute in options.items():
                setattr(info, key, attribute)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def picture(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything about a tree that a copy has to keep."""
    found: dict[str, tuple[object, ...]] = {}
    inodes: dict[int, str] = {}
    for directory, names, files in os.walk(root):
        names.sort()
        for path in (directory, *(os.path.join(directory, name) for name in sorted([*names, *files]))):
            relative = os.path.relpath(path, root)
            if relative in found:
                continue
            status = os.lstat(path)
            content: object = ""
            if stat.S_ISREG(status.st_mode):
                content = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            xattrs = {name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)}
            xattrs.pop("security.selinux", None)
            first = inodes.setdefault(status.st_ino, relative) if not stat.S_ISDIR(status.st_mode) else relative
            # Of its root a layer keeps owner and mode; its time is that of whoever makes the tree.
            changed = 0 if relative == "." else status.st_mtime_ns // 10**9
            found[relative] = (
                oct(status.st_mode), status.st_uid, status.st_gid, status.st_rdev,
                changed, content, tuple(sorted(xattrs.items())), first,
            )  # fmt: skip
    return found


def volume_service(root: Path, database: Database, events: Events) -> VolumeService:
    """Volumes without an engine: none can be mounted."""

    async def spawn(module: str, arguments: Sequence[str], fds: Sequence[int]) -> int:
        raise AssertionError(f"{module} was started")

    return VolumeService(str(root), database, events, MemoryVolumes(str(root), spawn), Quotas(str(root)))
