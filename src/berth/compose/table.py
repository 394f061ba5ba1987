"""Plain tables: columns as wide as their widest cell, three spaces between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table, the headings first."""
    lines = [list(headings), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return ["   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def ago(seconds: float) -> str:
    """About how long ago, in Docker's words: "5 minutes ago"."""
    if seconds < 1:
        return "Less than a second ago"
    steps = ((60, 1, "second"), (3600, 60, "minute"), (86400 * 2, 3600, "hour"), (86400 * 14, 86400, "day"))
    for limit, unit, word in (*steps, (86400 * 60, 86400 * 7, "week"), (86400 * 730, 86400 * 30, "month")):
        if seconds < limit:
            count = int(seconds // unit)
            if word == "minute" and count == 1:
                return "About a minute ago"
            if word == "hour" and count == 1:
                return "About an hour ago"
            return f"{count} {word}{'s' if count != 1 else ''} ago"
    return f"{int(seconds // (86400 * 365))} years ago"
