"""Sizes, durations, ages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import InvalidArgument
from berth.model.units import human_binary_size, human_duration, human_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("512m", 512 << 20), ("1.5g", 3 << 29), ("64KiB", 64 << 10), ("2GB", 2 << 30), ("7b", 7)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1x", "1 2"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid size"):
        parse_size(text)


@pytest.mark.parametrize(("text", "seconds"), [("1m30s", 90), ("0", 0), ("1.5s", 1.5), ("500ms", 0.5), ("2h", 7200), ("-1s", -1)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds * 10**9


@pytest.mark.parametrize("text", ["", "5", "1d", "s", "1s2"])
def test_wrong_durations(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid duration"):
        parse_duration(text)


def test_what_docker_prints() -> None:
    assert human_size(118_000_000, 3) == "118MB"
    assert human_size(1_234_567_890, 3) == "1.23GB"
    assert human_size(0) == "0B"
    assert human_binary_size(1536 << 10) == "1.5MiB"
    ages = [human_duration(s) for s in (0, 1, 5, 61, 600, 3600, 7200, 3 * 86400, 21 * 86400, 90 * 86400, 800 * 86400)]
    assert ages == [
        "Less than a second", "1 second", "5 seconds", "About a minute", "10 minutes", "About an hour", "2 hours", "3 days",
        "3 weeks", "3 months", "2 years",
    ]  # fmt: skip


@given(st.integers(min_value=0, max_value=10**17))
def test_every_size_has_a_short_text(size: int) -> None:
    assert len(human_size(size)) <= 8
