"""Files of layers that are not what they were: each kind of damage is found by name, and mended from what the layer came in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from berth.model.digest import Digest, digest_of
from berth.storage import overlay
from support.stores import Stores, archive, picture, stream

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
TREE = archive(
    ("d", "dir", ""), ("d/file", "file", "content" * 1000), ("d/other", "file", "other"), ("d/link", "link", "file"),
    ("d/hard", "hard", "d/file"), ("d/pipe", "fifo", ""), ("e", "dir", ""), ("e/deep", "dir", ""), ("e/deep/x", "file", "x"),
    (".wh.gone", "file", ""), ("e/.wh..wh..opq", "file", ""), ("empty", "file", ""),
)  # fmt: skip


def keep_time(path: Path, change: Callable[[], object]) -> None:
    """As a disk does it, that tells nobody."""
    status = os.lstat(path)
    change()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def flip(fs: Path) -> None:
    data = bytearray((fs / "d/file").read_bytes())
    data[1234] ^= 1
    keep_time(fs / "d/file", lambda: (fs / "d/file").write_bytes(data))


def replace_tree(fs: Path) -> None:
    shutil.rmtree(fs / "e")
    (fs / "e").write_text("not a directory")


def replace_by_link(fs: Path) -> None:
    shutil.rmtree(fs / "d")
    (fs / "d").symlink_to("/etc")


# What happens, and what is told.
DAMAGES: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "a bit": (flip, {"d/file"}),
    "a file gone": (lambda fs: (fs / "d/other").unlink(), {"d/other"}),
    "a name of two gone": (lambda fs: (fs / "d/file").unlink(), {"d/file", "d/hard"}),
    "a tree gone": (lambda fs: shutil.rmtree(fs / "e/deep"), {"e/deep/", "e/deep/x"}),
    "a mode": (lambda fs: (fs / "d/other").chmod(0o4755), {"d/other"}),
    "a mode of a directory": (lambda fs: (fs / "d").chmod(0o777), {"d/"}),
    "an owner": (lambda fs: os.chown(fs / "d/other", 7, 8), {"d/other"}),
    "an attribute": (lambda fs: os.setxattr(fs / "d/other", "user.x", b"y"), {"d/other"}),
    "a capability": (lambda fs: os.setxattr(fs / "d/other", "security.capability", CAPABILITY), {"d/other"}),
    "an attribute of a directory": (lambda fs: os.setxattr(fs / "e", "user.x", b"y"), {"e/"}),
    "a file more": (lambda fs: (fs / "e/deep/more").write_text("more"), {"e/deep/more"}),
    "a time": (lambda fs: os.utime(fs / "d/other", (1, 1)), {"d/other"}),
    "a link": (lambda fs: ((fs / "d/link").unlink(), (fs / "d/link").symlink_to("/etc/passwd")), {"d/link"}),
    "a whiteout gone": (lambda fs: (fs / "gone").unlink(), {".wh.gone"}),
    "no longer opaque": (lambda fs: os.removexattr(fs / "e", overlay.OPAQUE), {"e/.wh..wh..opq"}),
    "opaque": (lambda fs: os.setxattr(fs / "d", overlay.OPAQUE, b"y"), {"d/.wh..wh..opq"}),
    "a directory that is a file": (replace_tree, {"e", "e/", "e/.wh..wh..opq", "e/deep/", "e/deep/x"}),
    "a directory that leads out": (replace_by_link, {"d", "d/", "d/file", "d/other", "d/link", "d/hard", "d/pipe"}),
    "the root": (lambda fs: fs.chmod(0o700), {"./"}),
}


def look(fs: Path) -> dict[str, tuple[object, ...]]:
    """All that is content: the time of a whiteout is not."""
    return {name: seen if seen[0] != "0o20000" else (*seen[:4], *seen[5:]) for name, seen in picture(fs).items()}


async def from_elsewhere(stores: Stores) -> Digest:
    base = await stores.layers.apply_tar(None, stream(archive(("gone", "file", "x"), ("e", "dir", ""), ("e/below", "file", "x"))))
    layer = await stores.layers.apply_blob(base.chain_id, digest_of(TREE), stores.blob(TREE))
    return layer.chain_id


@pytest.mark.parametrize("name", DAMAGES)
async def test_damage_is_named_and_mended(stores: Stores, name: str) -> None:
    chain = await from_elsewhere(stores)
    fs, (damage, told) = stores.fs(chain), DAMAGES[name]
    before = look(fs)
    assert await stores.layers.verified(chain) is None and stores.layers.whole(chain)
    damage(fs)
    found = await stores.layers.verified(chain)
    assert found is not None and found.source and not found.mended and not stores.layers.whole(chain)
    names = {os.fsdecode(name) for name in found.names}
    # What happens in a directory changes its time, within the second or not.
    assert told <= names and {n for n in names - told if not n.endswith("/")} == set()
    assert look(fs) != before, "it was mended without being asked"
    mended = await stores.layers.verified(chain, repair=True)
    assert mended is not None and mended.mended
    after = look(fs)
    assert after == before
    assert await stores.layers.verified(chain) is None and stores.layers.whole(chain)


async def test_who_fetches_it_again_mends_what_was_found(stores: Stores) -> None:
    """And only that: what nobody has looked at is trusted, as it costs nothing."""
    chain = await from_elsewhere(stores)
    before = look(stores.fs(chain))
    parent = stores.layers.get(chain).parent  # type: ignore[union-attr]  # it was just made
    inode = (stores.fs(chain) / "d/other").stat().st_ino
    flip(stores.fs(chain))
    await stores.layers.apply_blob(parent, digest_of(TREE), stores.blob(TREE))
    assert look(stores.fs(chain)) != before
    await stores.layers.verified(chain)
    await stores.layers.apply_blob(parent, digest_of(TREE), stores.blob(TREE))
    assert look(stores.fs(chain)) == before and await stores.layers.verified(chain) is None
    assert (stores.fs(chain) / "d/other").stat().st_ino == inode, "only what was damaged is replaced"


async def test_layers_of_our_own(stores: Stores) -> None:
    """They have no blob: the file is named by the sums, and the layer is mended by an archive of it."""
    layer = await stores.layers.apply_tar(None, stream(TREE))
    fs = stores.fs(layer.chain_id)
    tar = b"".join([piece async for piece in stores.layers.tar(layer.chain_id)])
    before = look(fs)
    assert await stores.layers.verified(layer.chain_id) is None
    flip(fs)
    found = await stores.layers.verified(layer.chain_id, repair=True)
    assert found is not None and not found.source and not found.mended
    assert set(found.names) == {b"d/file"}
    for spoil in (lambda path: path.write_bytes(b"garbage\0"), Path.unlink):
        spoil(fs.parent / "sums")
        found = await stores.layers.verified(layer.chain_id)
        assert found is not None and found.names == (), "without sums the layer is known, not the file"
    await stores.layers.apply_blob(None, layer.diff_id, stores.blob(tar))
    assert look(fs) == before and await stores.layers.verified(layer.chain_id) is None


async def test_a_damaged_blob_says_nothing_of_the_layer(stores: Stores) -> None:
    chain = await from_elsewhere(stores)
    blob = stores.layers.get(chain).blob  # type: ignore[union-attr]  # it was just made
    assert blob is not None
    path = Path(stores.blobs.path(blob.digest))
    path.write_bytes(path.read_bytes()[:-2000])
    found = await stores.layers.verified(chain, repair=True)
    assert found is not None and not found.mended and found.error and stores.layers.whole(chain)
