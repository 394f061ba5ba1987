"""The parser, by a folder of Dockerfiles and what each one means: corpus/NAME.dockerfile and corpus/NAME.expected.

To add one, write the Dockerfile, run the test, read the difference, and save it if it is right.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.build.dockerfile.error import DockerfileError
from berth.build.dockerfile.instruction import Instruction
from berth.build.dockerfile.lexer import heredoc_names, split_words
from berth.build.dockerfile.mount_flag import parse_mount
from berth.build.dockerfile.parser import parse, parse_trigger
from berth.errors import InvalidArgument

CORPUS = Path(__file__).with_name("corpus")
NAMES = sorted(path.stem for path in CORPUS.glob("*.dockerfile"))


def show(instruction: Instruction) -> str:
    """One line: the lines in the file, the kind, and every field that says something."""
    place = f"{instruction.location.start}-{instruction.location.end}"
    said = []
    for item in fields(instruction):
        value: Any = getattr(instruction, item.name)
        if item.name not in ("location", "text") and value not in ("", (), None, False):
            said.append(f"{item.name}={_plain(value)}")
    return " ".join([place, type(instruction).__name__, *said])


def _plain(value: Any) -> str:
    if isinstance(value, msgspec.Struct):
        return msgspec.json.encode(value).decode()
    if isinstance(value, tuple):
        return "(" + ", ".join(_plain(item) for item in value) + ")"
    return repr(value)


def dump(text: str) -> str:
    try:
        parsed = parse(text)
    except DockerfileError as error:
        return f"error: {error.message}\n"
    lines = [show(arg) for arg in parsed.args]
    for stage in parsed.stages:
        lines.append(show(stage.base))
        lines.extend("  " + show(step) for step in stage.steps)
    lines.extend(f"warning: {warning}" for warning in parsed.warnings)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", NAMES)
def test_corpus(name: str) -> None:
    text = (CORPUS / f"{name}.dockerfile").read_bytes().decode()
    assert dump(text) == (CORPUS / f"{name}.expected").read_text()


def test_the_corpus_is_there() -> None:
    assert len(NAMES) > 15


def test_a_trigger_with_a_heredoc_survives() -> None:
    onbuild = parse("FROM a\nONBUILD RUN <<E\nx\nE\n").stages[0].steps[0]
    trigger = parse_trigger(onbuild.trigger, "a")  # type: ignore[attr-defined]
    assert trigger.heredocs[0].content == "x\n"  # type: ignore[attr-defined]
    with pytest.raises(InvalidArgument):
        parse_trigger("FROM b", "a")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("type=cache", "needs a target"),
        ("type=what,target=/x", "unsupported mount type"),
        ("type=cache,target=/x,sharing=some", "unsupported sharing"),
        ("type=tmpfs,target=/x,size=big", "invalid size"),
        ("type=cache,target=/x,mode=999", "invalid mode"),
        ("target=/x,target=/y", "twice"),
        ("target=/x,bind-propagation=shared", "unexpected key"),
        ("rubbish", "key=value pair"),
    ],
)
def test_mounts_that_are_wrong(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_mount(text)


RIGHT = ["FROM a", "RUN x \\", "  y", "# c", "", "COPY <<E /x", "E", "ENV a=b", 'CMD ["x"]', "RUN <<-E", "\tE"]
WRONG = [
    "FROM", "ENV", "CMD [", "ADD a", "ARG", "LABEL =", "STOPSIGNAL", "RUN --mount=rubbish x", "ONBUILD FROM a",
    "RUN --mount=type=tmpfs,target=/x,size=big x", "RUN --mount=type=none x", "RUN --x=y z", "COPY --chmod=9 a b",
    "HEALTHCHECK --interval=x CMD y",
]  # fmt: skip


@given(st.text())
def test_any_text_is_parsed_or_refused_with_a_place(text: str) -> None:
    try:
        parse(text)
    except DockerfileError as error:
        assert error.location.start >= 1
        assert "Dockerfile:" in error.message


@given(
    st.lists(
        st.sampled_from(RIGHT + WRONG)
    )
)
def test_any_lines_are_parsed_or_refused(lines: list[str]) -> None:
    try:
        parsed = parse("\n".join(lines))
    except DockerfileError:
        return
    starts = [step.location.start for stage in parsed.stages for step in (stage.base, *stage.steps)]
    assert starts == sorted(set(starts))


def test_words_and_names() -> None:
    assert split_words("a 'b c' \"d e\"f \\  g", "\\") == ["a", "'b c'", '"d e"f', "\\ ", "g"]
    assert heredoc_names("cat <<A <<-'B' 3<<C '<<D' x<<E", "\\") == [("A", False, True), ("B", True, False), ("C", False, True)]
