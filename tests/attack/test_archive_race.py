"""Trees that change while they are read and written, and that are made to hurt whoever looks into them.

SECURITY rows 24 (a link swapped during cp), 25 and 26 (nothing of the tree is executed or loaded), 34 (VOLUME paths that lead
out), 37 (an /etc/passwd that hangs or never ends).
"""

from __future__ import annotations

import asyncio
import bz2
import gzip
import io
import lzma
import os
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from backports import zstd

from berth.errors import BerthError, InvalidArgument, NotFound
from berth.storage.tree import TreeStore
from support.canary import SECRET, canary
from support.racer import Racer
from support.spawning import opened_trees
from support.stores import Stores, archive, collect, open_stores, stream

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a worker mounts and changes owners: root is needed")

SECONDS = 2.0


@pytest.fixture
def trees() -> Iterator[TreeStore]:
    with opened_trees() as store:
        yield store


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    with open_stores(tmp_path / "root") as made:
        yield made


@pytest.fixture
def container(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A process with a root of its own, and that root on the host."""
    root = tmp_path / "rootfs"
    for name in ("bin", "etc", "tmp", "usr/bin", "proc"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    near, far = socket.socketpair()
    process = subprocess.Popen(
        ["unshare", "-m", "--propagation", "private", "chroot", str(root), "/bin/busybox", "sh", "-c", "echo x; read x"],
        stdin=far, stdout=far,
    )  # fmt: skip
    far.close()
    assert near.recv(10) == b"x\n"
    yield process.pid, root
    near.close()
    process.wait(timeout=10)


@pytest.mark.parametrize("target", ["absolute", "relative"])
def test_a_swapped_link_leads_nowhere(container: tuple[int, Path], tmp_path: Path, trees: TreeStore, target: str) -> None:
    pid, root = container
    (root / "swap").mkdir()
    (root / "swap/file").write_text("inside")
    with canary(tmp_path / "canary") as outside:
        (root / "link").symlink_to(outside if target == "absolute" else "../canary")
        with Racer(root / "swap", root / "link") as racer:
            tries, read = asyncio.run(_copy_both_ways(pid, trees))
    assert racer.swaps > 500 and tries >= 5 and read >= 5


async def _copy_both_ways(pid: int, trees: TreeStore) -> tuple[int, int]:
    """Out and in, for a while; how many tries there were, and how often the file was read."""
    tries = read = 0
    until = time.monotonic() + SECONDS
    new = archive(("directory", "dir", 0o777), ("directory/file", "file", "written"), ("file2", "file", "x"))
    async with trees.of_pid(pid, 0) as tree:
        while time.monotonic() < until:
            tries += 1
            for path in (*["/swap/file"] * 10, "/swap", "/etc/.."):
                try:
                    data = await collect(tree.get(path))
                except BerthError:
                    continue
                assert SECRET.encode() not in data
                read += path == "/swap/file"
            try:
                await tree.put("/swap", stream(new))
            except BerthError:
                pass
            try:
                assert SECRET.encode() not in await tree.read_file("/swap/file", 1000)
                await tree.make_directories("/swap/made/deep")
            except BerthError:
                pass
    return tries, read


FAKES = ("xz", "unxz", "bzip2", "gzip", "unpigz", "pigz", "zstd", "tar", "sh")


def test_nothing_of_the_tree_is_executed(container: tuple[int, Path], trees: TreeStore) -> None:
    pid, root = container
    for folder in ("bin", "usr/bin"):
        for name in FAKES:
            (root / folder / name).write_text("#!/bin/busybox sh\ntouch /marker\n")
            (root / folder / name).chmod(0o755)
    data = archive(("unpacked", "file", "x"))

    async def run() -> None:
        async with trees.of_pid(pid, 0) as tree:
            for compress in (bytes, gzip.compress, bz2.compress, lzma.compress, zstd.compress):
                await tree.put("/tmp", stream(compress(data)))
                os.unlink(root / "tmp/unpacked")
            await collect(tree.get("/"))
            with pytest.raises(InvalidArgument):
                await tree.copy_in([(str(root), "bin/sh")], "/x", owner="nobody")

    asyncio.run(run())
    assert not (root / "marker").exists()


def test_nothing_of_the_tree_is_loaded(container: tuple[int, Path], tmp_path: Path) -> None:
    """Libraries, locales, name service modules: after the tree is entered, only the kernel's own files are opened by name."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    pid, root = container
    for name in ("lib", "usr/lib", "lib/x86_64-linux-gnu", "usr/lib/python3", "usr/share/zoneinfo"):
        (root / name).mkdir(parents=True)
    (root / "etc/nsswitch.conf").write_text("passwd: evil\n")
    trace = tmp_path / "trace"

    async def run(trees: TreeStore) -> None:
        async with trees.of_pid(pid, 0) as tree:
            await tree.stat("/etc")
            await collect(tree.get("/etc"))
            await tree.put("/tmp", stream(zstd.compress(archive(("x", "file", "y"), uid=12))))
            with pytest.raises(InvalidArgument):
                await tree.copy_in([(str(root), "bin/busybox")], "/x", owner="user:group")

    with opened_trees("strace", "-f", "-qq", "-e", "trace=openat,execve,open", "-o", str(trace)) as trees:
        asyncio.run(run(trees))
    lines = trace.read_text().splitlines()
    entered = max(number for number, line in enumerate(lines) if f'"/proc/{pid}/root"' in line)
    assert entered > 20
    opened = [line for line in lines[entered + 1 :] if "execve" in line or '"/' in line]
    assert [line for line in opened if '"/proc/self/fd/' not in line] == []


def test_a_volume_path_that_leads_out_copies_nothing(stores: Stores, tmp_path: Path, trees: TreeStore) -> None:
    """What an image declares as VOLUME is its own content, however the path is written."""
    with canary(tmp_path / "canary") as outside:
        data = archive(
            ("link", "link", str(outside)),
            ("up", "link", "../" * 20 + str(outside)[1:]),
            ("dir/file", "file", "image"),
            ("dir/link", "link", str(outside / "file")),
        )

        async def run() -> dict[str, bool]:
            found = {}
            layer = await stores.layers.apply_tar(None, stream(data))
            async with trees.of_overlay(stores.snapshots.view(layer.chain_id)) as tree:
                for number, path in enumerate(("/link", "/up", f"/../..{outside}", f"/dir/../../..{outside}", "/../../dir")):
                    volume = tmp_path / f"volume{number}"
                    volume.mkdir()
                    found[path] = await tree.copy_out(path, str(volume))
            return found

        found = asyncio.run(run())
    assert list(found.values()) == [False, False, False, False, True]
    assert (tmp_path / "volume4/file").read_text() == "image"
    # A link is copied as a link.
    assert (tmp_path / "volume4/link").is_symlink()
    assert [os.listdir(tmp_path / f"volume{number}") for number in range(4)] == [[]] * 4


def test_an_accounts_file_cannot_hang_or_fill_the_engine(container: tuple[int, Path], tmp_path: Path, trees: TreeStore) -> None:
    pid, root = container
    etc = root / "etc"
    os.mkfifo(etc / "fifo")
    (etc / "huge").touch()
    os.truncate(etc / "huge", 10 << 30)
    os.mknod(etc / "zero", 0o20666, os.makedev(1, 5))
    (tmp_path / "secret").write_text(SECRET)
    (etc / "out").symlink_to(tmp_path / "secret")
    (etc / "loop").symlink_to("loop")

    async def run() -> None:
        async with trees.of_pid(pid, 0) as tree:
            for name in ("fifo", "zero", "loop", "."):
                with pytest.raises(InvalidArgument):
                    await tree.read_file(f"/etc/{name}", 1 << 20)
            with pytest.raises(NotFound):
                await tree.read_file("/etc/out", 1 << 20)
            assert len(await tree.read_file("/etc/huge", 1 << 20)) == 1 << 20
            for name in ("fifo", "huge", "out"):
                (etc / "passwd").unlink(missing_ok=True)
                os.rename(etc / name, etc / "passwd")
                with pytest.raises(InvalidArgument, match="unable to find user web"):
                    await tree.copy_in([(str(root), "bin/busybox")], "/x", owner="web")

    started = time.monotonic()
    asyncio.run(asyncio.wait_for(run(), 20))
    assert time.monotonic() - started < 10


def test_a_fifo_in_a_tree_does_not_stop_a_copy(container: tuple[int, Path], trees: TreeStore) -> None:
    pid, root = container
    os.mkfifo(root / "etc/fifo")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(root / "etc/socket"))

    async def run() -> list[str]:
        async with trees.of_pid(pid, 0) as tree:
            with tarfile.open(fileobj=io.BytesIO(await collect(tree.get("/etc")))) as tar:
                return tar.getnames()

    names = asyncio.run(asyncio.wait_for(run(), 20))
    listening.close()
    assert names == ["etc", "etc/fifo"]
