"""In-memory twins of the stores, for tests of what is built on them."""

from __future__ import annotations

import bz2
import gzip
import io
import tarfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from backports import zstd

from berth.contract.store import ByteStream, Layer
from berth.contract.usage import User
from berth.errors import Conflict, DataLoss, NotFound
from berth.model.descriptor import Descriptor
from berth.model.digest import Digest, chain_id, digest_of, hex_of


class MemoryBlobs:
    """contract.store.Blobs in a dict; `partial` keeps what a cut-off ingest left."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory
        self.content: dict[Digest, bytes] = {}
        self.partial: dict[Digest, bytes] = {}

    def path(self, digest: Digest) -> str:
        if self.directory is None:
            raise NotFound(f"no file for {digest} in memory")
        path = self.directory / hex_of(digest)
        path.write_bytes(self.read(digest))
        return str(path)

    def has(self, digest: Digest) -> bool:
        return digest in self.content

    def read(self, digest: Digest) -> bytes:
        if digest not in self.content:
            raise NotFound(f"no blob {digest}")
        return self.content[digest]

    def write(self, data: bytes) -> Digest:
        digest = digest_of(data)
        self.content[digest] = data
        return digest

    async def ingest(
        self,
        expected: Digest,
        size: int,
        offset_stream: Callable[[int], ByteStream],
        progress: Callable[[int], None] | None = None,
    ) -> None:
        data = self.partial.pop(expected, b"")
        try:
            async for piece in offset_stream(len(data)):
                data += piece
                if progress:
                    progress(len(data))
        except BaseException:
            self.partial[expected] = data
            raise
        if len(data) != size or digest_of(data) != expected:
            raise DataLoss(f"{expected}: the bytes do not match")
        self.content[expected] = data

    def delete(self, digest: Digest) -> None:
        self.content.pop(digest, None)


def decompress(data: bytes) -> bytes:
    if data[:2] == b"\x1f\x8b":
        return gzip.decompress(data)
    if data[:3] == b"BZh":
        return bz2.decompress(data)
    if data[:4] == b"\x28\xb5\x2f\xfd":
        return zstd.decompress(data)
    return data


class MemoryLayers:
    """contract.store.Layers: a layer is its tar."""

    def __init__(self, blobs: MemoryBlobs) -> None:
        self.blobs = blobs
        self.layers: dict[Digest, Layer] = {}
        self.tars: dict[Digest, bytes] = {}
        self.busy: set[Digest] = set()

    def get(self, chain_id: Digest) -> Layer | None:
        return self.layers.get(chain_id)

    def whole(self, chain_id: Digest) -> bool:
        layer = self.layers.get(chain_id)
        return layer is not None and (layer.blob is None or self.blobs.has(layer.blob.digest))

    def _add(self, parent: Digest | None, data: bytes, blob: Descriptor | None) -> Layer:
        diff_id = digest_of(data)
        chain = diff_id if parent is None else digest_of(f"{parent} {diff_id}".encode())
        layer = Layer(chain_id=chain, diff_id=diff_id, parent=parent, size=len(data), blob=blob)
        self.layers.setdefault(chain, layer)
        self.tars[chain] = data
        return self.layers[chain]

    async def apply_blob(
        self, parent: Digest | None, diff_id: Digest, blob: Descriptor, progress: Callable[[int], None] | None = None
    ) -> Layer:
        data = decompress(self.blobs.read(blob.digest))
        if digest_of(data) != diff_id:
            raise DataLoss(f"the layer {blob.digest} does not unpack to {diff_id}")
        if progress:
            progress(blob.size)
        return self._add(parent, data, blob)

    async def apply_tar(self, parent: Digest | None, stream: ByteStream) -> Layer:
        data = b""
        async for piece in stream:
            data += piece
        return self._add(parent, decompress(data), None)

    async def tar(self, chain_id: Digest) -> AsyncIterator[bytes]:
        data = self.tars[chain_id]
        for position in range(0, len(data), 65536):
            yield data[position : position + 65536]

    def stack(self, chain_id: Digest | None) -> tuple[str, ...]:
        found: list[str] = []
        while chain_id is not None:
            found.append(f"layers/{hex_of(chain_id)}/fs")
            chain_id = self.layers[chain_id].parent
        return tuple(found)

    async def remove(self, chain_id: Digest) -> None:
        if chain_id in self.busy or any(layer.parent == chain_id for layer in self.layers.values()):
            raise Conflict(f"the layer {chain_id} is in use")
        self.layers.pop(chain_id, None)
        self.tars.pop(chain_id, None)


class MemoryUsage:
    """contract.usage.Usage."""

    def __init__(self) -> None:
        self.images: dict[str, list[User]] = {}

    def of_image(self, image_id: str) -> list[User]:
        return self.images.get(image_id, [])

    def by_image(self) -> Counter[str]:
        return Counter({image: len(users) for image, users in self.images.items()})

    def by_volume(self) -> Counter[str]:
        return Counter()

    def of_volume(self, name: str) -> list[User]:
        return []

    def of_network(self, network_id: str, name: str) -> list[User]:
        return []


def tar_of(**files: str) -> bytes:
    """A tar of small files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def chain_of(*tars: bytes) -> Digest:
    """The chain id of a stack of tars."""
    return chain_id(tuple(digest_of(data) for data in tars))


async def stream_of(data: bytes, piece: int = 1000) -> AsyncIterator[bytes]:
    """Bytes as a stream."""
    for position in range(0, len(data), piece):
        yield data[position : position + piece]


async def collect(stream: ByteStream) -> bytes:
    """A stream as bytes."""
    return b"".join([piece async for piece in stream])
