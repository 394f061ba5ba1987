"""Project numbers: who has which, when one is free, and what becomes of a limit. The kernel's table is a twin here; ext4's and
xfs's own are in the guest lane (tests/integration/test_quotas.py)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from berth.errors import InvalidArgument, ResourceExhausted
from berth.storage import quota as module
from berth.storage.quota import Quotas, lack
from support.quota_twin import Kernel

MB = 1 << 20


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    twin = Kernel()
    monkeypatch.setattr(module, "quota", twin)
    yield twin


def container(root: Path, name: str) -> tuple[str, str]:
    """Upper and work directory."""
    for part in ("upper", "work"):
        (root / name / part).mkdir(parents=True)
    return str(root / name / "upper"), str(root / name / "work")


def project(kernel: Kernel, directory: str) -> int:
    return kernel.projects[os.stat(directory).st_ino][0]


def test_directories_of_one_container_share_a_number_and_others_get_another(kernel: Kernel, tmp_path: Path) -> None:
    quotas = Quotas(str(tmp_path))
    one, two = container(tmp_path, "one"), container(tmp_path, "two")
    quotas.limit(10 * MB, *one)
    quotas.limit(20 * MB, *two)
    numbers = [project(kernel, directory) for directory in (*one, *two)]
    assert numbers[0] == numbers[1] != numbers[2] == numbers[3]
    assert kernel.limits == {numbers[0]: 10 * MB, numbers[2]: 20 * MB}


def test_an_engine_that_starts_anew_gives_out_no_number_twice(kernel: Kernel, tmp_path: Path) -> None:
    one, two = container(tmp_path, "one"), container(tmp_path, "two")
    Quotas(str(tmp_path)).limit(MB, *one)
    Quotas(str(tmp_path)).limit(MB, *two)
    assert project(kernel, one[0]) != project(kernel, two[0])


def test_what_others_use_or_limit_is_passed_over(kernel: Kernel, tmp_path: Path) -> None:
    first = Quotas(str(tmp_path))._first
    kernel.limits[first] = 5
    kernel.written[first + 1] = 4096
    one = container(tmp_path, "one")
    Quotas(str(tmp_path)).limit(MB, *one)
    assert project(kernel, one[0]) == first + 2 and kernel.limits[first] == 5


def test_data_roots_have_ranges_of_their_own(kernel: Kernel, tmp_path: Path) -> None:
    firsts = {Quotas(f"{tmp_path}/{name}")._first for name in range(20)}
    assert len(firsts) == 20 and all((1 << 30) <= first < (1 << 31) for first in firsts)


def test_the_limit_goes_with_the_files_and_the_number_is_free_again(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quotas = Quotas(str(tmp_path))
    one = container(tmp_path, "one")
    quotas.limit(MB, *one)
    monkeypatch.setattr(module, "_DELAYS", (0.0, 0.0))
    # As after a crash: each half on its own. The limit stays until nothing has the number any more.
    quotas.remove_tree(one[0])
    assert len(kernel.limits) == 1
    quotas.remove_tree(str(tmp_path / "one"))
    assert kernel.limits == {} and not (tmp_path / "one").exists()
    volume = tmp_path / "volume"
    (volume / "_data").mkdir(parents=True)
    quotas.limit(MB, f"{volume}/_data")
    quotas.remove_tree(str(volume))
    assert kernel.limits == {}


def test_the_limit_goes_when_the_room_comes_back_only_later(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on xfs."""
    quotas = Quotas(str(tmp_path))
    one = container(tmp_path, "one")
    quotas.limit(MB, *one)
    kernel.written[project(kernel, one[0])] = 4096
    monkeypatch.setattr(time, "sleep", lambda _: kernel.written.clear())
    quotas.remove_tree(str(tmp_path / "one"))
    assert kernel.limits == {}


def test_a_limit_that_cannot_be_used_is_not_left(kernel: Kernel, tmp_path: Path) -> None:
    kernel.refuses = True
    with pytest.raises(PermissionError):
        Quotas(str(tmp_path)).limit(MB, *container(tmp_path, "one"))
    assert kernel.limits == {}


def test_a_start_takes_off_limits_without_files_and_no_others(kernel: Kernel, tmp_path: Path) -> None:
    quotas = Quotas(str(tmp_path))
    one = container(tmp_path, "one")
    quotas.limit(MB, *one)
    used = project(kernel, one[0])
    foreign = {42: 7, quotas._first - 1: 8, quotas._first + (1 << 16): 9}
    kernel.limits |= foreign | {quotas._first + 77: 10}
    assert Quotas(str(tmp_path)).sweep() == 1
    assert kernel.limits == foreign | {used: MB}


def test_what_got_lost_is_set_again(kernel: Kernel, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    quotas = Quotas(str(tmp_path))
    one = container(tmp_path, "one")
    quotas.limit(MB, *one)
    number = project(kernel, one[0])
    kernel.limits.clear()
    os.rmdir(one[1])
    os.mkdir(one[1])
    kernel.projects = {inode: entry for inode, entry in kernel.projects.items() if entry[1] != one[1]}
    quotas.keep(MB, "container one", *one)
    assert kernel.limits == {number: MB} and project(kernel, one[1]) == number
    assert not caplog.records
    # A data root that was copied: there is no number on anything.
    kernel.projects.clear()
    kernel.limits.clear()
    quotas.keep(MB, "container one", *one)
    assert kernel.limits == {project(kernel, one[0]): MB} and "does not count" in caplog.text
    kernel.flags = (False, False)
    quotas.keep(MB, "container one", *one)
    assert "the size of container one is not held any more" in caplog.text


def test_a_full_one_has_room_while_it_is_mounted_and_no_longer(kernel: Kernel, tmp_path: Path) -> None:
    quotas = Quotas(str(tmp_path))
    one = container(tmp_path, "one")
    quotas.limit(10 * MB, *one)
    number = project(kernel, one[0])
    with quotas.with_room(10 * MB, one[0]):
        assert kernel.limits[number] == 10 * MB
    kernel.written[number] = 10 * MB - 2 * 4096
    with pytest.raises(RuntimeError), quotas.with_room(10 * MB, one[0]):
        assert kernel.limits[number] == 11 * MB
        raise RuntimeError
    assert kernel.limits[number] == 10 * MB


def test_numbers_run_out(kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RANGE", 2)
    quotas = Quotas(str(tmp_path))
    for name in ("one", "two"):
        quotas.limit(MB, *container(tmp_path, name))
    with pytest.raises(ResourceExhausted, match="2 containers and volumes"):
        quotas.limit(MB, *container(tmp_path, "three"))
    quotas.remove_tree(str(tmp_path / "one"))
    quotas.limit(MB, *container(tmp_path, "four"))


def test_where_there_are_no_quotas_the_reason_is_told(kernel: Kernel, tmp_path: Path) -> None:
    root = str(tmp_path)
    assert lack(root) is None
    Quotas(root).check("create x")
    kernel.flags = (True, False)
    assert "holds no limits: quotaon -P /" in str(lack(root))
    kernel.flags = (False, False)
    with pytest.raises(InvalidArgument, match=r"create x: .*project quota"):
        Quotas(root).check("create x")
    kernel.there = False
    assert "CONFIG_QUOTA" in str(lack(root))


def test_a_data_root_in_somebody_elses_project_has_no_sizes(kernel: Kernel, tmp_path: Path) -> None:
    kernel.projects[os.stat(tmp_path).st_ino] = (42, str(tmp_path))
    assert "belongs to project 42 of another quota" in str(lack(str(tmp_path)))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("ext4", "the ext4 at / has no project quota: unmount it, run `tune2fs -O project,quota -Q prjquota /dev/sda1`"),
        ("xfs", "the xfs at / has its project quota off: add the option pquota"),
        ("btrfs", "/ is btrfs without project quotas: put the data root on xfs that is mounted with pquota"),
    ],
)
def test_each_file_system_has_its_own_advice(kernel: Kernel, kind: str, words: str) -> None:
    mounted = module.find_mounted(f"21 1 8:1 / / rw - {kind} /dev/sda1 rw\n", "/var/lib/berth")
    assert words in str(module.advice(mounted, counted=False))
