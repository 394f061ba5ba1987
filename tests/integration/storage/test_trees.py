"""Trees by a real worker: of an overlay that it mounts itself, and of a process with a root of its own."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import io
import lzma
import os
import shutil
import socket
import stat
import subprocess
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from backports import zstd

from berth.errors import Forbidden, InvalidArgument, NotFound
from berth.storage.compression import expand
from berth.storage.tree import TreeStore
from berth.storage.workers import Workers
from support.spawning import Spawner, opened_trees
from support.stores import Stores, archive, collect, picture, stream

MEMBERS = (
    ("etc", "dir", 0o755),
    ("etc/passwd", "file", "root:x:0:0\nweb:x:33:44\n"),
    ("etc/group", "file", "root:x:0:\nstaff:x:50:\n"),
    ("etc/link", "link", "/etc/passwd"),
    ("var", "dir", 0o755),
    ("run", "dir", 0o755),
    ("var/run", "link", "/run"),
    ("dangling", "link", "nowhere/x"),
    ("data", "dir", 0o2750),
    ("data/a", "file", "a"),
    ("data/b", "hard", "data/a"),
    ("data/sub/c", "file", "c"),
    ("fifo", "fifo", ""),
)


@pytest.fixture
def trees(tmp_path: Path) -> Iterator[TreeStore]:
    with opened_trees() as store:
        yield store
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


async def snapshot(stores: Stores) -> str:
    """The key of a snapshot of MEMBERS."""
    layer = await stores.layers.apply_tar(None, stream(archive(*MEMBERS, uid=1000)))
    await stores.snapshots.prepare("key", layer.chain_id)
    return "key"


def names(data: bytes) -> list[str]:
    """The names of an archive, as they stand there."""
    found = []
    at = 0
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            at = member.offset
            found.append(data[at : at + 100].rstrip(b"\0").decode())
    return found


async def test_stat_is_that_of_the_api(stores: Stores, trees: TreeStore) -> None:
    await snapshot(stores)
    async with trees.of_overlay(stores.snapshots.mounts("key")) as tree:
        found = await tree.stat("/data/")
        assert (found.name, found.mode) == ("data", 1 << 31 | 1 << 22 | 0o750)
        assert found.mtime == "2020-09-13T12:26:40Z"
        found = await tree.stat("etc/link")
        assert (found.name, found.mode & 1 << 27, found.link_target) == ("link", 1 << 27, "/etc/passwd")
        assert (await tree.stat("/var/run")).link_target == "/run"
        assert (await tree.stat("/dangling")).link_target == "/nowhere/x"
        assert (await tree.stat("/var/run/")).mode & 1 << 31
        assert (await tree.stat("/fifo")).mode == 1 << 25 | 0o644
        assert (await tree.stat("/")).name == "/"
        assert (await tree.stat("/data/.")).name == "."
        assert (await tree.stat("/../../etc/passwd")).size == 23
        for path in ("/none", "/etc/passwd/x"):
            with pytest.raises(NotFound, match="no such file or directory"):
                await tree.stat(path)


async def test_get_names_members_after_the_base(stores: Stores, trees: TreeStore) -> None:
    await snapshot(stores)
    async with trees.of_overlay(stores.snapshots.mounts("key")) as tree:
        assert names(await collect(tree.get("/data"))) == ["data/", "data/a", "data/b", "data/sub/", "data/sub/c"]
        assert names(await collect(tree.get("/data/."))) == ["./", "./a", "./b", "./sub/", "./sub/c"]
        assert names(await collect(tree.get("/etc/link"))) == ["link"]
        root = names(await collect(tree.get("/")))
        assert root[0] == "/" and "/etc/passwd" in root
        exported = await collect(tree.get("/."))
        assert "./etc/passwd" in names(exported) and names(exported)[0] == "./"
        with tarfile.open(fileobj=io.BytesIO(exported)) as tar:
            assert tar.getmember("./data/a").uid == 1000
            assert tar.getmember("./data/b").islnk()


async def test_giving_up_on_a_stream_leaves_the_tree_usable(stores: Stores, trees: TreeStore) -> None:
    layer = await stores.layers.apply_tar(None, stream(archive(("big", "file", b"x" * 20_000_000)), 1 << 20))
    async with trees.of_overlay(stores.snapshots.view(layer.chain_id)) as tree:
        reading = tree.get("/big")
        assert await anext(reading)
        await reading.aclose()  # type: ignore[attr-defined]
        assert (await tree.stat("/big")).size == 20_000_000
        assert len(await collect(tree.get("/big"))) > 20_000_000


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd.compress, bz2.compress, lzma.compress])
async def test_put_takes_every_compression(stores: Stores, trees: TreeStore, compress: Callable[[bytes], bytes]) -> None:
    await snapshot(stores)
    data = compress(archive(("x", "dir", 0o700), ("x/y", "file", "new"), uid=77))
    async with trees.of_overlay(stores.snapshots.mounts("key")) as tree:
        await tree.put("/var/run", stream(data))
        assert await tree.read_file("/run/x/y", 100) == b"new"
    upper = stores.root / "containers/key/upper"
    assert os.stat(upper / "run/x").st_uid == 77
    assert sorted(os.listdir(upper)) == ["run"]


async def test_put_rules(stores: Stores, trees: TreeStore) -> None:
    await snapshot(stores)
    async with trees.of_overlay(stores.snapshots.mounts("key")) as tree:
        with pytest.raises(NotFound):
            await tree.put("/none", stream(archive(("x", "file", ""))))
        with pytest.raises(InvalidArgument, match="extraction point is not a directory"):
            await tree.put("/etc/passwd", stream(archive(("x", "file", ""))))
        with pytest.raises(InvalidArgument, match='cannot overwrite directory "data" with non-directory "data"'):
            await tree.put("/", stream(archive(("data", "file", ""))), no_overwrite_dir_non_dir=True)
        with pytest.raises(InvalidArgument, match='cannot overwrite non-directory "passwd" with directory "passwd"'):
            await tree.put("/etc", stream(archive(("passwd", "dir", 0o755))), no_overwrite_dir_non_dir=True)
        await tree.put("/", stream(archive(("data", "file", "now a file"), ("./", "dir", 0o700))))
        assert await tree.read_file("/data", 100) == b"now a file"
        await tree.put("/etc", stream(archive(("passwd", "dir", 0o755), ("passwd/x", "file", "y"))))
        assert await tree.read_file("/etc/passwd/x", 100) == b"y"
        assert (await tree.stat("/")).mode & 0o777 == 0o755


async def test_a_view_cannot_be_written(stores: Stores, trees: TreeStore) -> None:
    layer = await stores.layers.apply_tar(None, stream(archive(*MEMBERS)))
    async with trees.of_overlay(stores.snapshots.view(layer.chain_id)) as tree:
        with pytest.raises(Forbidden, match="read-only"):
            await tree.put("/etc", stream(archive(("x", "file", "y"))))
        assert await tree.read_file("/etc/link", 4) == b"root"


async def test_a_failing_source_does_not_hang(stores: Stores, trees: TreeStore) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield archive(("x", "file", b"y" * 5000))[:1000]
        raise ConnectionError("the client went away")

    await snapshot(stores)
    async with trees.of_overlay(stores.snapshots.mounts("key")) as tree:
        with pytest.raises(ConnectionError, match="went away"):
            await tree.put("/", broken())
        assert (await tree.stat("/etc")).name == "etc"


async def test_cancelling_a_request_ends_the_worker(stores: Stores, trees: TreeStore) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield archive(("x", "file", b"y" * 5000))[:1000]
        await asyncio.sleep(60)

    await snapshot(stores)
    async with trees.of_overlay(stores.snapshots.mounts("key")) as tree:
        task = asyncio.ensure_future(tree.put("/", endless()))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_directories_are_made_with_an_owner(stores: Stores, trees: TreeStore) -> None:
    await snapshot(stores)
    async with trees.of_overlay(stores.snapshots.mounts("key")) as tree:
        await tree.make_directories("/var/run/a/b", uid=5, gid=6, mode=0o711)
        await tree.make_directories("/etc", uid=5)
    upper = stores.root / "containers/key/upper"
    for path in ("run/a", "run/a/b"):
        status = os.stat(upper / path)
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (5, 6, 0o711)
    assert not (upper / "etc").exists()


async def test_only_regular_files_are_read(stores: Stores, trees: TreeStore) -> None:
    await snapshot(stores)
    async with trees.of_overlay(stores.snapshots.mounts("key")) as tree:
        assert await tree.read_file("/etc/passwd", 4) == b"root"
        for path in ("/fifo", "/etc"):
            with pytest.raises(InvalidArgument, match="not a regular file"):
                await tree.read_file(path, 4)
        with pytest.raises(NotFound):
            await tree.read_file("/dangling", 4)


async def test_copy_out_is_what_a_new_volume_gets(stores: Stores, trees: TreeStore, tmp_path: Path) -> None:
    await snapshot(stores)
    volume = tmp_path / "volume"
    volume.mkdir()
    async with trees.of_overlay(stores.snapshots.mounts("key")) as tree:
        assert await tree.copy_out("/data", str(volume))
        assert not await tree.copy_out("/none", str(volume))
        assert not await tree.copy_out("/etc/passwd", str(volume))
    layer = stores.fs(stores.layers.all()[0].chain_id)
    assert picture(volume) == picture(layer / "data")


async def test_copy_in_is_copy(stores: Stores, trees: TreeStore, tmp_path: Path) -> None:
    await snapshot(stores)
    context = tmp_path / "context"
    (context / "dir/sub").mkdir(parents=True)
    (context / "dir/sub/f").write_text("f")
    (context / "dir/l").symlink_to("/etc/shadow")
    (context / "file").write_text("file")
    os.chmod(context / "file", 0o751)
    os.utime(context / "file", (7, 7))
    root = str(context)
    async with trees.of_overlay(stores.snapshots.mounts("key")) as tree:
        await tree.copy_in([(root, "file")], "/opt/renamed")
        await tree.copy_in([(root, "file")], "/opt/dir/", owner="web:staff")
        await tree.copy_in([(root, "dir"), (root, "/file")], "/data", owner="9", chmod=0o600)
        await tree.copy_in([(root, "../../file")], "/var/run", destination_is_directory=True)
        with pytest.raises(NotFound, match="no such file or directory: none"):
            await tree.copy_in([(root, "none")], "/x")
        with pytest.raises(InvalidArgument, match="unable to find user nobody: no matching entries in passwd file"):
            await tree.copy_in([(root, "file")], "/x", owner="nobody")
    upper = stores.root / "containers/key/upper"
    status = os.stat(upper / "opt/renamed")
    assert (stat.S_IMODE(status.st_mode), status.st_mtime, status.st_uid) == (0o751, 7, 0)
    assert (os.stat(upper / "opt/dir/file").st_uid, os.stat(upper / "opt/dir/file").st_gid) == (33, 50)
    assert os.readlink(upper / "data/l") == "/etc/shadow"
    assert (os.stat(upper / "data/sub/f").st_uid, stat.S_IMODE(os.stat(upper / "data/sub/f").st_mode)) == (9, 0o600)
    assert stat.S_IMODE(os.stat(upper / "data").st_mode) == 0o2750
    assert (upper / "run/file").read_text() == "file"


async def test_binds_are_seen_where_the_container_has_them(stores: Stores, trees: TreeStore, tmp_path: Path) -> None:
    await snapshot(stores)
    volume = stores.root / "volumes/v/_data"
    volume.mkdir(parents=True)
    (volume / "inside").write_text("volume")
    (tmp_path / "hosts").write_text("bound")
    hosts, gone = str(tmp_path / "hosts"), str(tmp_path / "gone")
    binds = ((str(volume), "/var/run/vol", ""), (hosts, "/etc/hosts", ""), (gone, "/gone", ""))
    async with trees.of_overlay(stores.snapshots.mounts("key"), binds) as tree:
        assert await tree.read_file("/run/vol/inside", 100) == b"volume"
        assert await tree.read_file("/etc/hosts", 100) == b"bound"
        await tree.put("/run/vol", stream(archive(("put", "file", "x"))))
    assert (volume / "put").read_text() == "x"


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A process whose root is a directory with /proc and a tmpfs in it."""
    root = tmp_path / "sleeper"
    (root / "proc").mkdir(parents=True)
    (root / "tmp").mkdir()
    (root / "etc").mkdir()
    shutil.copy("/bin/busybox", root / "busybox")
    near, far = socket.socketpair()
    mounts = f"mount -t proc proc {root}/proc && mount -t tmpfs t {root}/tmp"
    script = f"{mounts} && exec chroot {root} /busybox sh -c 'echo x; read x'"
    process = subprocess.Popen(["unshare", "-m", "--propagation", "private", "sh", "-c", script], stdin=far, stdout=far)
    far.close()
    assert near.recv(10) == b"x\n"
    yield process.pid, root
    near.close()
    process.wait(timeout=10)


async def test_a_running_process(sleeper: tuple[int, Path], trees: TreeStore) -> None:
    pid, root = sleeper
    async with trees.of_pid(pid, 0) as tree:
        await tree.put("/tmp", stream(archive(("f", "file", "in tmpfs"))))
        assert await tree.read_file("/tmp/f", 100) == b"in tmpfs"
        assert (await tree.stat("/tmp/f")).size == 8
        everything = names(await collect(tree.get("/")))
        assert "/tmp/f" in everything and "/proc/" in everything
        assert not [name for name in everything if name.startswith("/proc/") and name != "/proc/"]
        with pytest.raises(InvalidArgument):
            await tree.read_file("/proc/self/exe", 10)
    assert os.listdir(root / "tmp") == []


async def test_a_process_that_is_gone(trees: TreeStore) -> None:
    with pytest.raises(NotFound, match="has ended"):
        async with trees.of_pid(2**22 - 1, 0):
            pass


async def test_workers_share_a_parent_that_may_be_lost(stores: Stores) -> None:
    await snapshot(stores)
    spawner = Spawner()
    workers = Workers(spawner.spawn)
    trees = TreeStore(workers, expand)
    view = stores.snapshots.mounts("key")
    for _ in range(3):
        async with trees.of_overlay(view) as tree:
            assert (await tree.stat("/etc")).name == "etc"
    (parent,) = spawner.children
    async with trees.of_overlay(view) as tree:
        # An open tree does not need it any more, and the next one starts another.
        parent.kill()
        assert parent.wait(timeout=10) == -9
        assert (await tree.stat("/etc")).name == "etc"
    spawner.children.clear()
    async with trees.of_overlay(view) as tree:
        assert (await tree.stat("/etc")).name == "etc"
    assert len(spawner.children) == 1
    workers.close()
    spawner.end()


async def test_an_idle_parent_ends(stores: Stores) -> None:
    await snapshot(stores)
    spawner = Spawner()
    workers = Workers(spawner.spawn)
    trees = TreeStore(workers, expand)
    async with trees.of_overlay(stores.snapshots.mounts("key")):
        pass
    spawner.end()
    async with trees.of_overlay(stores.snapshots.mounts("key")) as tree:
        assert (await tree.stat("/etc")).name == "etc"
    workers.close()
    spawner.end()
