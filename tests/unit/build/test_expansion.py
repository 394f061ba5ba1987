"""Variables and quotes, compared with a real shell where the rules are the same."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.build.dockerfile.expansion import ExpansionError, expand, expand_document, expand_words

VARIABLES = {"x": "a.b.c", "y": "1 2", "empty": "", "path": "/usr/lib/x.so"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$x", "a.b.c"),
        ("${x}y", "a.b.cy"),
        ("$xy", ""),
        ("\\$x", "$x"),
        ("'$x'", "$x"),
        ('"$x"', "a.b.c"),
        ('"\\"$x\\""', '"a.b.c"'),
        ("a\\ b", "a b"),
        ("${none:-d $x}", "d a.b.c"),
        ("${none:-${x}}", "a.b.c"),
        ("${empty-q}", ""),
        ("${empty:-q}", "q"),
        ("${empty+q}", "q"),
        ("${empty:+q}", ""),
        ("${x:+yes}", "yes"),
        ("${x:?no}", "a.b.c"),
        ("${x#*.}", "b.c"),
        ("${x##*.}", "c"),
        ("${x%.*}", "a.b"),
        ("${x%%.*}", "a"),
        ("${path##*/}", "x.so"),
        ("${path#/usr}", "/lib/x.so"),
        ("${x/./-}", "a-b.c"),
        ("${x//./-}", "a-b-c"),
        ("${x//./}", "abc"),
        ("${x//}", "a.b.c"),
        ('${none:-"}"}', "}"),
        ("$", "$"),
        ("a$", "a$"),
        ("${x#'*'}", "a.b.c"),
    ],
)
def test_expand(text: str, expected: str) -> None:
    assert expand(text, VARIABLES) == expected


@pytest.mark.parametrize(
    "text", ["${x", "${}", "${x:", "${x:=1}", "'open", '"open', "${x^}", "${none:?gone}", "${none?}", "${x#[}"]
)
def test_what_cannot_be_expanded(text: str) -> None:
    with pytest.raises(ExpansionError):
        expand(text, VARIABLES)


def test_the_other_escape_character() -> None:
    assert expand("c:\\x `$x", VARIABLES, "`") == "c:\\x $x"


def test_words() -> None:
    assert expand_words('$y "$y" a\\ b', VARIABLES) == ["1", "2", "1 2", "a b"]
    assert expand_words("  ", VARIABLES) == []


def test_documents_keep_quotes() -> None:
    assert expand_document("\"$x\" '$x' \\$x \\n \\\\", VARIABLES) == "\"a.b.c\" 'a.b.c' $x \\n \\"


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(ExpansionError, match="too deeply"):
        expand("${n:-" * 200 + "}" * 200, {})


_piece = st.sampled_from(
    [
        "$x",
        "${x}",
        "${y}",
        "'q $x'",
        '"q $y"',
        "\\$",
        "a",
        ".",
        "${none:-d}",
        "${empty:+e}",
        "${x#*.}",
        "${x%%.*}",
        "${none-${x}}",
        "/",
    ]
)


@settings(max_examples=40, deadline=None)
@given(st.lists(_piece, min_size=1, max_size=6))
def test_as_a_shell_does_it(pieces: list[str]) -> None:
    """Joined without white space; the shell sees it as one assignment, where no splitting and no globbing happens."""
    text = "".join(pieces)
    script = f'v={text}; printf %s "$v"'
    done = subprocess.run(["/bin/sh", "-c", script], env=VARIABLES, capture_output=True, text=True, check=True)
    assert expand(text, VARIABLES) == done.stdout


@given(st.text("$x{}:-+?#%/'\"\\ a*["), st.dictionaries(st.sampled_from(["x", "a"]), st.text("ab.*")))
def test_any_text_is_expanded_or_refused(text: str, variables: dict[str, str]) -> None:
    for function in (expand, expand_words, expand_document):
        try:
            function(text, variables)  # type: ignore[operator]
        except ExpansionError:
            pass


@given(st.text())
def test_text_without_special_characters_stays(text: str) -> None:
    plain = "".join(char for char in text if char not in "$'\"\\")
    assert expand(plain, {}) == plain
