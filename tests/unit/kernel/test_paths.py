"""Lookups inside a root never leave it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from berth.kernel.paths import make_directories_in_root, open_here, open_in_root


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    """A root with a canary beside it."""
    (tmp_path / "canary").write_text("outside")
    (tmp_path / "root" / "etc").mkdir(parents=True)
    (tmp_path / "root" / "etc" / "motd").write_text("inside")
    fd = os.open(tmp_path / "root", os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def read(root: int, path: str) -> str:
    """The content of a file in the root."""
    with open(open_in_root(root, path, os.O_RDONLY)) as file:
        return file.read()


@pytest.mark.parametrize("path", ["etc/motd", "/etc/motd", "../../etc/motd", "/../etc/./motd"])
def test_every_spelling_is_taken_inside_the_root(root: int, path: str) -> None:
    assert read(root, path) == "inside"


def test_links_stay_inside(root: int, tmp_path: Path) -> None:
    (tmp_path / "root" / "absolute").symlink_to("/etc/motd")
    (tmp_path / "root" / "up").symlink_to("../../../canary")
    assert read(root, "absolute") == "inside"
    with pytest.raises(FileNotFoundError):
        read(root, "up")


def test_magic_links_are_refused(root: int) -> None:
    fd = os.open("/proc/self", os.O_PATH)
    try:
        with pytest.raises(OSError, match="symbolic links"):
            open_in_root(fd, "root/etc", os.O_PATH)
    finally:
        os.close(fd)


def test_a_nul_byte_does_not_cut_the_path(root: int) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        open_in_root(root, "etc\0/x", os.O_PATH)


def test_open_here_takes_no_link(root: int, tmp_path: Path) -> None:
    (tmp_path / "root" / "link").symlink_to("etc")
    with pytest.raises(OSError, match="symbolic links"):
        open_here(root, "link/motd", os.O_RDONLY)


@pytest.mark.parametrize("path", ["a/b/c", "/a/b", "etc/x/../y", "", "/"])
def test_directories_are_made(root: int, tmp_path: Path, path: str) -> None:
    fd = make_directories_in_root(root, path, 0o750)
    found = os.readlink(f"/proc/self/fd/{fd}")
    os.close(fd)
    expected = os.path.normpath(f"{tmp_path}/root/{path}")
    assert found == expected
    assert os.stat(f"{tmp_path}/root/etc").st_mode & 0o777 != 0o750


def test_dangling_links_are_followed_inside(root: int, tmp_path: Path) -> None:
    (tmp_path / "root" / "var").symlink_to("/data/var")
    (tmp_path / "root" / "up").symlink_to("../../escape")
    for path, expected in (("var/lib", "data/var/lib"), ("up/x", "escape/x")):
        os.close(make_directories_in_root(root, path))
        assert (tmp_path / "root" / expected).is_dir()
    assert not (tmp_path / "escape").exists()


def test_a_loop_of_links_ends(root: int, tmp_path: Path) -> None:
    (tmp_path / "root" / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        make_directories_in_root(root, "loop/x")


def test_a_file_in_the_way_is_an_error(root: int) -> None:
    with pytest.raises(NotADirectoryError):
        make_directories_in_root(root, "etc/motd/x")


def test_a_failure_leaks_no_descriptor(root: int) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path in ("etc/motd/x", "/proc\0"):
        with pytest.raises(OSError):
            make_directories_in_root(root, path)
    assert len(os.listdir("/proc/self/fd")) == before
