"""Frames and JSON lines, however the pieces are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.client.stream import ProgressFailed, demultiplex, json_lines, progress
from berth.errors import DataLoss


def _frame(stream: int, data: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


@given(st.lists(st.tuples(st.integers(1, 2), st.binary(min_size=1, max_size=40))), st.integers(1, 17))
def test_frames_survive_any_cut(frames: list[tuple[int, bytes]], size: int) -> None:
    raw = b"".join(_frame(stream, data) for stream, data in frames)
    pieces = [raw[at : at + size] for at in range(0, len(raw), size)]
    assert list(demultiplex(pieces)) == frames


def test_a_cut_off_frame_is_given_as_far_as_it_came() -> None:
    assert list(demultiplex([_frame(1, b"whole"), _frame(2, b"partial")[:-3]])) == [(1, b"whole"), (2, b"part")]


def test_a_raw_stream_is_not_taken_for_frames() -> None:
    with pytest.raises(DataLoss, match="unrecognized stream"):
        list(demultiplex([b"hello, this is no frame"]))


@given(st.lists(st.dictionaries(st.text(max_size=5), st.integers()), max_size=5), st.integers(1, 9))
def test_json_lines_survive_any_cut(values: list[dict[str, int]], size: int) -> None:
    import msgspec

    raw = b"".join(msgspec.json.encode(value) + b"\r\n" for value in values)
    assert list(json_lines([raw[at : at + size] for at in range(0, len(raw), size)])) == values


def test_progress_ends_with_the_error_line() -> None:
    lines = [b'{"stream":"Step 1"}\n', b'{"errorDetail":{"code":3,"message":"it failed"},"error":"it failed"}\n']
    seen = []
    with pytest.raises(ProgressFailed, match="it failed") as caught:
        for message in progress(lines):
            seen.append(message)
    assert seen == [{"stream": "Step 1"}] and caught.value.code == 3
