"""A container's tar unpacked by `cp`: nothing leaves the destination."""

from __future__ import annotations

import io
import itertools
import os
import tarfile
from pathlib import Path

import pytest

from berth.cli.unpack import unpack
from berth.errors import InvalidArgument


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"data") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o755
    info.size = len(data) if kind == tarfile.REGTYPE else 0
    return info, data


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> tarfile.TarFile:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    out.seek(0)
    return tarfile.open(fileobj=out, mode="r|")


def test_files_links_and_modes(tmp_path: Path) -> None:
    with archive(
        member("d", tarfile.DIRTYPE), member("d/f"), member("d/l", tarfile.SYMTYPE, "f"), member("d/h", tarfile.LNKTYPE, "d/f")
    ) as tar:
        unpack(tar, str(tmp_path), lambda name: name, archive=False)
    assert (tmp_path / "d/f").read_bytes() == b"data"
    assert os.readlink(tmp_path / "d/l") == "f"
    assert (tmp_path / "d/h").stat().st_ino == (tmp_path / "d/f").stat().st_ino


def test_no_order_of_hostile_members_gets_out(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    hostile = [
        member("link", tarfile.SYMTYPE, str(outside)),
        member("link/file"),
        member("deep", tarfile.SYMTYPE, "../outside"),
        member("deep/dir", tarfile.DIRTYPE),
    ]
    for number, order in enumerate(itertools.permutations(hostile)):
        inside = tmp_path / f"in{number}"
        inside.mkdir()
        with archive(*order) as tar:
            try:
                unpack(tar, str(inside), lambda name: name, archive=False)
            except InvalidArgument:
                pass
        assert list(outside.iterdir()) == []


def test_dots_are_refused(tmp_path: Path) -> None:
    with archive(member("../out")) as tar, pytest.raises(InvalidArgument, match="leaves the destination"):
        unpack(tar, str(tmp_path), lambda name: name, archive=False)
