"""Contexts: unpacking hostile archives, resolving inside, the index."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from berth.build.context import Context, Entry, is_tar, resolve_in, unpack
from berth.errors import InvalidArgument
from berth.model.ignore import IgnoreRules
from berth.storage.compression import expand


def reader(data: bytes) -> Callable[[], bytes]:
    """In pieces of odd sizes."""
    pieces = iter([data[start : start + 333] for start in range(0, len(data), 333)])
    return lambda: next(pieces, b"")


CORPUS = Path(__file__).with_name("archives")


def archive(*members: tuple[str, dict[str, Any], bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, fields, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> str:
    (tmp_path / "canary").write_text("alive")
    (tmp_path / "files").mkdir()
    return str(tmp_path / "files")


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress, zstd.compress])
def test_compressions(root: str, pack: Any) -> None:
    context = unpack(reader(pack(archive(("a/b", {"mode": 0o751, "mtime": 7}, b"x")))), root, "Dockerfile", expand)
    assert sorted(context.entries) == ["a", "a/b"]
    assert (context.entries["a/b"].mode, context.entries["a/b"].mtime) == (0o751, 7)
    assert context.read("a/b") == b"x"


def test_a_bare_dockerfile(root: str) -> None:
    assert unpack(reader(b"FROM scratch\n"), root, "Dockerfile", expand).read("Dockerfile") == b"FROM scratch\n"


def test_an_archive_without_its_end_is_read(root: str) -> None:
    whole = archive(("a", {}, b"x" * 700))
    assert unpack(reader(whole[: 512 + 700]), root, "Dockerfile", expand).read("a") == b"x" * 700


LINK = {"type": tarfile.SYMTYPE}
HARD = {"type": tarfile.LNKTYPE}


@pytest.mark.parametrize(
    "members",
    [
        [("../canary", {}, b"dead")],
        [("a/../../canary", {}, b"dead")],
        [("out", {**LINK, "linkname": ".."}, b""), ("out/canary", {}, b"dead")],
        [("out", {**LINK, "linkname": "/"}, b""), ("out/x", {}, b"dead")],
        [("d", {"type": tarfile.DIRTYPE}, b""), ("d", {**LINK, "linkname": ".."}, b""), ("d/canary", {}, b"dead")],
        [("h", {**HARD, "linkname": "../canary"}, b""), ("h", {}, b"dead")],
        [("l", {**LINK, "linkname": "../canary"}, b""), ("h", {**HARD, "linkname": "l/x"}, b"")],
        [("dev", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}, b"")],
        [("pipe", {"type": tarfile.FIFOTYPE}, b"")],
        [("f", {}, b"x"), ("f/g", {}, b"y")],
    ],
)
def test_hostile_archives_stay_inside(root: str, members: list[tuple[str, dict[str, Any], bytes]]) -> None:
    with pytest.raises(InvalidArgument):
        unpack(reader(archive(*members)), root, "Dockerfile", expand)
    assert Path(root, "../canary").read_text() == "alive"


def test_absolute_names_are_relative(root: str) -> None:
    assert sorted(unpack(reader(archive(("/etc/x", {}, b"1"))), root, "Dockerfile", expand).entries) == ["etc", "etc/x"]


def test_a_link_may_be_replaced_and_is_not_written_through(root: str) -> None:
    data = archive(("l", {**LINK, "linkname": "../canary"}, b""), ("l", {}, b"new"))
    context = unpack(reader(data), root, "Dockerfile", expand)
    assert context.read("l") == b"new"
    assert Path(root, "../canary").read_text() == "alive"


@pytest.mark.parametrize(
    "data",
    [
        b"\x1f\x8b\x08garbage",
        archive(("a", {}, b"x" * 2000))[:1500],
        archive(("a", {}, b"x" * 700))[:1211],
        b"\0" * 100 + b"FROM",
        b"BZhxxxx",
    ],
)
def test_damaged_archives(root: str, data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        unpack(reader(data), root, "Dockerfile", expand)


def test_links_are_resolved_inside() -> None:
    link = lambda target: Entry("l", 0o777, 0, target=target)  # noqa: E731
    entries = {
        "d": Entry("d", 0o755, 0),
        "d/f": Entry("f", 0o644, 0),
        "abs": link("/d/f"),
        "up": link("../../../d"),
        "loop": link("loop"),
        "dangling": link("nothing"),
    }
    assert resolve_in(entries, "abs") == "d/f"
    assert resolve_in(entries, "up/f") == "d/f"
    assert resolve_in(entries, "../../etc/../d/./f") is None
    assert resolve_in(entries, "../../d/./f") == "d/f"
    assert resolve_in(entries, "") == ""
    assert [resolve_in(entries, name) for name in ("loop", "dangling", "d/f/x", "nope")] == [None] * 4


def test_the_dockerfile_may_not_be_a_link_to_the_host(root: str) -> None:
    context = unpack(reader(archive(("Dockerfile", {**LINK, "linkname": "/etc/passwd"}, b""))), root, "Dockerfile", expand)
    assert context.read("Dockerfile") is None


def test_dropping_by_rules(root: str) -> None:
    context = unpack(reader(archive(("a/keep", {}, b""), ("a/drop", {}, b""), ("b/drop", {}, b""))), root, "Dockerfile", expand)
    context.drop(IgnoreRules.parse("*\n!a/keep"))
    assert sorted(context.entries) == ["a", "a/keep"]


@given(st.lists(st.sampled_from(["a", "b", "..", ".", "l", "m"]), max_size=8))
def test_resolution_ends_at_an_entry_or_nowhere(parts: list[str]) -> None:
    entries = {
        "a": Entry("d", 0o755, 0),
        "a/b": Entry("d", 0o755, 0),
        "a/l": Entry("l", 0, 0, target="../m"),
        "m": Entry("l", 0, 0, target="/a/./b/.."),
    }
    found = resolve_in(entries, "/".join(parts))
    assert found is None or found == "" or entries[found].kind != "l"


def test_is_tar() -> None:
    assert is_tar(archive(("a", {}, b"x")))
    assert not is_tar(b"FROM base\n" * 100)
    assert Context("/nowhere").glob("*") == []


def test_parts_are_written_out_for_mounts(root: str, tmp_path: Path) -> None:
    members = (("a/b", {"mode": 0o751, "mtime": 7}, b"x"), ("a/l", {**LINK, "linkname": "/etc"}, b""), ("c", {}, b"y"))
    context = unpack(reader(archive(*members)), root, "Dockerfile", expand)
    context.materialise("a", str(tmp_path / "out"))
    assert sorted(os.listdir(tmp_path / "out")) == ["b", "l"]
    assert os.readlink(tmp_path / "out/l") == "/etc"
    assert ((tmp_path / "out/b").read_bytes(), (tmp_path / "out/b").stat().st_mode & 0o777) == (b"x", 0o751)
    context.materialise("c", str(tmp_path / "file"))
    assert (tmp_path / "file").read_bytes() == b"y"
    context.materialise("", str(tmp_path / "all"))
    assert sorted(os.listdir(tmp_path / "all")) == ["a", "c"]


def test_sparse_files(root: str) -> None:
    data = (CORPUS / "sparse.tar").read_bytes()
    assert unpack(reader(data), root, "Dockerfile", expand).read("sparse") == bytes(100_000) + b"end\n"
