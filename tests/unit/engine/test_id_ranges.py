from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from berth.engine import idrange
from berth.engine.idrange import FIRST, LAST, SLOT, SLOTS_PER_BLOCK, IdRanges, mapping, subordinate_ranges
from berth.errors import ResourceExhausted


def ranges(directory: Path, root: str = "a", subordinate: tuple[str, ...] = ()) -> IdRanges:
    (directory / root).mkdir(exist_ok=True)
    return IdRanges(str(directory / root), str(directory / "run"), subordinate)


def test_two_engines_never_overlap(tmp_path: Path) -> None:
    one, two = ranges(tmp_path, "a"), ranges(tmp_path, "b")
    taken = [engine.take() for _ in range(SLOTS_PER_BLOCK + 3) for engine in (one, two)]
    assert len(set(taken)) == len(taken)
    ordered = sorted(taken)
    assert all(b - a >= SLOT for a, b in itertools.pairwise(ordered))
    assert ordered[0] >= FIRST and ordered[-1] + SLOT - 1 <= LAST


def test_a_restarted_engine_keeps_what_runs(tmp_path: Path) -> None:
    first = ranges(tmp_path)
    base = first.take()
    again = ranges(tmp_path)
    again.adopt(base)
    assert base not in {again.take() for _ in range(SLOTS_PER_BLOCK + 1)}


def test_ranges_come_back(tmp_path: Path) -> None:
    engine = ranges(tmp_path)
    base = engine.take()
    engine.give_back(base)
    engine.give_back(base)
    assert [engine.take(), engine.take()].count(base) == 1


def test_close_frees_blocks_without_a_task(tmp_path: Path) -> None:
    engine = ranges(tmp_path)
    base = engine.take()
    engine.close()
    assert len(os.listdir(tmp_path / "run")) == 1
    engine.give_back(base)
    engine.close()
    assert os.listdir(tmp_path / "run") == []


def test_the_claim_of_an_engine_whose_root_is_gone_is_free(tmp_path: Path) -> None:
    gone = ranges(tmp_path, "gone")
    base = gone.take()
    (tmp_path / "gone").rmdir()
    assert ranges(tmp_path, "b").take() == base


def test_subordinate_ids_are_avoided(tmp_path: Path) -> None:
    subuid = tmp_path / "subuid"
    subuid.write_text(f"# comment\nuser:{FIRST + 5}:{SLOT * 2}\nbroken\n")
    base = ranges(tmp_path, subordinate=(str(subuid),)).take()
    assert base == FIRST + 3 * SLOT
    assert subordinate_ranges("u:1:2\n") == [(1, 2)]


def test_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idrange, "BLOCKS", 1)
    engine = ranges(tmp_path)
    for _ in range(SLOTS_PER_BLOCK):
        engine.take()
    with pytest.raises(ResourceExhausted):
        engine.take()


def test_mapping_has_a_line_for_each_large_id() -> None:
    lines = mapping(1000, [70000, 5, 70000, 65536, 2**32 - 1])
    assert [(m.container_id, m.host_id, m.size) for m in lines] == [(0, 1000, 65536), (65536, 66536, 1), (70000, 66537, 1)]
    assert len(mapping(1000, range(65536, 70000))) == 340
