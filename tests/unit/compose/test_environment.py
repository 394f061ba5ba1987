"""Environment files and the environment of services."""

from __future__ import annotations

from typing import Any

import pytest

from berth.compose.load.environment import parse_env
from berth.compose.problem import ComposeInvalid


def test_the_forms_of_a_line() -> None:
    text = """
# comment
PLAIN=a value  # comment
export EXPORTED=1
HASH=a#b
SINGLE='as $PLAIN is \\n'
DOUBLE="tab\\there ${PLAIN}"
MULTI="first
second"
EMPTY=
BARE
SPACED = x
YAMLISH: y
"""
    assert parse_env(text, {}, "f") == {
        "PLAIN": "a value",
        "EXPORTED": "1",
        "HASH": "a#b",
        "SINGLE": "as $PLAIN is \\n",
        "DOUBLE": "tab\there a value",
        "MULTI": "first\nsecond",
        "EMPTY": "",
        "BARE": None,
        "SPACED": "x",
        "YAMLISH": "y",
    }


def test_the_surroundings_win_inside_values() -> None:
    assert parse_env("A=1\nB=$A", {"A": "2"}, "f") == {"A": "1", "B": "2"}


@pytest.mark.parametrize(("text", "place"), [("A=1\n=x", "f:2"), ('A="open', "f:1"), ("A B=1", "f:1")])
def test_errors_name_the_line(text: str, place: str) -> None:
    with pytest.raises(ComposeInvalid, match=place):
        parse_env(text, {}, "f")


def test_dot_env_is_below_the_shell(files: Any) -> None:
    files.write(".env", "TAG=file\nOTHER=file\n")
    service = files.service("command: [$TAG, $OTHER]", environ={"TAG": "shell"})
    assert service.command == ("shell", "file")


def test_env_file_is_below_environment_and_later_files_win(files: Any) -> None:
    files.write("a.env", "A=1\nB=1\nC=1\n")
    files.write("b.env", "B=2\n")
    service = files.service("env_file: [a.env, b.env]\nenvironment: {C: 3, FROM_SHELL: , UNKNOWN: }", environ={"FROM_SHELL": "s"})
    assert service.environment == {"A": "1", "B": "2", "C": "3", "FROM_SHELL": "s"}


def test_a_missing_env_file(files: Any) -> None:
    with pytest.raises(ComposeInvalid, match=r"c0.yaml:4: env file .*no.env not found"):
        files.service("env_file: no.env")
    assert files.service("env_file: [{path: no.env, required: false}]").environment == {}


def test_a_raw_env_file(files: Any) -> None:
    files.write("raw.env", "A='$B'\n")
    assert files.service("env_file: [{path: raw.env, format: raw}]").environment == {"A": "'$B'"}


def test_label_files_are_below_labels(files: Any) -> None:
    files.write("l", "a=1\nb=1\n")
    assert files.service("label_file: l\nlabels: {b: 2}").labels == {"a": "1", "b": "2"}
