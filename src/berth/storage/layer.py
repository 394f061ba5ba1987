"""Committed layers.

    layers/<chain id hex>/fs      the content in overlay form, ids as containers see them
    layers/<chain id hex>/sums    of layers of our own: a checksum of each file (see `verify`)
    layers/.staging-<random>/fs   being unpacked or committed
    layers/.trash-<random>        on its way out
    layers/base                   what lies below every container's image (see `base`)
    layers/empty, layers/empty2   directories that complete overlay mounts of fewer than two layers

A layer counts when its row is in the database. The row is written after the data was flushed (syncfs) and the directory
renamed into place, so what is listed is whole, whenever the power goes; directories without a row are swept at start.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import FileIO

import msgspec

from berth import failpoint
from berth.contract.store import ByteStream, Expand, Layer
from berth.errors import Conflict, DataLoss, InvalidArgument, NotFound, ResourceExhausted
from berth.kernel.fs import fsync_directory, naming, remove_tree, syncfs
from berth.kernel.thread import to_its_end
from berth.model.descriptor import Descriptor
from berth.model.digest import Digest, digest_of, hex_of, parse_digest
from berth.storage import verify
from berth.storage.base import make as make_base
from berth.storage.blob import BlobStore
from berth.storage.channel import Abandoned
from berth.storage.compression import PIECE, Pipeline
from berth.storage.database import Database
from berth.storage.pack import DEFAULT_ROOT, RootLook, Summed, look, pack_layer
from berth.storage.quota import Quotas
from berth.storage.space import translated
from berth.storage.stream import StreamReader, run_stoppable, stream_from
from berth.storage.tar_reader import Source, TarReader
from berth.storage.unpack import Unpacked, Unpacker, copy_directory_attributes

_ANCESTORS = """
    WITH RECURSIVE up(chain_id, parent, large_ids, depth) AS (
        SELECT chain_id, parent, large_ids, 0 FROM layers WHERE chain_id = ?
        UNION ALL
        SELECT layers.chain_id, layers.parent, layers.large_ids, depth + 1 FROM layers JOIN up ON layers.chain_id = up.parent)
    SELECT chain_id, large_ids FROM up ORDER BY depth"""
THREADS = 4


@dataclass(frozen=True, slots=True)
class Verified:
    """A layer that is not what it should be, or of which it cannot be told (`error`). `names` are the members of its tar that
    differ, as far as they are known; `source`: what they should be is here."""

    layer: Layer
    names: tuple[bytes, ...]
    mended: bool = False
    source: bool = False
    error: str = ""


@dataclass(slots=True)
class _Applying:
    """An unpacking under way, shared by all who want the layer."""

    task: asyncio.Task[Layer]
    waiting: int = 0
    listeners: list[Callable[[int], None]] = field(default_factory=list)


def chain_of(parent: Digest | None, diff_id: Digest) -> Digest:
    """The chain id of a layer on its parent."""
    return digest_of(f"{parent} {diff_id}".encode()) if parent is not None else diff_id


class LayerStore:
    """Implements contract.store.Layers below the data root."""

    def __init__(self, root: str, database: Database, blobs: BlobStore, expand: Expand, quotas: Quotas) -> None:
        self.root = root
        self._layers = f"{root}/layers"
        self._database = database
        self._blobs = blobs
        self._expand = expand
        self._quotas = quotas
        self._applying: dict[Digest, _Applying] = {}
        self._publishing = asyncio.Lock()
        # Those that `verify` has found to have other files than they should have: who fetches their content again mends them.
        self.damaged: set[Digest] = set()
        self.executor = ThreadPoolExecutor(THREADS, thread_name_prefix="storage")
        os.makedirs(self._layers, mode=0o700, exist_ok=True)
        for directory in self.empty:
            os.makedirs(f"{root}/{directory}", mode=0o755, exist_ok=True)
        make_base(f"{root}/{self.base}")

    base = "layers/base"
    empty = ("layers/empty", "layers/empty2")
    # Directories that are there without a row.
    fixed = (base, *empty)

    def close(self) -> None:
        """End the threads, once they are idle."""
        self.executor.shutdown(wait=True, cancel_futures=True)

    # Looking up

    def directory(self, chain_id: Digest) -> str:
        """The layer's content, relative to the data root."""
        return f"layers/{hex_of(parse_digest(chain_id))}/fs"

    def get(self, chain_id: Digest) -> Layer | None:
        """The layer with this chain id; None also when its directory has been lost, so that it is unpacked again."""
        row = self._database.row("SELECT diff_id, parent, size, blob FROM layers WHERE chain_id = ?", (chain_id,))
        if row is None or not os.path.isdir(f"{self.root}/{self.directory(chain_id)}"):
            return None
        diff_id, parent, size, blob = row
        descriptor = msgspec.json.decode(blob, type=Descriptor) if blob else None
        return Layer(chain_id=chain_id, diff_id=diff_id, parent=parent, size=size, blob=descriptor)

    def whole(self, chain_id: Digest) -> bool:
        """Whether nothing has to be fetched for it: it is here, and so is the blob that it came in."""
        layer = self.get(chain_id)
        known = layer is not None and (layer.blob is None or self._blobs.has(layer.blob.digest))
        return known and chain_id not in self.damaged

    def all(self) -> list[Layer]:
        """Every layer."""
        found = (self.get(chain) for (chain,) in self._database.rows("SELECT chain_id FROM layers ORDER BY chain_id"))
        return [layer for layer in found if layer is not None]

    def stack(self, chain_id: Digest | None) -> tuple[str, ...]:
        """The directories of the layer and its ancestors relative to the data root, top first."""
        if chain_id is None:
            return ()
        rows = self._database.rows(_ANCESTORS, (chain_id,))
        if not rows:
            raise NotFound(f"layer {chain_id} is not in the store")
        return tuple(self.directory(chain) for chain, _ in rows)

    def large_ids(self, chain_id: Digest | None) -> tuple[int, ...]:
        """Ids above 65535 that own files in the layer or its ancestors, sorted: each needs a map entry of its own."""
        if chain_id is None:
            return ()
        found = {int(number) for _, text in self._database.rows(_ANCESTORS, (chain_id,)) for number in text.split()}
        return tuple(sorted(found))

    def _lower(self, parent: Digest | None) -> list[str]:
        return [f"{self.root}/{directory}" for directory in self.stack(parent)]

    def root_look(self, chain_id: Digest | None) -> RootLook:
        """Mode and owner of the root directory of a stack."""
        return look(os.stat(f"{self.root}/{self.directory(chain_id)}")) if chain_id is not None else DEFAULT_ROOT

    # Applying

    async def apply_blob(
        self, parent: Digest | None, diff_id: Digest, blob: Descriptor, progress: Callable[[int], None] | None = None
    ) -> Layer:
        """Unpack a blob on top of the parent. DataLoss when it does not match. Two callers share one unpacking."""
        chain = chain_of(parent, parse_digest(diff_id))
        found = self.get(chain)
        if found is not None and chain not in self.damaged:
            return self._remember_blob(found, blob)
        applying = self._applying.get(chain)
        if applying is None:
            task = asyncio.ensure_future(self._apply_blob(chain, parent, diff_id, blob))
            applying = self._applying[chain] = _Applying(task)
            task.add_done_callback(lambda _: self._applying.pop(chain, None))
        if progress is not None:
            applying.listeners.append(progress)
        applying.waiting += 1
        try:
            return await asyncio.shield(applying.task)
        finally:
            applying.waiting -= 1
            if progress is not None:
                applying.listeners.remove(progress)
            if not applying.waiting and not applying.task.done():
                applying.task.cancel()
                await asyncio.wait([applying.task])

    def _remember_blob(self, layer: Layer, blob: Descriptor) -> Layer:
        """A layer of our own that now also exists as a blob: keep the blob, a push needs no compression any more."""
        if layer.blob is not None or not self._blobs.has(blob.digest):
            return layer
        with self._database.transaction():
            self._database.execute("UPDATE layers SET blob = ? WHERE chain_id = ?", (msgspec.json.encode(blob), layer.chain_id))
        return msgspec.structs.replace(layer, blob=blob)

    async def _apply_blob(self, chain: Digest, parent: Digest | None, diff_id: Digest, blob: Descriptor) -> Layer:
        path = self._blobs.path(blob.digest)
        loop = asyncio.get_running_loop()

        def tell(count: int) -> None:
            applying = self._applying.get(chain)
            for listener in list(applying.listeners) if applying is not None else ():
                listener(count)

        lower = self._lower(parent)
        async with self._staging(lower) as staging:

            def consumed(count: int) -> None:
                loop.call_soon_threadsafe(tell, count)

            def work(stop: Callable[[], bool]) -> Unpacked:
                with translated(f"unpacking layer {diff_id}"), open(path, "rb", buffering=0) as file:
                    pieces = _of_layer(diff_id, self._expand(lambda: _piece(file), consumed))
                    return _unpack(pieces, f"{staging}/fs", lower, stop, diff_id)

            unpacked = await run_stoppable(self.executor, work)
            found = self.get(chain)
            if found is not None and chain in self.damaged:
                await self._mend(found, staging)
                return self._remember_blob(found, blob)
            layer = Layer(chain_id=chain, diff_id=diff_id, parent=parent, size=unpacked.size, blob=blob)
            return await self._publish(staging, layer, unpacked.large_ids)

    async def apply_tar(self, parent: Digest | None, stream: ByteStream) -> Layer:
        """Unpack a tar (plain or compressed) as a layer of our own: no blob is kept; the diff id is that of our tar."""
        lower = self._lower(parent)
        reader = StreamReader(stream)
        async with self._staging(lower) as staging:

            def work(stop: Callable[[], bool]) -> None:
                with translated("unpacking the archive"):
                    try:
                        _unpack(self._expand(reader.read), f"{staging}/fs", lower, stop, None)
                    except Abandoned:
                        raise Conflict("unpacking was cancelled") from None
                    except DataLoss as error:
                        # Nothing of ours was lost: the client sent it.
                        raise InvalidArgument(f"invalid archive: {error.message}") from error

            await run_stoppable(None, work, reader)
            return await self.adopt(parent, staging)

    @asynccontextmanager
    async def staging(self, parent: Digest | None) -> AsyncIterator[str]:
        """A directory with an empty `fs` in it, for `adopt`; it is removed at the end if it is still there."""
        async with self._staging(self._lower(parent)) as path:
            yield path

    @asynccontextmanager
    async def _staging(self, lower: list[str]) -> AsyncIterator[str]:
        path = f"{self._layers}/.staging-{os.urandom(8).hex()}"
        with translated("making a layer"):
            os.mkdir(path, 0o700)
            os.mkdir(f"{path}/fs")
            make_like(lower[0] if lower else None, f"{path}/fs")
        failpoint.hit("layer.stage.after-directory")
        try:
            yield path
        finally:
            if os.path.lexists(path):
                await asyncio.shield(asyncio.get_running_loop().run_in_executor(self.executor, remove_tree, path))

    async def adopt(self, parent: Digest | None, staging: str) -> Layer:
        """Make a layer of our own from `<staging>/fs`: its diff id is the digest of its tar."""
        below = self.root_look(parent)

        def work(stop: Callable[[], bool]) -> tuple[Digest, int, set[int]]:
            digest, names = hashlib.sha256(), verify.Names()

            def write(data: bytes) -> None:
                if stop():
                    raise Conflict("the commit was cancelled")
                digest.update(data)

            with translated("reading the new layer"):
                packed = pack_layer_at(f"{staging}/fs", write, below, names.__setitem__)
                verify.write_sums(f"{staging}/sums", names)
            return Digest("sha256:" + digest.hexdigest()), packed[0], packed[1]

        diff_id, size, large_ids = await run_stoppable(self.executor, work)
        chain = chain_of(parent, diff_id)
        found = self.get(chain)
        if found is not None:
            return found
        return await self._publish(staging, Layer(chain_id=chain, diff_id=diff_id, parent=parent, size=size), large_ids)

    async def _publish(self, staging: str, layer: Layer, large_ids: set[int]) -> Layer:
        place = f"{self._layers}/{hex_of(layer.chain_id)}"

        def work() -> None:
            with translated(f"flushing layer {layer.diff_id}"):
                syncfs(self._layers)

        failpoint.hit("layer.publish.before-flush")
        # Cancelled here or in the next step: what is left is a directory without a row, which is thrown away sooner or later.
        await asyncio.get_running_loop().run_in_executor(self.executor, work)
        failpoint.hit("layer.publish.after-flush")
        async with self._publishing:
            return await self._record(staging, place, layer, large_ids)

    async def _record(self, staging: str, place: str, layer: Layer, large_ids: set[int]) -> Layer:
        """Rename and row, one layer at a time: a directory that has no row yet would be taken for a leftover."""
        found = self.get(layer.chain_id)
        if found is not None:
            return found
        if layer.parent is not None and self.get(layer.parent) is None:
            raise Conflict(f"layer {layer.parent} was removed while a layer was put on top of it: try again")
        if os.path.lexists(place):
            self._discard(place)
        with translated(f"recording layer {layer.diff_id}"):
            os.rename(staging, place)
            failpoint.hit("layer.publish.after-rename")
            await asyncio.get_running_loop().run_in_executor(self.executor, fsync_directory, self._layers)
        failpoint.hit("layer.publish.before-row")
        blob = msgspec.json.encode(layer.blob) if layer.blob is not None else None
        ids = " ".join(str(number) for number in sorted(large_ids))
        with self._database.transaction(durable=True):
            self._database.execute(
                "INSERT OR REPLACE INTO layers (chain_id, diff_id, parent, size, blob, large_ids) VALUES (?, ?, ?, ?, ?, ?)",
                (layer.chain_id, layer.diff_id, layer.parent, layer.size, blob, ids),
            )
        failpoint.hit("layer.publish.after-row")
        return layer

    # Verifying

    async def verified(self, chain_id: Digest, *, repair: bool = False) -> Verified | None:
        """Whether the layer's files are what they should be; None when they are, or the layer has been removed meanwhile. To
        `repair` takes the blob that it came in. Reads the layer, and unpacks the blob again beside it."""
        layer = self.get(chain_id)
        if layer is None:
            return None
        if layer.blob is None or not self._blobs.has(layer.blob.digest):
            return await self._verify_own(layer)
        path, lower = self._blobs.path(layer.blob.digest), self._lower(layer.parent)
        async with self._staging(lower) as staging:

            def work(stop: Callable[[], bool]) -> tuple[verify.Summed, verify.Summed]:
                with translated(f"unpacking layer {layer.diff_id}"), open(path, "rb", buffering=0) as file:
                    pieces = _of_layer(layer.diff_id, self._expand(lambda: _piece(file)))
                    _unpack(pieces, f"{staging}/fs", lower, stop, layer.diff_id)
                return self._sum(f"{staging}/fs", layer, stop), self._sum(f"{self.root}/{self.directory(chain_id)}", layer, stop)

            try:
                expected, found = await run_stoppable(self.executor, work)
            except DataLoss as error:
                # The blob is no better: `doctor` tells of it by its digest. Not known is not damaged.
                return Verified(layer, (), error=error.message)
            if self._same(layer, expected.digest, found):
                return None
            names = verify.differing(expected.names, found)
            if repair:
                await self._mend(layer, staging)
            return Verified(layer, tuple(names), mended=repair, source=True)

    async def _verify_own(self, layer: Layer) -> Verified | None:
        if layer.blob is not None:
            return Verified(
                layer, (), error=f"the blob {layer.blob.digest} that it came in is missing: pull or load the image again"
            )
        directory = f"{self.root}/{self.directory(layer.chain_id)}"
        found = await run_stoppable(self.executor, lambda stop: self._sum(directory, layer, stop))
        expected = await to_its_end(verify.read_sums, f"{os.path.dirname(directory)}/sums")
        if self._same(layer, layer.diff_id, found):
            return None
        return Verified(layer, tuple(verify.differing(expected, found)) if expected else ())

    def _same(self, layer: Layer, expected: Digest, found: verify.Summed) -> bool:
        if found.digest == expected and not found.unreadable:
            self.damaged.discard(layer.chain_id)
            return True
        if self.get(layer.chain_id) is not None:
            self.damaged.add(layer.chain_id)
        return False

    def _sum(self, directory: str, layer: Layer, stop: Callable[[], bool]) -> verify.Summed:
        with translated(f"reading layer {layer.diff_id}"):
            return verify.sum_tree(directory, self.root_look(layer.parent), stop)

    async def _mend(self, layer: Layer, staging: str) -> None:
        """Put what differs from the layer in `<staging>/fs` into its place. DataLoss when it differs all the same."""
        directory = f"{self.root}/{self.directory(layer.chain_id)}"

        def work(stop: Callable[[], bool]) -> bool:
            expected, found = self._sum(f"{staging}/fs", layer, stop), self._sum(directory, layer, stop)
            with translated(f"mending layer {layer.diff_id}"):
                verify.mend(f"{staging}/fs", directory, verify.differing(expected.names, found))
                syncfs(self._layers)
            return self._same(layer, expected.digest, self._sum(directory, layer, stop))

        async with self._publishing:
            if not await run_stoppable(self.executor, work):
                raise DataLoss(f"layer {layer.diff_id} could not be mended: remove its images and containers, and get them again")

    # Reading back and removing

    def tar(self, chain_id: Digest) -> ByteStream:
        """The uncompressed tar; DataLoss at its end when it does not match the diff id."""
        layer = self.get(chain_id)
        if layer is None:
            raise NotFound(f"layer {chain_id} is not in the store")
        path = self._blobs.path(layer.blob.digest) if layer.blob is not None and self._blobs.has(layer.blob.digest) else None
        below = self.root_look(layer.parent)
        directory = f"{self.root}/{self.directory(chain_id)}"

        def produce(write: Callable[[bytes], None]) -> None:
            digest = hashlib.sha256()

            def both(data: bytes) -> None:
                digest.update(data)
                write(data)

            with translated(f"reading layer {layer.diff_id}"):
                if path is None:
                    pack_layer_at(directory, both, below)
                else:
                    with open(path, "rb", buffering=0) as file:
                        for piece in self._expand(lambda: _piece(file)):
                            both(piece)
            if f"sha256:{digest.hexdigest()}" != layer.diff_id:
                raise DataLoss(f"layer {layer.diff_id} does not match its digest any more: remove the image and get it again")

        return stream_from(produce)

    async def remove(self, chain_id: Digest) -> None:
        """Forget the layer, then its directory. Idempotent. Conflict while another layer or a snapshot stands on it."""
        failpoint.hit("layer.remove.before-row")
        with self._database.transaction(durable=True):
            for table, what in (("layers", "another layer"), ("snapshots", "a container or build")):
                if self._database.row(f"SELECT 1 FROM {table} WHERE parent = ?", (chain_id,)) is not None:
                    raise Conflict(f"layer {chain_id} is in use by {what}")
            self._database.execute("DELETE FROM layers WHERE chain_id = ?", (chain_id,))
        self.damaged.discard(chain_id)
        failpoint.hit("layer.remove.after-row")
        place = f"{self._layers}/{hex_of(parse_digest(chain_id))}"
        if os.path.lexists(place):
            trash = f"{self._layers}/.trash-{os.urandom(8).hex()}"
            os.rename(place, trash)
            failpoint.hit("layer.remove.after-rename")
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(self.executor, remove_tree, trash))

    def _discard(self, place: str) -> None:
        """A directory that no row speaks for: not trusted, not used."""
        trash = f"{self._layers}/.trash-{os.urandom(8).hex()}"
        os.rename(place, trash)
        self.executor.submit(remove_tree, trash)

    def orphans(self) -> Iterator[str]:
        """Directories that no row speaks for: what `sweep` removes at engine start."""
        known = {hex_of(chain) for (chain,) in self._database.rows("SELECT chain_id FROM layers")}
        for name in os.listdir(self._layers):
            if name not in known and f"layers/{name}" not in self.fixed:
                yield f"{self._layers}/{name}"

    def sweep(self) -> int:
        """At engine start, before anything is unpacked. Returns how many directories go (in a thread)."""
        found = list(self.orphans())
        for path in found:
            if os.path.basename(path).startswith(".trash-"):
                # On its way out already, or left by an engine that ended before it was gone.
                self.executor.submit(self._quotas.remove_tree, path)
            else:
                self._discard(path)
        return len(found)


def make_like(source: str | None, destination: str) -> None:
    """Give an empty directory the owner, mode and attributes of another (0755 root without)."""
    fd = os.open(destination, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if source is None:
            os.fchmod(fd, 0o755)
            os.fchown(fd, 0, 0)
            return
        below = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            copy_directory_attributes(below, fd)
        finally:
            os.close(below)
    finally:
        os.close(fd)


def _piece(file: FileIO) -> bytes:
    with naming(str(file.name)):
        return file.read(PIECE)


def pack_layer_at(
    directory: str, write: Callable[[bytes], object], below: RootLook, summed: Summed | None = None
) -> tuple[int, set[int]]:
    """pack_layer of a path: bytes of content, and ids above 65535."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        packed = pack_layer(fd, write, below, summed)
    finally:
        os.close(fd)
    return packed.size, packed.large_ids


def _of_layer(diff_id: Digest, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces; what is wrong with their compression is told of this layer."""
    try:
        yield from pieces
    except (DataLoss, ResourceExhausted) as error:
        raise type(error)(f"layer {diff_id}: {error.message}") from error


def _unpack(pieces: Iterator[bytes], target: str, lower: list[str], stop: Callable[[], bool], diff_id: Digest | None) -> Unpacked:
    """Unpack a layer; with a diff id, the digest of the whole tar is compared."""
    digest = hashlib.sha256()
    descriptors: list[int] = []
    try:
        for path in (target, *lower):
            descriptors.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        root, *below = descriptors
        watch = digest.update if diff_id is not None else None
        with Pipeline(pieces, watch) as pipeline, Unpacker(root, layer=True, lower=below, stop=stop) as unpacker:
            unpacked = unpacker.run(TarReader(Source(pipeline.read)))
            pipeline.drain()
    finally:
        for fd in descriptors:
            os.close(fd)
    if diff_id is not None and f"sha256:{digest.hexdigest()}" != diff_id:
        raise DataLoss(f"layer {diff_id} does not match its digest: its content is sha256:{digest.hexdigest()}")
    return unpacked
