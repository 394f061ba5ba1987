"""Layers, snapshots and trees: what `storage` gives to the services.

A layer is one directory `layers/<chain id hex>/fs`, in overlay form (whiteouts are 0:0 character devices, opaque
directories carry trusted.overlay.opaque), with the ids that containers see. A snapshot is a pair upper/work on top of a
stack of layers, `containers/<key>/{upper,work}`. Nothing here mounts on the host.

Layers that berth made itself (build, commit, import) keep no tar: their tar is written again from the directory, byte
for byte the same each time. Layers that came from elsewhere (pull, load) keep the compressed blob they came in.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Protocol

from msgspec import Struct

from berth.model.descriptor import Descriptor
from berth.model.digest import Digest
from berth.model.rootfs import Change, Overlay

ByteStream = AsyncIterator[bytes]


class Expand(Protocol):
    """Undoes gzip, zstd, bzip2 or xz, told by the first bytes; anything else comes out as it went in."""

    def __call__(self, read: Callable[[], bytes], consumed: Callable[[int], None] | None = None) -> Iterator[bytes]:
        """The uncompressed pieces. `read` gives the next chunk, empty at the end; `consumed` is told the number of bytes taken
        so far. For threads. DataLoss for a damaged or cut off stream; ResourceExhausted beyond the engine's limits."""


class Layer(Struct, frozen=True, kw_only=True):
    """A committed layer. `size` is in bytes of content, unpacked; `blob` is what it came in, if it came from elsewhere."""

    chain_id: Digest
    diff_id: Digest
    parent: Digest | None
    size: int
    blob: Descriptor | None = None


class Blobs(Protocol):
    """Content by digest, `blobs/sha256/<hex>`. Writes are verified: DataLoss when the bytes do not match."""

    def path(self, digest: Digest) -> str:
        """Where the bytes are. NotFound without them."""
        ...

    def has(self, digest: Digest) -> bool:
        """Whether the content is here."""
        ...

    def read(self, digest: Digest) -> bytes:
        """A small blob (manifest, configuration), verified."""
        ...

    def write(self, data: bytes) -> Digest:
        """A small blob, durable when this returns."""
        ...

    async def ingest(
        self,
        expected: Digest,
        size: int,
        offset_stream: Callable[[int], ByteStream],
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """A large blob. `offset_stream(n)` is called once and must yield the bytes from n on, where n bytes are already
        here from an earlier try that was cut off. `progress` gets the bytes present so far."""
        ...

    def delete(self, digest: Digest) -> None:
        """Idempotent."""
        ...


class Layers(Protocol):
    """Committed layers."""

    def get(self, chain_id: Digest) -> Layer | None:
        """The layer with this chain id."""
        ...

    def whole(self, chain_id: Digest) -> bool:
        """Whether nothing has to be fetched for it: it is here, as are the blob that it came in and all its files, as far as
        anybody has looked."""
        ...

    async def apply_blob(
        self, parent: Digest | None, diff_id: Digest, blob: Descriptor, progress: Callable[[int], None] | None = None
    ) -> Layer:
        """Unpack a blob that is in Blobs (tar, gzip or zstd by its media type, or by its magic number) on top of the parent.
        DataLoss when the uncompressed tar does not match `diff_id`. Idempotent; two callers share one unpacking.
        `progress` gets the compressed bytes consumed so far."""
        ...

    async def apply_tar(self, parent: Digest | None, stream: ByteStream) -> Layer:
        """Unpack a tar (plain or compressed) as a layer of our own (import): no blob is kept; the diff id is that of our tar."""
        ...

    def tar(self, chain_id: Digest) -> ByteStream:
        """The uncompressed tar, whose digest is the diff id."""
        ...

    def large_ids(self, chain_id: Digest) -> tuple[int, ...]:
        """User and group ids above 65,535 that occur in the layer or its ancestors, sorted."""
        ...

    def stack(self, chain_id: Digest | None) -> tuple[str, ...]:
        """The directories of the layer and its ancestors relative to the data root, top first. Empty for None."""
        ...

    async def remove(self, chain_id: Digest) -> None:
        """Forget the layer and its directory (two-phase). Conflict while another layer or a snapshot stands on it."""
        ...


class Snapshots(Protocol):
    """Writable snapshots, named by key (a container's id, or `build-<random>`)."""

    def check_sizes(self, what: str) -> None:
        """InvalidArgument, beginning with `what` and with what to do, where the file system cannot limit a snapshot."""
        ...

    async def prepare(self, key: str, parent: Digest | None, size: int = 0) -> Overlay:
        """Make upper and work on top of the parent; what is written there can be `size` bytes (0: any). AlreadyExists."""
        ...

    def mounts(self, key: str) -> Overlay:
        """NotFound without the snapshot."""
        ...

    def check(self, key: str, size: int = 0) -> None:
        """Before it is mounted: DataLoss, with what to do, when its files or those of a layer below are gone. A size that it was
        prepared with is set again if it has got lost."""
        ...

    def mounting(self, key: str, size: int) -> AbstractContextManager[None]:
        """Whoever mounts one that was prepared with a size does it within this."""
        ...

    def view(self, parent: Digest | None) -> Overlay:
        """The read-only view of a stack of layers."""
        ...

    async def changes(self, key: str) -> list[Change]:
        """What differs from the parent, sorted by path."""
        ...

    async def commit(self, key: str, *, keep: bool) -> Layer | None:
        """The upper directory as a new layer. `keep=False` moves it (the snapshot is gone afterwards), `keep=True` copies it
        and leaves the snapshot usable. None when nothing was changed and `keep` is False; an empty layer otherwise."""
        ...

    async def usage(self, key: str) -> int:
        """Bytes in the upper directory."""
        ...

    async def usages(self, keys: Sequence[str]) -> list[int]:
        """The same of many; 0 for one that is not there."""
        ...

    async def remove(self, key: str) -> None:
        """Idempotent. What else is in the directory of that name goes with it."""
        ...

    def put_aside(self, key: str) -> Future[None]:
        """The first half of `remove`: the directory has lost its name. The future ends when the files are gone."""
        ...

    def forget(self, key: str) -> None:
        """The second half: the row."""
        ...


class PathStat(Struct, frozen=True, kw_only=True, rename={"link_target": "linkTarget"}):
    """A path in a tree, as GET and HEAD archive tell it. `mode` is Go's os.FileMode; `mtime` is RFC 3339."""

    name: str
    size: int
    mode: int
    mtime: str
    link_target: str = ""


class Tree(Protocol):
    """Read and write access to a container's whole filesystem (rootfs with mounts), by a worker outside the engine. Every
    path is resolved inside the tree (openat2, RESOLVE_IN_ROOT)."""

    async def stat(self, path: str) -> PathStat:
        """NotFound without it. The last component is not followed."""
        ...

    def get(self, path: str) -> ByteStream:
        """The path as a tar whose members start with its base name, as GET archive promises."""
        ...

    def export(self) -> ByteStream:
        """Everything as a tar, names from the root on: `etc/passwd`, and no member for the root itself."""
        ...

    async def put(
        self, path: str, stream: ByteStream, *, no_overwrite_dir_non_dir: bool = False, copy_uid_gid: bool = False
    ) -> None:
        """Unpack a tar (plain, gzip, zstd, bzip2, xz) into the existing directory `path`."""
        ...

    async def make_directories(self, path: str, *, uid: int = 0, gid: int = 0, mode: int = 0o755) -> None:
        """Like mkdir -p. Existing ones are left as they are."""
        ...

    async def read_file(self, path: str, limit: int) -> bytes:
        """At most `limit` bytes of a regular file (/etc/passwd, say); links are followed inside the tree."""
        ...

    async def copy_out(self, path: str, destination: str) -> bool:
        """Copy the content of the directory `path` into the host's empty directory `destination`, with owners, modes,
        xattrs, and the directory's own owner and mode (what a new volume gets). False when there is no such path."""
        ...

    async def copy_in(
        self,
        sources: list[tuple[str, str]],
        destination: str,
        *,
        owner: str = "",
        chmod: int | None = None,
        destination_is_directory: bool = False,
    ) -> None:
        """COPY of a Dockerfile: each source is (root directory on the host, path in it); a directory's content is merged
        into the destination. `owner` is uid[:gid] or names looked up in the tree; empty is 0:0."""
        ...


class Trees(Protocol):
    """Opens trees."""

    def of_pid(self, pid: int, uid_base: int) -> AbstractAsyncContextManager[Tree]:
        """The tree of a running container, seen through its init; host ids less `uid_base` are the container's."""
        ...

    def of_overlay(self, overlay: Overlay, binds: tuple[tuple[str, str, str], ...] = ()) -> AbstractAsyncContextManager[Tree]:
        """The tree of a container that does not run, or of an image: mounted by the worker in its own mount namespace.
        `binds` are (host path, destination, part) of its volumes and bind mounts. With a part, only what that path leads to
        inside the source is shown; links cannot lead out of it, and one that leads nowhere is left out."""
        ...
