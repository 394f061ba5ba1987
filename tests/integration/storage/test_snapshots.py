"""Snapshots on a real overlay: what changed, what a commit makes of it."""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from berth.errors import AlreadyExists, InvalidArgument, NotFound
from berth.model.rootfs import Overlay
from berth.storage import overlay
from berth.storage.base import make as make_base
from berth.storage.layer import LayerStore
from support.stores import EMPTY, Stores, archive, collect, picture, stream

libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def mounted(view: Overlay, where: Path) -> Iterator[Path]:
    """The overlay, mounted for a moment."""
    where.mkdir(exist_ok=True)
    lower = ":".join(f"{view.store}/{layer}" for layer in view.layers)
    options = f"lowerdir={lower}"
    if view.upper is not None:
        options += f",upperdir={view.store}/{view.upper},workdir={view.store}/{view.work}"
    if libc.mount(b"overlay", os.fsencode(where), b"overlay", 0, options.encode()):
        raise OSError(ctypes.get_errno(), f"mount: {options}")
    try:
        yield where
    finally:
        assert libc.umount2(os.fsencode(where), 0) == 0


async def base(stores: Stores) -> str:
    """Two layers with something of everything to change."""
    lower = await stores.layers.apply_tar(
        None,
        stream(
            archive(
                ("etc", "dir", 0o755),
                ("etc/passwd", "file", "root"),
                ("etc/group", "file", "root"),
                ("opt/tool/a", "file", "a"),
                ("opt/tool/b", "file", "b"),
                ("var/log/x/y", "file", "y"),
                ("home", "dir", 0o755),
                ("gone", "file", ""),
            )
        ),
    )
    top = await stores.layers.apply_tar(lower.chain_id, stream(archive((".wh.gone", "file", ""), ("opt/tool/c", "file", "c"))))
    return top.chain_id


def own(stores: Stores, root: Path) -> dict[str, object]:
    """A picture of a container without what only the layer below its image has."""
    below = set(picture(stores.root / LayerStore.base)) - {".", "etc"}
    return {path: what for path, what in picture(root).items() if path not in below}


def change_a_lot(root: Path) -> None:
    (root / "etc/passwd").write_text("changed")
    (root / "new/deep").mkdir(parents=True)
    (root / "new/deep/file").write_text("n")
    os.unlink(root / "etc/group")
    for name in ("a", "b", "c"):
        os.unlink(root / "opt/tool" / name)
    os.rmdir(root / "opt/tool")
    (root / "opt/tool").mkdir()
    (root / "opt/tool/c").write_text("other")
    os.chmod(root / "home", 0o700)
    (root / "gone").write_text("back")
    os.setxattr(root / "gone", "user.note", b"1")
    os.link(root / "gone", root / "gone2")


async def test_changes_are_those_of_docker_diff(stores: Stores, tmp_path: Path) -> None:
    view = await stores.snapshots.prepare("key", await base(stores))
    assert await stores.snapshots.changes("key") == []
    with mounted(view, tmp_path / "m") as root:
        change_a_lot(root)
    found = {change.path: "CAD"[change.kind] for change in await stores.snapshots.changes("key")}
    assert found == {
        "/etc": "C",
        "/etc/passwd": "C",
        "/etc/group": "D",
        "/new": "A",
        "/new/deep": "A",
        "/new/deep/file": "A",
        "/opt": "C",
        "/opt/tool": "C",
        "/opt/tool/a": "D",
        "/opt/tool/b": "D",
        "/opt/tool/c": "C",
        "/home": "C",
        "/gone": "A",
        "/gone2": "A",
    }


async def test_what_every_container_has_is_below_its_image(stores: Stores, tmp_path: Path) -> None:
    parent = await base(stores)
    view = await stores.snapshots.prepare("key", parent)
    with mounted(view, tmp_path / "m") as root:
        for name in ("etc/hostname", "etc/hosts", "etc/resolv.conf", ".dockerenv", "dev/console"):
            assert (root / name).is_file()
        for name in ("dev/pts", "dev/shm", "proc", "sys"):
            assert (root / name).is_dir()
        assert os.readlink(root / "etc/mtab") == "/proc/mounts"
        assert (root / "etc/passwd").read_text() == "root"
    assert await stores.snapshots.changes("key") == []
    assert await stores.snapshots.commit("key", keep=False) is None
    view = await stores.snapshots.prepare("key", parent)
    with mounted(view, tmp_path / "m") as root:
        (root / "etc/hosts").write_text("mine")
        (root / "dev/my").touch()
        (root / ".dockerenv").unlink()
    found = {change.path: "CAD"[change.kind] for change in await stores.snapshots.changes("key")}
    assert found == {"/.dockerenv": "D", "/dev": "C", "/dev/my": "A", "/etc": "C", "/etc/hosts": "C"}


async def test_the_lowest_layer_is_made_whole_again(stores: Stores, tmp_path: Path) -> None:
    place = stores.root / LayerStore.base
    (place / "etc/mtab").unlink()
    shutil.rmtree(place / "dev")
    make_base(str(place))
    assert os.readlink(place / "etc/mtab") == "/proc/mounts" and (place / "dev/console").is_file()


@pytest.mark.parametrize("keep", [False, True])
async def test_a_commit_shows_what_the_snapshot_showed(stores: Stores, tmp_path: Path, keep: bool) -> None:
    parent = await base(stores)
    view = await stores.snapshots.prepare("key", parent)
    with mounted(view, tmp_path / "m") as root:
        change_a_lot(root)
        before = own(stores, root)
    usage = await stores.snapshots.usage("key")
    assert usage == len("changed") + 1 + len("other") + len("back")
    assert await stores.snapshots.usages(["gone", "key", *["gone"] * 5, "key"]) == [0, usage, *[0] * 5, usage]
    layer = await stores.snapshots.commit("key", keep=keep)
    assert layer is not None and layer.parent == parent
    with mounted(stores.snapshots.view(layer.chain_id), tmp_path / "v") as root:
        assert picture(root) == before
    ours = await collect(stores.layers.tar(layer.chain_id))
    if keep:
        with mounted(stores.snapshots.mounts("key"), tmp_path / "m") as root:
            assert own(stores, root) == before
            (root / "more").touch()
        await stores.snapshots.remove("key")
    with pytest.raises(NotFound):
        stores.snapshots.mounts("key")
    assert os.listdir(stores.root / "containers") == []
    # The same after a push and a pull.
    await stores.layers.remove(layer.chain_id)
    again = await stores.layers.apply_blob(parent, layer.diff_id, stores.blob(ours))
    with mounted(stores.snapshots.view(again.chain_id), tmp_path / "v") as root:
        assert picture(root) == before


async def test_equal_commits_are_one_layer(stores: Stores) -> None:
    layers = []
    for key in ("one", "two"):
        view = await stores.snapshots.prepare(key, None)
        path = Path(view.store) / str(view.upper) / "f"
        path.write_text("same")
        for changed in (path, path.parent):
            os.utime(changed, (5, 5))
        layers.append(await stores.snapshots.commit(key, keep=False))
    assert layers[0] == layers[1] and layers[0] is not None
    assert overlay.OPAQUE not in os.listxattr(stores.fs(layers[0].chain_id))


async def test_an_empty_commit(stores: Stores) -> None:
    await stores.snapshots.prepare("key", None)
    assert await stores.snapshots.commit("key", keep=True) is None
    assert stores.snapshots.keys() == ["key"]
    assert await stores.snapshots.commit("key", keep=False) is None
    with pytest.raises(NotFound, match="no snapshot of key"):
        await stores.snapshots.changes("key")


async def test_views_can_always_be_mounted(stores: Stores, tmp_path: Path) -> None:
    one = await stores.layers.apply_tar(None, stream(archive(("a", "file", "x"))))
    for chain, expected in ((None, []), (one.chain_id, ["a"])):
        with mounted(stores.snapshots.view(chain), tmp_path / "v") as root:
            assert os.listdir(root) == expected
        with mounted(await stores.snapshots.prepare(f"k{len(expected)}", chain), tmp_path / "v") as root:
            assert sorted(os.listdir(root)) == sorted([*expected, *os.listdir(stores.root / LayerStore.base)])


async def test_the_root_directory_looks_as_in_the_image(stores: Stores, tmp_path: Path) -> None:
    one = await stores.layers.apply_tar(None, stream(archive(("./", "dir", 0o711), uid=3)))
    with mounted(await stores.snapshots.prepare("k", one.chain_id), tmp_path / "v") as root:
        assert stat.S_IMODE(os.stat(root).st_mode) == 0o711
        assert os.stat(root).st_uid == 3
    assert await stores.snapshots.commit("k", keep=False) is None


async def test_keys_and_parents_are_checked(stores: Stores) -> None:
    await stores.snapshots.prepare("key", None)
    with pytest.raises(AlreadyExists):
        await stores.snapshots.prepare("key", None)
    for key in ("", "../x", "a/b", ".x"):
        with pytest.raises(InvalidArgument):
            await stores.snapshots.prepare(key, None)
    with pytest.raises(NotFound):
        await stores.snapshots.prepare("other", "sha256:" + "0" * 64)  # type: ignore[arg-type]
    assert os.listdir(stores.root / "containers") == ["key"]
    await stores.snapshots.remove("key")
    await stores.snapshots.remove("key")


async def test_the_sweep_takes_what_nobody_knows(stores: Stores) -> None:
    await stores.snapshots.prepare("build-1", None)
    await stores.snapshots.prepare("c1", None)
    (stores.root / "containers/lost/upper").mkdir(parents=True)
    (stores.root / "containers/lost/log").touch()
    (stores.root / "layers/.staging-1/fs").mkdir(parents=True)
    (stores.root / "layers" / ("0" * 64)).mkdir()
    stores.snapshots.sweep()
    stores.layers.sweep()
    stores.layers.executor.submit(lambda: None).result()
    stores.layers.close()
    assert sorted(os.listdir(stores.root / "layers")) == EMPTY
    assert stores.snapshots.keys() == ["c1"]
    assert sorted(os.listdir(stores.root / "containers")) == ["c1", "lost"]
    assert os.listdir(stores.root / "containers/lost") == ["log"]
