"""YAML as Compose files use it."""

from __future__ import annotations

import pytest

from berth.compose.load.document import parse
from berth.compose.problem import ComposeInvalid, Mark


def test_scalars() -> None:
    text = "{a: on, b: 22:22, c: 0440, d: 0o17, e: true, f: ~, g: 1.5, h: '5', i: 2020-01-01, j: 0x10, k: 08, l: yes, m: 1_000}"
    assert parse(text, "f").data == {
        "a": "on", "b": "22:22", "c": 0o440, "d": 15, "e": True, "f": None, "g": 1.5, "h": "5", "i": "2020-01-01", "j": 16,
        "k": "08", "l": "yes", "m": 1000,
    }  # fmt: skip


def test_places() -> None:
    document = parse("a:\n  b:\n    - x\n    - y\n", "f.yaml")
    assert document.mark(("a", "b", 1)) == Mark("f.yaml", 4)
    assert document.mark(("a", "nothing", "deeper")) == Mark("f.yaml", 1)


def test_anchors_and_merge_keys() -> None:
    text = "x: &x {a: 1, b: 2}\ny: &y {b: 3, c: 4}\nz:\n  <<: [*x, *y]\n  a: 9\n"
    assert parse(text, "f").data["z"] == {"b": 2, "c": 4, "a": 9}


def test_reset_and_override() -> None:
    document = parse("a: {b: !reset null, c: !override [1], d: 2}\n", "f")
    assert document.data == {"a": {"c": [1], "d": 2}}
    assert document.resets == {("a", "b")} and document.overrides == {("a", "c")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", 'f:2: mapping key "a" already defined at line 1'),
        ("a: [1\n", "f:2: yaml: "),
        ("a: 1\n b: 2\n", "f:2: yaml: "),
        ("", "f:1: empty compose file"),
        ("- a\n", "f:1: top-level object must be a mapping"),
        ("a: !no 1\n", "f:1: unknown YAML tag !no"),
        ("a: &a [*a]\n", "f:1: an alias refers to a value that contains it"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(ComposeInvalid) as caught:
        parse(text, "f")
    assert str(caught.value).startswith(message)
