"""SECURITY row 71: whatever differs in what a step is made from gives it another key in the build cache."""

from __future__ import annotations

from dataclasses import fields, replace
from types import NoneType
from typing import Any, get_args, get_origin

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.build.cache import cache_key
from berth.build.state import State
from berth.model.digest import digest_of
from berth.wire.container import ContainerConfig, HealthConfig

TEXT = st.text(max_size=6)
HEALTH = st.builds(
    HealthConfig,
    test=st.none() | st.lists(TEXT, max_size=2),
    interval=st.none() | st.integers(0, 9),
    timeout=st.none() | st.integers(0, 9),
    retries=st.none() | st.integers(0, 9),
    start_period=st.none() | st.integers(0, 9),
    start_interval=st.none() | st.integers(0, 9),
)
VALUES: dict[object, st.SearchStrategy[Any]] = {
    str: TEXT,
    bool: st.booleans(),
    int: st.integers(0, 9),
    list: st.lists(TEXT, max_size=3),
    dict: st.dictionaries(TEXT, TEXT, max_size=3),
    HealthConfig: HEALTH,
    NoneType: st.none(),
}
TYPES = {field.name: field.type for field in msgspec.structs.fields(ContainerConfig)}
FIELDS = list(TYPES)


def values(name: str) -> st.SearchStrategy[Any]:
    """Values that a field can have."""
    return st.one_of(*(VALUES[get_origin(kind) or kind] for kind in get_args(TYPES[name])))


CONFIGS = st.fixed_dictionaries({}, optional={name: values(name) for name in FIELDS}).map(lambda given: ContainerConfig(**given))
DIGESTS = st.none() | TEXT.map(lambda text: digest_of(text.encode()))
STATES = st.builds(State, config=CONFIGS, architecture=TEXT, os=TEXT, variant=st.none() | TEXT, chain_id=DIGESTS)
COUNTED = ("config", "architecture", "os", "variant", "chain_id")


@given(STATES, STATES, TEXT, TEXT, st.lists(TEXT, max_size=3), st.lists(TEXT, max_size=3))
def test_row_71_keys_are_equal_only_for_equal_steps(a: State, b: State, one: str, two: str, x: list[str], y: list[str]) -> None:
    same = (a, one, x) == (b, two, y)
    assert (cache_key(a, one, x) == cache_key(b, two, y)) == same
    assert cache_key(a, one, x) == cache_key(replace(a), one, list(x))


@settings(max_examples=10)
@pytest.mark.parametrize("name", FIELDS)
@given(st.data())
def test_row_71_each_field_of_the_configuration_counts(name: str, data: st.DataObject) -> None:
    one, two = data.draw(values(name)), data.draw(values(name))
    keys = [cache_key(State(config=ContainerConfig(**{name: value}), architecture="amd64"), "RUN x") for value in (one, two)]
    assert (keys[0] == keys[1]) == (one == two)


@pytest.mark.parametrize("name", COUNTED[1:])
def test_row_71_each_field_of_the_state_counts(name: str) -> None:
    state = State(config=ContainerConfig(), architecture="amd64", variant="v8", chain_id=digest_of(b"1"))
    changed = replace(state, **{name: digest_of(b"2")})
    assert cache_key(changed, "RUN x") != cache_key(state, "RUN x")


def test_row_71_which_input_is_which_counts() -> None:
    """Two files that have changed places are another step."""
    state = State(config=ContainerConfig(), architecture="amd64")
    assert cache_key(state, "COPY a b /", ["1", "2"]) != cache_key(state, "COPY a b /", ["2", "1"])
    assert cache_key(state, "COPY a b /", ["12", ""]) != cache_key(state, "COPY a b /", ["1", "2"])


def test_row_71_what_does_not_count() -> None:
    """Where a state came from and what its history says; and nothing else, should the state get a new field."""
    assert {field.name for field in fields(State)} - set(COUNTED) == {"diff_ids", "history", "author", "created", "base"}


@given(st.dictionaries(TEXT, TEXT, min_size=2))
def test_row_71_order_in_a_mapping_does_not_count(labels: dict[str, str]) -> None:
    def key(mapping: dict[str, Any]) -> str:
        return cache_key(State(config=ContainerConfig(labels=mapping), architecture="amd64"), "RUN x")

    assert key(labels) == key(dict(reversed(labels.items())))
