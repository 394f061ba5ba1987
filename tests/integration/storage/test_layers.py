"""Layers: what is applied, how it looks on disk, and what comes back as a tar."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import io
import lzma
import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from berth.errors import BerthError, Conflict, DataLoss, NotFound
from berth.model.digest import Digest, digest_of
from berth.storage import overlay
from support.stores import EMPTY, Stores, archive, collect, picture, stream

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


def rich_tar() -> bytes:
    """One of everything."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, kind: bytes, data: bytes = b"", **fields: object) -> None:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.mtime = 1_500_000_000
            info.size = len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))

        add("./", tarfile.DIRTYPE, mode=0o711)
        add("etc/", tarfile.DIRTYPE, mode=0o755, mtime=1_000_000_000)
        add("etc/passwd", tarfile.REGTYPE, b"root:x:0:0\n", mode=0o644)
        add("bin/", tarfile.DIRTYPE, mode=0o1777)
        add("bin/ping", tarfile.REGTYPE, b"#!", mode=0o755, pax_headers={
            "SCHILY.xattr.security.capability": CAPABILITY.decode("latin-1"), "SCHILY.xattr.user.note": "hello"})  # fmt: skip
        add("bin/su", tarfile.REGTYPE, b"x" * 70000, mode=0o4755, uid=12, gid=13)
        add("bin/hard", tarfile.LNKTYPE, linkname="bin/su")
        add("sh", tarfile.SYMTYPE, linkname="/bin/su", uid=5)
        add("fifo", tarfile.FIFOTYPE, mode=0o622)
        add("null", tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3)
        add("disk", tarfile.BLKTYPE, mode=0o660, devmajor=8, devminor=1)
        add("x/" * 40 + "deep " + "n" * 120, tarfile.REGTYPE, b"deep", uid=3_000_000, gid=70_000)
        add("ünïcode/ß", tarfile.REGTYPE, b"u", mtime=-5)
        add("secret", tarfile.REGTYPE, b"", mode=0)
    return buffer.getvalue()


async def test_a_foreign_layer_keeps_everything(stores: Stores) -> None:
    data = rich_tar()
    layer = await stores.layers.apply_blob(None, digest_of(data), stores.blob(data))
    fs = stores.fs(layer.chain_id)
    assert layer.chain_id == layer.diff_id == digest_of(data)
    assert stat.S_IMODE(os.stat(fs).st_mode) == 0o711
    assert os.stat(fs / "etc").st_mtime == 1_000_000_000
    assert stat.S_IMODE(os.stat(fs / "bin/su").st_mode) == 0o4755
    assert os.stat(fs / "bin/hard").st_ino == os.stat(fs / "bin/su").st_ino
    assert os.getxattr(fs / "bin/ping", "security.capability") == CAPABILITY
    assert os.getxattr(fs / "bin/ping", "user.note") == b"hello"
    assert os.lstat(fs / "sh").st_uid == 5
    assert os.stat(fs / "null").st_rdev == os.makedev(1, 3) and stat.S_IMODE(os.stat(fs / "null").st_mode) == 0o666
    assert os.stat(fs / "ünïcode/ß").st_mtime == -5
    assert layer.size == 11 + 2 + 70000 + 4 + 1
    assert stores.layers.large_ids(layer.chain_id) == (70_000, 3_000_000)
    assert await collect(stores.layers.tar(layer.chain_id)) == data


def compressions(data: bytes) -> dict[str, bytes]:
    half = len(data) // 2
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    return {
        "gzip": gzip.compress(data),
        "gzip, two members": gzip.compress(data[:half]) + gzip.compress(data[half:]),
        "gzip, padded": gzip.compress(data) + bytes(512),
        "zstd": zstd.compress(data),
        "zstd, frames": zstd.compress(data[:half]) + skippable + zstd.compress(data[half:]),
        "xz": lzma.compress(data),
        "bzip2": bz2.compress(data),
    }


@pytest.mark.parametrize("name", list(compressions(b"")))
async def test_every_compression_gives_the_same_layer(stores: Stores, name: str) -> None:
    data = rich_tar()
    seen: list[int] = []
    packed = compressions(data)[name]
    layer = await stores.layers.apply_blob(None, digest_of(data), stores.blob(packed), seen.append)
    assert (stores.fs(layer.chain_id) / "etc/passwd").read_text() == "root:x:0:0\n"
    assert await collect(stores.layers.tar(layer.chain_id)) == data
    await asyncio.sleep(0)
    assert seen[-1] == len(packed)


@pytest.mark.parametrize("part", [0.02, 0.5, 0.99])
async def test_a_cut_off_stream_leaves_nothing(stores: Stores, part: float) -> None:
    data = rich_tar()
    packed = gzip.compress(data)
    for whole in (data, packed):
        with pytest.raises(DataLoss):
            await stores.layers.apply_blob(None, digest_of(data), stores.blob(whole[: int(len(whole) * part)]))
    assert sorted(os.listdir(stores.root / "layers")) == EMPTY
    assert stores.layers.all() == []


async def test_a_tar_that_is_not_its_digest_is_refused(stores: Stores) -> None:
    data = rich_tar()
    wrong = digest_of(b"other")
    with pytest.raises(DataLoss, match="does not match its digest"):
        await stores.layers.apply_blob(None, wrong, stores.blob(data))
    # Also what follows the end of the archive counts.
    with pytest.raises(DataLoss, match="does not match its digest"):
        await stores.layers.apply_blob(None, digest_of(data), stores.blob(data + bytes(512)))
    assert sorted(os.listdir(stores.root / "layers")) == EMPTY


async def test_two_callers_share_one_unpacking(stores: Stores) -> None:
    data = rich_tar()
    blob = stores.blob(data)
    one, other = await asyncio.gather(*(stores.layers.apply_blob(None, digest_of(data), blob) for _ in range(2)))
    assert one == other
    assert sorted(os.listdir(stores.root / "layers")) == sorted([digest_of(data)[7:], *EMPTY])


async def test_cancelling_ends_the_unpacking_and_cleans_up(stores: Stores) -> None:
    data = archive(*((f"f{n}", "file", b"x" * 100) for n in range(30_000)))
    task = asyncio.ensure_future(stores.layers.apply_blob(None, digest_of(data), stores.blob(data)))
    await asyncio.sleep(0.05)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [name for name in os.listdir(stores.root / "layers") if name.startswith(".staging")] == []
    assert stores.layers.all() == []


async def test_whiteouts_in_every_order(stores: Stores) -> None:
    data = archive(
        ("a/.wh.gone", "file", ""),
        ("b/.wh..wh..opq", "file", ""),
        ("b/new", "file", "x"),
        (".wh.c", "file", ""),
        ("c/fresh", "file", "y"),
        ("d/x", "file", "z"),
        (".wh.d", "file", ""),
        (".wh.e", "file", ""),
        ("e", "file", "again"),
        (".wh..wh.plnk", "file", ""),
    )
    layer = await stores.layers.apply_blob(None, digest_of(data), stores.blob(data))
    fs = stores.fs(layer.chain_id)
    assert overlay.is_whiteout(os.lstat(fs / "a/gone"))
    for name in ("b", "c", "d"):
        assert os.getxattr(fs / name, overlay.OPAQUE) == b"y", name
    assert (fs / "e").read_text() == "again"
    assert sorted(os.listdir(fs)) == ["a", "b", "c", "d", "e"]


async def test_our_own_tar_is_stable(stores: Stores) -> None:
    """apply(our tar), then tar again: the same bytes."""
    layer = await stores.layers.apply_tar(None, stream(rich_tar()))
    assert layer.blob is None
    ours = await collect(stores.layers.tar(layer.chain_id))
    assert digest_of(ours) == layer.diff_id
    before = picture(stores.fs(layer.chain_id))
    await stores.layers.remove(layer.chain_id)
    again = await stores.layers.apply_blob(None, layer.diff_id, stores.blob(ours))
    assert picture(stores.fs(again.chain_id)) == before
    stores.blobs.delete(digest_of(ours))
    assert await collect(stores.layers.tar(again.chain_id)) == ours


async def test_other_tools_read_our_tar(stores: Stores, tmp_path: Path) -> None:
    layer = await stores.layers.apply_tar(None, stream(rich_tar()))
    ours = await collect(stores.layers.tar(layer.chain_id))
    with tarfile.open(fileobj=io.BytesIO(ours)) as tar:
        names = tar.getnames()
        assert "ünïcode/ß" in names and "x/" * 40 + "deep " + "n" * 120 in names
        assert {m.uname for m in tar.getmembers()} == {""}
    target = tmp_path / "gnu"
    target.mkdir()
    arguments = ["tar", "-x", "-p", "-C", str(target), "--xattrs", "--xattrs-include=*", "--numeric-owner"]
    subprocess.run(arguments, input=ours, check=True)
    assert picture(target) == picture(stores.fs(layer.chain_id))


async def test_gnu_sparse_formats(stores: Stores, tmp_path: Path) -> None:
    source = tmp_path / "holes"
    with open(source, "wb") as file:
        for at in range(0, 6_000_000, 100_000):
            file.seek(at + 65_536)
            file.write(b"data%d" % at)
        file.truncate(7_000_000)
    (tmp_path / "empty").touch()
    os.truncate(tmp_path / "empty", 5_000_000)
    for options in (["--format=gnu"], *(["--format=pax", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0"))):
        data = subprocess.run(
            ["tar", "-c", "-S", *options, "-C", str(tmp_path), "holes", "empty"], check=True, capture_output=True
        ).stdout
        layer = await stores.layers.apply_blob(None, digest_of(data), stores.blob(data))
        fs = stores.fs(layer.chain_id)
        assert (fs / "holes").read_bytes() == source.read_bytes(), options
        assert os.stat(fs / "empty").st_size == 5_000_000
        assert os.stat(fs / "empty").st_blocks == 0


async def test_gnu_long_names_and_large_numbers(stores: Stores, tmp_path: Path) -> None:
    long = tmp_path / "in" / ("d" * 150) / ("e" * 150)
    long.mkdir(parents=True)
    (long / "f").write_text("x")
    (long / "l").symlink_to("t" * 300)
    os.chown(long / "f", 2_500_000, 4_000_000_000)
    for kind in ("gnu", "pax"):
        data = subprocess.run(
            ["tar", "-c", f"--format={kind}", "-C", str(tmp_path / "in"), "."], check=True, capture_output=True
        ).stdout
        layer = await stores.layers.apply_blob(None, digest_of(data), stores.blob(data))
        found = stores.fs(layer.chain_id) / long.relative_to(tmp_path / "in")
        assert os.readlink(found / "l") == "t" * 300
        assert (os.stat(found / "f").st_uid, os.stat(found / "f").st_gid) == (2_500_000, 4_000_000_000)


async def test_implied_parents_look_as_below(stores: Stores) -> None:
    base = archive(("srv", "dir", 0o700), ("srv/data", "dir", 0o750), uid=7)
    lower = await stores.layers.apply_blob(None, digest_of(base), stores.blob(base))
    top = archive(("srv/data/new/file", "file", "x"))
    layer = await stores.layers.apply_blob(lower.chain_id, digest_of(top), stores.blob(top))
    fs = stores.fs(layer.chain_id)
    assert (os.stat(fs / "srv").st_uid, stat.S_IMODE(os.stat(fs / "srv/data").st_mode)) == (7, 0o750)
    assert stat.S_IMODE(os.stat(fs / "srv/data/new").st_mode) == 0o755
    assert layer.parent == lower.chain_id
    assert stores.layers.stack(layer.chain_id) == (
        stores.layers.directory(layer.chain_id),
        stores.layers.directory(lower.chain_id),
    )


async def test_the_root_of_a_layer_is_told_only_where_it_differs(stores: Stores) -> None:
    base = await stores.layers.apply_tar(None, stream(archive(("./", "dir", 0o700), ("a", "file", "x"))))
    same = await stores.layers.apply_tar(base.chain_id, stream(archive(("b", "file", "x"))))
    other = await stores.layers.apply_tar(base.chain_id, stream(archive(("./", "dir", 0o711), ("b", "file", "x"))))

    async def names(chain: Digest) -> list[str]:
        with tarfile.open(fileobj=io.BytesIO(await collect(stores.layers.tar(chain)))) as tar:
            return tar.getnames()

    assert await names(base.chain_id) == [".", "a"]
    assert await names(same.chain_id) == ["b"]
    assert await names(other.chain_id) == [".", "b"]
    assert stat.S_IMODE(os.stat(stores.fs(same.chain_id)).st_mode) == 0o700


async def test_removal_goes_from_the_top(stores: Stores) -> None:
    lower = await stores.layers.apply_tar(None, stream(archive(("a", "file", "x"))))
    upper = await stores.layers.apply_tar(lower.chain_id, stream(archive(("b", "file", "x"))))
    with pytest.raises(Conflict, match="another layer"):
        await stores.layers.remove(lower.chain_id)
    await stores.snapshots.prepare("k", upper.chain_id)
    with pytest.raises(Conflict, match="container"):
        await stores.layers.remove(upper.chain_id)
    await stores.snapshots.remove("k")
    for layer in (upper, lower, lower):
        await stores.layers.remove(layer.chain_id)
    assert sorted(os.listdir(stores.root / "layers")) == EMPTY
    with pytest.raises(NotFound):
        stores.layers.tar(lower.chain_id)


async def test_a_lost_directory_is_unpacked_again(stores: Stores) -> None:
    data = rich_tar()
    layer = await stores.layers.apply_blob(None, digest_of(data), stores.blob(data))
    os.rename(stores.fs(layer.chain_id), stores.root / "elsewhere")
    assert stores.layers.get(layer.chain_id) is None
    assert await stores.layers.apply_blob(None, digest_of(data), stores.blob(data)) == layer
    assert stores.fs(layer.chain_id).is_dir()


async def test_a_directory_without_a_row_is_not_trusted(stores: Stores) -> None:
    data = rich_tar()
    place = stores.root / "layers" / digest_of(data)[7:]
    (place / "fs").mkdir(parents=True)
    (place / "fs" / "etc").touch()
    layer = await stores.layers.apply_blob(None, digest_of(data), stores.blob(data))
    assert (stores.fs(layer.chain_id) / "etc/passwd").exists()


async def test_a_damaged_layer_of_our_own_is_noticed(stores: Stores) -> None:
    layer = await stores.layers.apply_tar(None, stream(archive(("a", "file", "x"))))
    (stores.fs(layer.chain_id) / "a").write_text("y")
    with pytest.raises(DataLoss, match="does not match"):
        await collect(stores.layers.tar(layer.chain_id))


names = st.sampled_from(["a", "b", "c/a", "c/b", "c", "d/e/f", "d/e", ".wh.a", "c/.wh.b", "c/.wh..wh..opq", ".wh.c", "d/.wh.e"])
members = st.lists(
    st.tuples(names, st.sampled_from(["file", "dir", "link", "hard"]), st.sampled_from(["a", "b", "c/a", "../c", "/d"])),
    max_size=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(members)
def test_any_archive_gives_a_stable_tar(stores: Stores, tree: list[tuple[str, str, str]]) -> None:
    wanted = [m if not m[0].rpartition("/")[2].startswith(".wh.") else (m[0], "file", "") for m in tree]
    wanted = [(name, kind, 0 if kind == "dir" else value) for name, kind, value in wanted]

    async def check() -> None:
        try:
            layer = await stores.layers.apply_tar(None, stream(archive(*wanted)))
        except BerthError:
            return
        ours = await collect(stores.layers.tar(layer.chain_id))
        before = picture(stores.fs(layer.chain_id))
        await stores.layers.remove(layer.chain_id)
        again = await stores.layers.apply_tar(None, stream(ours))
        assert again.diff_id == layer.diff_id
        after = picture(stores.fs(again.chain_id))
        # A whiteout's own time and the root's are not content.
        assert {k: v[:4] + v[5:] for k, v in after.items()} == {k: v[:4] + v[5:] for k, v in before.items()}
        await stores.layers.remove(again.chain_id)

    asyncio.run(check())
