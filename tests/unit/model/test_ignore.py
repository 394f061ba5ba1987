"""Ignore rules of build contexts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import InvalidArgument
from berth.model.ignore import IgnoreRules


@pytest.mark.parametrize(
    ("text", "path", "excluded"),
    [
        ("*.md", "README.md", True),
        ("*.md", "docs/README.md", False),
        ("**/*.md", "docs/deep/README.md", True),
        ("**/*.md", "README.md", True),
        ("*.md\n!README.md", "README.md", False),
        ("!README.md\n*.md", "README.md", True),
        ("node_modules", "node_modules/x/y.js", True),
        ("/node_modules/", "node_modules/x", True),
        ("node_modules", "a/node_modules", False),
        ("**/node_modules", "a/b/node_modules/c", True),
        ("*", "anything/at/all", True),
        ("*\n!src", "src/main.py", False),
        ("*\n!src\nsrc/*.log", "src/a.log", True),
        ("a/**/z", "a/z", True),
        ("a/**/z", "a/b/c/z", True),
        ("a/**", "a/b/c", True),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("[a-c]x", "bx", True),
        ("[^a-c]x", "bx", False),
        ("[^a]x", "/x", False),
        ("# comment\nfoo", "# comment", False),
        (r"\#file", "#file", True),
        ("  spaced  ", "spaced", True),
        ("./x/../y", "y", True),
        ("a.c", "abc", False),
        ("**", "x", True),
        ("", "x", False),
        ("foo\n!foo/bar", "foo/bar/baz", False),
        ("foo\n!foo/bar", "foo/other", True),
    ],
)
def test_rules(text: str, path: str, excluded: bool) -> None:
    assert IgnoreRules.parse(text).excludes(path, False) is excluded


def test_a_pattern_that_is_none_is_located() -> None:
    with pytest.raises(InvalidArgument, match=r"\.dockerignore:2"):
        IgnoreRules.parse("ok\n[a")
    with pytest.raises(InvalidArgument, match=r"x\.dockerignore:1: illegal exclusion"):
        IgnoreRules.parse("!", "x.dockerignore")


def test_a_walk_may_skip_only_what_nothing_brings_back() -> None:
    rules = IgnoreRules.parse("*\n!keep/this/file")
    assert rules.prunes("other")
    assert not rules.prunes("keep")
    assert not rules.prunes("keep/this")
    assert not IgnoreRules.parse("*\n!**/deep.txt").prunes("other")


def test_kept_paths_come_back() -> None:
    rules = IgnoreRules.parse("*").keeping([".dockerignore", "Dockerfile"])
    assert not rules.excludes("Dockerfile", False)
    assert rules.excludes("Dockerfile2", False)


_component = st.text("abc*?.", min_size=1, max_size=4)
_path = st.lists(st.text("abc.", min_size=1, max_size=3).filter(lambda s: s not in (".", "..")), min_size=1, max_size=4)


@given(st.lists(st.tuples(st.booleans(), st.lists(_component, min_size=1, max_size=3)), max_size=5), _path)
def test_pruning_never_loses_a_kept_file(parts: list[tuple[bool, list[str]]], path: list[str]) -> None:
    text = "\n".join(("!" if negated else "") + "/".join(components) for negated, components in parts)
    rules = IgnoreRules.parse(text)
    whole = "/".join(path)
    if not rules.excludes(whole, False):
        assert not any(rules.prunes("/".join(path[:count])) for count in range(1, len(path)))


@given(_path)
def test_what_is_below_an_excluded_directory_is_excluded(path: list[str]) -> None:
    rules = IgnoreRules.parse(path[0])
    assert rules.excludes("/".join(path), False)
