"""Errors of a Dockerfile: they carry the file's name, the lines, and an excerpt that marks them."""

from __future__ import annotations

from dataclasses import dataclass

from berth.errors import BerthError, InvalidArgument

_AROUND = 2


@dataclass(frozen=True, slots=True)
class Source:
    """The text of a Dockerfile and the name it goes by."""

    name: str
    text: str

    def excerpt(self, start: int, end: int) -> str:
        """The lines from `start` to `end` (from 1), marked, with a few around them."""
        lines = self.text.splitlines()
        first, last = max(1, start - _AROUND), min(len(lines), end + _AROUND)
        rule = "-" * 20
        shown = [
            f"{number:4d} | {'>>> ' if start <= number <= end else '    '}{lines[number - 1]}".rstrip()
            for number in range(first, last + 1)
        ]
        return "\n".join([f"{self.name}:{start}", rule, *shown, rule])


@dataclass(frozen=True, slots=True)
class Location:
    """Lines of a Dockerfile."""

    source: Source
    start: int
    end: int

    def excerpt(self) -> str:
        """The lines, marked."""
        return self.source.excerpt(self.start, self.end)

    @property
    def lines(self) -> str:
        """`line 3`, or `lines 3-5`."""
        return f"line {self.start}" if self.start == self.end else f"lines {self.start}-{self.end}"


class DockerfileError(InvalidArgument):
    """A Dockerfile that cannot be understood. `problem` is the message without place and excerpt."""

    def __init__(self, problem: str, location: Location) -> None:
        super().__init__(f"dockerfile parse error on {location.lines}: {problem}\n{location.excerpt()}")
        self.problem = problem
        self.location = location


class StepError(InvalidArgument):
    """An instruction that was understood and cannot be carried out as written."""

    def __init__(self, problem: str, location: Location) -> None:
        super().__init__(f"{problem}\n{location.excerpt()}")
        self.problem = problem
        self.location = location


def located(error: BerthError, location: Location) -> BerthError:
    """The same kind of error, with the instruction's excerpt added once."""
    if isinstance(error, DockerfileError | StepError):
        return error
    error.message = f"{error.message}\n{location.excerpt()}"
    error.args = (error.message,)
    return error
