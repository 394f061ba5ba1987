"""Variables in values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.compose.load.interpolate import InterpolationFailed, expand
from berth.compose.problem import ComposeInvalid

VARIABLES = {"A": "1", "EMPTY": "", "NAME": "x y"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$A-$NAME", "1-x y"),
        ("${A}b", "1b"),
        ("$$A $${A}", "$A ${A}"),
        ("${MISSING:-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY-d}", ""),
        ("${MISSING-d}", "d"),
        ("${A:+yes}", "yes"),
        ("${EMPTY:+yes}", ""),
        ("${EMPTY+yes}", "yes"),
        ("${MISSING+yes}", ""),
        ("${MISSING:-${A}-${OTHER:-z}}", "1-z"),
        ("${MISSING:-a:b?c}", "a:b?c"),
        ("${MISSING}", ""),
        ("${A:?needed}", "1"),
        ("100%", "100%"),
    ],
)
def test_expansion(text: str, expected: str) -> None:
    assert expand(text, VARIABLES) == expected


@pytest.mark.parametrize("text", ["$", "$1", "${", "${}", "${A", "${A!}", "a ${A:-b"])
def test_what_makes_no_sense(text: str) -> None:
    with pytest.raises(InterpolationFailed, match="invalid interpolation format"):
        expand(text, VARIABLES)


@pytest.mark.parametrize(
    ("text", "message"), [("${X:?set it}", "X is missing a value: set it"), ("${EMPTY:?}", "EMPTY is missing a value")]
)
def test_required(text: str, message: str) -> None:
    with pytest.raises(InterpolationFailed, match=message):
        expand(text, VARIABLES)


def test_missing_variables_are_told_only_when_they_are_used() -> None:
    told: list[str] = []
    assert expand("$ONE ${A:-$TWO} ${THREE:-$FOUR}", VARIABLES, told.append) == " 1 "
    assert told == ["ONE", "FOUR"]


@given(st.text(max_size=30))
def test_escaping_dollars_gives_the_text_back(text: str) -> None:
    assert expand(text.replace("$", "$$"), {}) == text


@given(st.text(alphabet="ab$", max_size=10), st.text(alphabet="$xyz{}", max_size=10))
def test_values_are_not_expanded_again(before: str, value: str) -> None:
    assert expand(before.replace("$", "$$") + "${V}", {"V": value}) == before + value


def test_the_place_is_named(files: Any) -> None:
    with pytest.raises(
        ComposeInvalid, match=r"c0.yaml:4: required variable X is missing a value: set X \(in services.app.command\)"
    ):
        files.load("services:\n  app:\n    image: x\n    command: echo ${X:?set X}\n")


def test_unset_variables_are_warned_about_once(files: Any) -> None:
    files.load("services:\n  app:\n    image: x\n    command: $X $X ${X}\n")
    assert files.warnings == ['The "X" variable is not set. Defaulting to a blank string.']


def test_numbers_and_booleans_from_variables(files: Any) -> None:
    service = files.service("privileged: ${P}\nscale: ${N}\nmem_limit: ${M}", environ={"P": "true", "N": "3", "M": "64m"})
    assert (service.privileged, service.replicas, service.mem_limit) == (True, 3, 64 * 1024 * 1024)
