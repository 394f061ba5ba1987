"""What was measured, beside what is asked for: lines, a table, a JSON document."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
from dataclasses import asdict, dataclass, field
from typing import Any

FULL_COUNT = 30
Readings = dict[str, list[float]]


@dataclass(frozen=True)
class Bar:
    """What is asked for. `times`: how many times better than theirs, at least `limit`; otherwise ours as a share of theirs, at
    most `limit`. `more`: of a rate, where more is better."""

    limit: float
    times: bool = True
    more: bool = False

    def ratio(self, ours: float, theirs: float) -> float:
        """In the bar's own direction."""
        return theirs / ours if self.times and not self.more else ours / theirs

    def is_met(self, ours: float, theirs: float) -> bool:
        """Whether it is reached."""
        ratio = self.ratio(ours, theirs)
        return ratio >= self.limit if self.times else ratio <= self.limit

    def __str__(self) -> str:
        return f">= {self.limit:g} x" if self.times else f"<= {self.limit * 100:.0f} %"


@dataclass(frozen=True)
class Line:
    """One comparison. `row` is the row of the requirements, empty for a further figure. Values are medians in `unit`;
    `worst` and `count` are of our readings. Without a peer there is only our figure; without a bar only a ratio."""

    row: str
    title: str
    unit: str
    ours: float
    peer: str = ""
    theirs: float | None = None
    bar: Bar | None = None
    count: int = 0
    worst: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """In the bar's direction; how many times faster where there is none."""
        return None if self.theirs is None else (self.bar or Bar(1)).ratio(self.ours, self.theirs)

    @property
    def met(self) -> bool | None:
        """None where nothing is asked for, or nothing to compare with."""
        return self.bar.is_met(self.ours, self.theirs) if self.bar and self.theirs is not None else None


@dataclass
class Result:
    """A whole run."""

    count: int
    lines: list[Line] = field(default_factory=list)
    readings: dict[str, Readings] = field(default_factory=dict)

    def compare(
        self, row: str, title: str, readings: Readings, ours: str, theirs: str, bar: Bar | None = None, note: str = ""
    ) -> None:
        """A line of medians in milliseconds from readings in seconds."""
        self.readings.setdefault(title, readings)
        if ours not in readings:
            return
        peer = readings.get(theirs)
        self.lines.append(
            Line(
                row, title, "ms", _milliseconds(readings[ours]), theirs, _milliseconds(peer) if peer else None, bar,
                len(readings[ours]), max(readings[ours]) * 1000, note,
            )
        )  # fmt: skip

    def document(self) -> dict[str, Any]:
        """For programs: the machine, the lines, every reading in seconds."""
        lines = [{**asdict(line), "bar": str(line.bar or ""), "ratio": line.ratio, "met": line.met} for line in self.lines]
        return {"version": 1, "machine": machine(), "count": self.count, "lines": lines, "readings": self.readings}

    def table(self) -> str:
        """For people."""
        rows = [("row", "measure", "berth", "peer", "ratio", "asked for", "met"), *(_cells(line) for line in self.lines)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        text.insert(1, "  ".join("-" * width for width in widths))
        text += ["", *(f"{key}: {value}" for key, value in machine().items())]
        if self.count < FULL_COUNT:
            text.append(f"A short run ({self.count} readings instead of {FULL_COUNT}): for trying, not for the record.")
        return "\n".join(text)


def _milliseconds(values: list[float]) -> float:
    return statistics.median(values) * 1000


def _cells(line: Line) -> tuple[str, ...]:
    ours = f"{line.ours:.1f} {line.unit}"
    theirs = f"{line.peer} {line.theirs:.1f} {line.unit}" if line.theirs is not None else "-"
    ratio = line.ratio
    share = line.bar is not None and not line.bar.times
    shown = "-" if ratio is None else f"{ratio * 100:.0f} %" if share else f"{ratio:.1f} x" if ratio >= 2 else f"{ratio:.2f} x"
    met = {True: "yes", False: "NO", None: ""}[line.met]
    title = f"{line.title} ({line.note})" if line.note else line.title
    return line.row, title, ours, theirs, shown, str(line.bar or ""), met


def machine() -> dict[str, str]:
    """What the figures depend on."""
    load = os.getloadavg()
    found = {
        "kernel": platform.release(),
        "processors": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
        "load at the end": f"{load[0]:.1f} {load[1]:.1f} {load[2]:.1f}",
    }
    for program in ("dockerd", "runc", "crun"):
        if shutil.which(program):
            said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
            found[program] = said.splitlines()[0] if said else "?"
    return found
