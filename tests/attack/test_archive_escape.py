"""Archives that try to leave the tree they are unpacked into (SECURITY rows 19, 21, 29, 30): layers, imports, cp.

All orders of four hostile members are tried, in every way an archive can get in.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from berth.errors import BerthError, InvalidArgument
from berth.model.digest import digest_of
from berth.storage.tree import TreeStore
from support.canary import SECRET, canary
from support.spawning import opened_trees
from support.stores import Stores, archive, open_stores, stream

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="unpacking keeps owners and makes device nodes: root is needed")

Members = tuple[tuple[str, str, object], ...]


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    with open_stores(tmp_path / "root") as made:
        yield made


def attacks(outside: str) -> list[Members]:
    """Sets of members; `outside` is the absolute path of the canary."""
    up = "../" * 12
    return [
        (("/" + outside.lstrip("/") + "/file", "file", "x"), (up + outside[1:] + "/file", "file", "x"),
         ("../canary/file", "file", "x"), ("a/../../../canary/new", "file", "x")),
        (("l", "link", outside), ("l/file", "file", "x"), ("l/new", "file", "x"), ("l/directory", "dir", 0o777)),
        (("l", "link", up + outside[1:]), ("l/file", "file", "x"), ("l", "dir", 0o777), ("l/x", "link", outside)),
        (("h", "hard", outside + "/file"), ("h", "file", "x"), ("h2", "hard", up + outside[1:] + "/file"), ("h2", "file", "y")),
        (("l", "link", outside), ("h", "hard", "l/file"), ("h", "file", "x"), ("h", "dir", 0o777)),
        (("l", "link", outside + "/file"), ("h", "hard", "l"), ("h", "file", "x"), ("l", "file", "y")),
        (("a", "link", "b"), ("b", "link", outside), ("a/file", "file", "x"), ("a/directory/file", "file", "x")),
        (("a/b", "link", outside), ("a/b/.wh.file", "file", ""), ("a/b/.wh..wh..opq", "file", ""), ("a/b/new", "fifo", "")),
        (("l", "link", outside), (".wh.l", "file", ""), ("l/.wh.directory", "file", ""), ("l/directory", "link", "/")),
        (("l", "link", "/proc/self/root" + outside), ("l/file", "file", "x"), ("p", "link", "/proc/1/root"), ("p/x", "file", "")),
        (("l", "link", outside), ("l/n", "char", (1, 3)), ("l/f", "fifo", ""), ("l/file", "hard", "l/n")),
        (("l", "link", "."), ("l/l/l/l/x", "file", "x"), ("l", "link", ".."), ("l/l/canary/file", "file", "x")),
    ]  # fmt: skip


def orders(outside: str) -> Iterator[Members]:
    for members in attacks(outside):
        yield from itertools.permutations(members)


def test_layers_stay_inside(stores: Stores, tmp_path: Path) -> None:
    async def run() -> int:
        applied = 0
        for members in orders(str(tmp_path / "canary")):
            data = archive(*members)
            blob = stores.blob(data)
            try:
                layer = await stores.layers.apply_blob(None, digest_of(data), blob)
            except BerthError:
                continue
            applied += 1
            await stores.layers.remove(layer.chain_id)
        return applied

    with canary(tmp_path / "canary"):
        assert asyncio.run(run()) > 50


def test_imports_stay_inside(stores: Stores, tmp_path: Path) -> None:
    async def run() -> int:
        applied = 0
        for members in [*attacks(str(tmp_path / "canary")), *(m[::-1] for m in attacks(str(tmp_path / "canary")))]:
            try:
                layer = await stores.layers.apply_tar(None, stream(archive(*members)))
            except BerthError:
                continue
            applied += 1
            for path in Path(stores.fs(layer.chain_id)).rglob("*"):
                assert path.is_symlink() or not path.is_file() or SECRET not in path.read_text()
        return applied

    with canary(tmp_path / "canary"):
        assert asyncio.run(run()) > 5


def test_archives_put_into_a_container_stay_inside(stores: Stores, tmp_path: Path) -> None:
    async def run(trees: TreeStore) -> tuple[int, int]:
        done = refused = 0
        view = await stores.snapshots.prepare("key", None)
        async with trees.of_overlay(view) as tree:
            for number, members in enumerate(orders(str(tmp_path / "canary"))):
                await tree.make_directories(f"/t{number}")
                try:
                    await tree.put(f"/t{number}", stream(archive(*members), 1 << 16))
                    done += 1
                except BerthError:
                    refused += 1
        return done, refused

    with canary(tmp_path / "canary"), opened_trees() as trees:
        done, refused = asyncio.run(run(trees))
    assert done > 50 and done + refused == 24 * len(attacks("/x"))
    # What was written to the canary's path is in the container, where that path is its own.
    upper = stores.root / "containers/key/upper"
    assert any((upper / f"t{number}").exists() for number in range(10))


@pytest.mark.parametrize("name", [".wh...", ".wh..", ".wh.", "a/.wh...", "a/.wh."])
def test_whiteouts_of_no_name_are_refused(stores: Stores, name: str) -> None:
    data = archive(("a", "dir", 0o755), (name, "file", ""))
    with pytest.raises(InvalidArgument, match="no whiteout"):
        asyncio.run(stores.layers.apply_blob(None, digest_of(data), stores.blob(data)))


@pytest.mark.parametrize("attribute", ["trusted.overlay.redirect", "trusted.overlay.opaque", "trusted.x", "security.selinux"])
def test_attributes_that_steer_the_kernel_are_left_out(stores: Stores, attribute: str) -> None:
    headers = {f"SCHILY.xattr.{attribute}": "/etc", "SCHILY.xattr.user.mine": "kept"}
    data = archive(("d", "dir", 0o755), pax_headers=headers)
    layer = asyncio.run(stores.layers.apply_blob(None, digest_of(data), stores.blob(data)))
    assert os.listxattr(stores.fs(layer.chain_id) / "d") == ["user.mine"]


def test_a_container_cannot_smuggle_a_redirect_into_a_layer(stores: Stores) -> None:
    async def run() -> None:
        view = await stores.snapshots.prepare("key", None)
        (Path(view.store) / str(view.upper) / "d").mkdir()
        os.setxattr(Path(view.store) / str(view.upper) / "d", "trusted.overlay.redirect", b"/etc")
        with pytest.raises(BerthError, match="cannot be read outside its mount"):
            await stores.snapshots.commit("key", keep=False)
        assert stores.layers.all() == []
        assert (Path(view.store) / str(view.upper) / "d").is_dir()

    asyncio.run(run())


def test_a_link_in_a_volume_does_not_lead_out_of_it(stores: Stores, tmp_path: Path) -> None:
    """A stopped container shows a part of a volume, which other containers fill as they like."""
    volume = tmp_path / "volume"
    (volume / "real").mkdir(parents=True)
    (volume / "real/inside").write_text("ours")
    (volume / "inner").symlink_to("/real")
    (volume / "out").symlink_to(tmp_path / "canary")
    (volume / "up").symlink_to("../canary")
    parts = ["real", "inner", "out", "up", "../canary", "none", "real/inside"]

    async def run(trees: TreeStore) -> dict[str, bool]:
        found = {}
        binds = tuple((str(volume), f"/v{number}", part) for number, part in enumerate(parts))
        async with trees.of_overlay(await stores.snapshots.prepare("key", None), binds) as tree:
            for number, part in enumerate(parts):
                try:
                    data = b"".join([piece async for piece in tree.get(f"/v{number}")])
                except BerthError:
                    found[part] = False
                    continue
                assert SECRET.encode() not in data
                found[part] = b"ours" in data
        return found

    with canary(tmp_path / "canary"), opened_trees() as trees:
        found = asyncio.run(run(trees))
    assert found == {part: part in ("real", "inner", "real/inside") for part in parts}
