"""User specifications against passwd and group files."""

from __future__ import annotations

from pathlib import Path

import pytest

from berth.runtime.account import UnknownAccount, resolve
from berth.runtime.reaper import image


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    passwd = tmp_path / "passwd"
    passwd.write_text(
        "root:x:0:0::/root:/bin/sh\n#no\nbroken\nbob:x:1000:100::/home/bob:/bin/sh\nneg:x:-5:0::/:\n123:x:77:77::/:\n"
    )
    group = tmp_path / "group"
    group.write_text("root:x:0:\nusers:x:100:\nwheel:x:10:root,bob\nbad:x:zzz:bob\naudio:x:29:alice,bob\n")
    return str(passwd), str(group)


@pytest.mark.parametrize(
    ("user", "extra", "expected"),
    [
        ("", [], (0, 0, [0, 10], "/root")),
        ("bob", [], (1000, 100, [100, 10, 29], "/home/bob")),
        ("1000", [], (1000, 100, [100, 10, 29], "/home/bob")),
        ("bob:wheel", [], (1000, 10, [10], "/home/bob")),
        ("bob:55", ["audio", "7"], (1000, 55, [55, 29, 7], "/home/bob")),
        ("4242", [], (4242, 0, [0], "/")),
        (":wheel", [], (0, 10, [10], "/root")),
        ("123", [], (123, 0, [0], "/")),
    ],
)
def test_resolve(files: tuple[str, str], user: str, extra: list[str], expected: tuple[int, int, list[int], str]) -> None:
    account = resolve(user, extra, *files)
    assert (account.uid, account.gid, account.groups, account.home) == expected


@pytest.mark.parametrize("user", ["nobody", "neg", "-1", "0x0", "+0", "2147483648", "4294967296", "bob:none", "bob:-1", "１"])
def test_unknown(files: tuple[str, str], user: str) -> None:
    with pytest.raises((UnknownAccount, OSError)):
        resolve(user, [], *files)


def test_missing_files(tmp_path: Path) -> None:
    missing = str(tmp_path / "no/file")
    account = resolve("5:6", ["7"], missing, missing)
    assert (account.uid, account.gid, account.groups, account.home) == (5, 6, [6, 7], "/")


def test_reaper_image_is_one_small_elf_file() -> None:
    made = image(2)
    assert made[:4] == b"\x7fELF" and len(made) < 300
    assert made[120:125] == b"\xbb\x02\x00\x00\x00"
