"""The build context as a tar."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from berth.client.build import pack_context
from berth.errors import InvalidArgument


def _names(folder: Path, **options: object) -> list[str]:
    raw = b"".join(pack_context(str(folder), **options))  # type: ignore[arg-type]
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        return tar.getnames()


def test_ignored_files_stay_away_and_the_dockerfile_goes(tmp_path: Path) -> None:
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "keep.txt").write_text("k")
    (tmp_path / "node" / "drop.txt").write_text("d")
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / ".dockerignore").write_text("node\n!node/keep.txt\nDockerfile\n")
    assert sorted(_names(tmp_path)) == [".dockerignore", "Dockerfile", "node/keep.txt"]


def test_content_modes_links_and_sizes(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 300_001)
    (tmp_path / "big").chmod(0o751)
    (tmp_path / "link").symlink_to("big")
    (tmp_path / "empty").write_bytes(b"")
    raw = b"".join(pack_context(str(tmp_path)))
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        big = tar.getmember("big")
        assert (big.mode, big.uid, big.size) == (0o751, 0, 300_001)
        content = tar.extractfile(big)
        assert content is not None and content.read() == b"x" * 300_001
        assert tar.getmember("link").linkname == "big"
        assert tar.getmember("empty").size == 0


def test_an_inline_dockerfile_is_added(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    assert sorted(_names(tmp_path, dockerfile=".d", inline=b"FROM scratch\n")) == [".d", "a"]


def test_a_dockerfiles_own_ignore_file_wins(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    (tmp_path / "b").write_text("")
    (tmp_path / ".dockerignore").write_text("a\n")
    (tmp_path / "Dockerfile.dockerignore").write_text("b\n")
    assert sorted(_names(tmp_path)) == [".dockerignore", "Dockerfile.dockerignore", "a"]


def test_no_context(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="not found"):
        list(pack_context(str(tmp_path / "none")))
