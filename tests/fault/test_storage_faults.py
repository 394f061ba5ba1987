"""A full disk, no inodes left, a kill in the middle: clear errors, and nothing half done that counts."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from berth.errors import ResourceExhausted
from berth.kernel import mount
from berth.model.digest import digest_of
from berth.storage.gc import Collector
from berth.storage.tree import TreeStore
from support.spawning import opened_trees
from support.stores import EMPTY, Stores, archive, open_stores, stream

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a small filesystem is mounted: root is needed")

MEGABYTE = 1 << 20


@pytest.fixture(params=["size=8m", "nr_inodes=60"])
def small(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stores]:
    """Stores on a filesystem with little room, or with few inodes."""
    place = tmp_path / "small"
    place.mkdir()
    mount.mount("small", str(place), "tmpfs", 0, str(request.param))
    try:
        with open_stores(place / "root") as stores:
            yield stores
    finally:
        mount.umount2(str(place), 0)


def too_much() -> bytes:
    """More than fits, in bytes and in inodes; it is built up so that much is there before it fails."""
    return archive(*((f"d{n}/f", "file", os.urandom(200_000)) for n in range(60)))


def left(stores: Stores) -> list[str]:
    return sorted(os.listdir(stores.root / "layers"))


def free(stores: Stores) -> tuple[int, int]:
    status = os.statvfs(stores.root)
    return status.f_bavail * status.f_frsize, status.f_favail


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    async for piece in stream(data, 1 << 16):
        yield piece


def test_unpacking_onto_a_full_disk(small: Stores) -> None:
    before = free(small)
    with pytest.raises(ResourceExhausted, match="no space left on device while unpacking the archive"):
        asyncio.run(small.layers.apply_tar(None, pieces(too_much())))
    assert left(small) == EMPTY and small.layers.all() == []
    assert free(small) == before
    # The store goes on working.
    layer = asyncio.run(small.layers.apply_tar(None, stream(archive(("f", "file", "x")))))
    assert small.layers.get(layer.chain_id) == layer


@pytest.mark.parametrize("small", ["size=8m"], indirect=True)
def test_downloading_onto_a_full_disk(small: Stores) -> None:
    data = os.urandom(12 * MEGABYTE)
    before = free(small)
    with pytest.raises(ResourceExhausted, match="no space left on device while writing blob"):
        asyncio.run(small.blobs.ingest(digest_of(data), len(data), lambda offset: pieces(data[offset:])))
    with pytest.raises(ResourceExhausted, match="no space left on device while writing blob"):
        small.blobs.write(data)
    assert os.listdir(small.root / "ingest") == [] and free(small) == before


def fill(upper: Path) -> None:
    """About as much as half of the disk holds, in either measure."""
    for n in range(22):
        (upper / f"f{n}").write_bytes(os.urandom(200_000))


def test_committing_onto_a_full_disk(small: Stores) -> None:
    async def run() -> None:
        view = await small.snapshots.prepare("key", None)
        upper = Path(view.store) / str(view.upper)
        fill(upper)
        status = os.statvfs(small.root)
        for n in range(max(0, status.f_favail - 10) if status.f_files < 1000 else 0):
            (small.root / f"ballast{n}").touch()
        before = free(small)
        with pytest.raises(ResourceExhausted, match="no space left on device while committing key"):
            await small.snapshots.commit("key", keep=True)
        assert left(small) == EMPTY and small.layers.all() == []
        assert free(small) == before
        # Without a copy there is room enough, and the snapshot had lost nothing.
        layer = await small.snapshots.commit("key", keep=False)
        assert layer is not None and layer.size == 22 * 200_000

    asyncio.run(run())


def test_putting_an_archive_onto_a_full_disk(small: Stores) -> None:
    async def run(trees: TreeStore) -> None:
        view = await small.snapshots.prepare("key", None)
        async with trees.of_overlay(view) as tree:
            with pytest.raises(ResourceExhausted, match="no space left on device while unpacking the archive"):
                await tree.put("/", pieces(too_much()))
            assert (await tree.stat("/")).name == "/"
        await small.snapshots.remove("key")

    with opened_trees() as trees:
        asyncio.run(run(trees))


def test_things_can_be_removed_from_a_full_disk(small: Stores) -> None:
    layer = asyncio.run(small.layers.apply_tar(None, stream(archive(("f", "file", b"x" * 100_000)))))
    asyncio.run(small.snapshots.prepare("key", layer.chain_id))
    # The log of the database is folded in, so that the next change needs room.
    small.database.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    ballast = os.open(small.root / "ballast", os.O_WRONLY | os.O_CREAT)
    with pytest.raises(OSError, match="No space left"):
        while True:
            os.write(ballast, bytes(65536))
    os.close(ballast)
    asyncio.run(small.snapshots.remove("key"))
    asyncio.run(small.layers.remove(layer.chain_id))
    assert small.layers.all() == [] and small.snapshots.keys() == [] and left(small) == EMPTY
    os.unlink(small.root / "ballast")
    small.database.execute("INSERT INTO settings (key, value) VALUES ('a', 'b')")
    assert os.stat(small.root / "berth.db.reserve").st_blocks > 0


_KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from support.stores import archive, open_stores, stream
from berth.storage import layer, snapshot

root, point = Path(sys.argv[1]), sys.argv[2]

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

async def run(stores):
    if point == "unpack":
        async def cut():
            async for piece in stream(archive(*((f"f{n}", "file", "x" * 5000) for n in range(500)))):
                yield piece
                if os.path.exists(next(iter((root / "layers").glob(".staging-*"))) / "fs/f100"):
                    die()
        await stores.layers.apply_tar(None, cut())
    if point == "flushed":
        layer.fsync_directory = die
    if point == "row":
        stores.database.transaction = lambda durable=False: die()
    if point == "remove":
        made = await stores.layers.apply_tar(None, stream(archive(("a", "file", "x"))))
        stores.layers.executor.submit = die
        await stores.layers.remove(made.chain_id)
    if point == "commit":
        view = await stores.snapshots.prepare("key", None)
        (Path(view.store) / view.upper / "f").touch()
        snapshot._opened = lambda upper, lower: die()
        await stores.snapshots.commit("key", keep=False)
    await stores.layers.apply_tar(None, stream(archive(("a", "file", "x"))))

with open_stores(root) as stores:
    asyncio.run(run(stores))
"""


@pytest.mark.parametrize("point", ["unpack", "flushed", "row", "remove", "commit"])
def test_a_kill_leaves_nothing_that_counts(tmp_path: Path, point: str) -> None:
    root = tmp_path / "root"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", _KILLED, str(root), point], env=environment, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert len(os.listdir(root / "layers")) > 2
    with open_stores(root) as stores:
        assert stores.layers.all() == []

        async def recover() -> None:
            await Collector(stores.database, stores.blobs, stores.layers, stores.snapshots).start()
            # The executor has as many threads as it has; when all these are through, so is what was given to it before.
            loop = asyncio.get_running_loop()
            await asyncio.gather(*(loop.run_in_executor(stores.layers.executor, os.getpid) for _ in range(8)))
            layer = await stores.layers.apply_tar(None, stream(archive(("a", "file", "x"))))
            await stores.layers.remove(layer.chain_id)

        asyncio.run(recover())
        stores.layers.close()
        assert left(stores) == EMPTY
