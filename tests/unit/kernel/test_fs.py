"""Durable replacement and removal of trees, as any user."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from berth.kernel.fs import fsync_directory, remove_tree, replace_atomically, syncfs, write_all


def test_replacing_keeps_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "state"
    replace_atomically(str(path), b"one")
    replace_atomically(str(path), b"two", 0o600)
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["state"]


def test_a_failed_replacement_leaves_the_old_content(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/x").touch()
    with pytest.raises(OSError):
        replace_atomically(str(tmp_path / "state"), b"two")
    assert sorted(os.listdir(tmp_path)) == ["state"]


def test_flushing(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    for call in (fsync_directory, syncfs):
        call(str(tmp_path))
        call(fd)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        syncfs(fd)


def test_writing_in_short_pieces() -> None:
    read, write = os.pipe()
    os.set_blocking(write, True)
    write_all(write, b"x" * 5000)
    os.close(write)
    with open(read, "rb") as file:
        assert file.read() == b"x" * 5000


def test_a_tree_of_any_depth_goes(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    current = os.open(top, os.O_RDONLY)
    for level in range(1200):
        os.mkdir("d", dir_fd=current)
        if level % 100 == 0:
            os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=current))
            os.mkdir(f".deep-{level // 100}", dir_fd=current)
        below = os.open("d", os.O_RDONLY, dir_fd=current)
        os.close(current)
        current = below
    os.close(current)
    before = len(os.listdir("/proc/self/fd"))
    remove_tree(str(top))
    assert os.listdir(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "keep/inside").mkdir(parents=True)
    (tmp_path / "top").mkdir()
    (tmp_path / "top/link").symlink_to(tmp_path / "keep")
    (tmp_path / "link").symlink_to(tmp_path / "keep")
    os.mkfifo(tmp_path / "top/fifo")
    for name in ("top", "link/", "none"):
        remove_tree(str(tmp_path / name))
    assert os.listdir(tmp_path) == ["keep"] and os.listdir(tmp_path / "keep") == ["inside"]


def test_directories_without_permissions_go(tmp_path: Path) -> None:
    (tmp_path / "top/closed/inside").mkdir(parents=True)
    os.chmod(tmp_path / "top/closed/inside", 0)
    os.chmod(tmp_path / "top/closed", 0)
    remove_tree(str(tmp_path / "top"))
    assert os.listdir(tmp_path) == []
