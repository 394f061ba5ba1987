"""Lists: Docker's tables, `--format` with a template, `--format json`, `--quiet`.

A row is a dict from Docker's placeholder names (.ID, .Names) to texts. A column is (placeholder, heading).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import click
import msgspec

from berth.cli.row import Row, json_text

Fields = dict[str, Any]

Column = tuple[str, str]


def aligned(lines: Sequence[Sequence[str]], gap: int = 3, least: int = 10) -> list[str]:
    """Columns as wide as their widest cell plus the gap, at least `least`, the last one free."""
    if not lines:
        return []
    count = max(map(len, lines))
    widths = [max(least, max((len(line[i]) for line in lines if i < len(line)), default=0) + gap) for i in range(count)]
    return ["".join(cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=False)) + line[-1] for line in lines]


def print_rows(rows: Iterable[Fields], columns: Sequence[Column], *, form: str | None = None, quiet: str = "") -> None:
    """Print rows. `quiet` names the one field to print; `form` is the user's --format."""
    if quiet and not form:
        for row in rows:
            click.echo(row[quiet])
    elif form in (None, "", "table"):
        lines = [[heading for _, heading in columns], *([str(row[name]) for name, _ in columns] for row in rows)]
        for line in aligned(lines):
            click.echo(line)
    elif form == "json":
        for row in rows:
            click.echo(json_text(Row(row)))
    else:
        _print_template([Row(row) for row in rows], columns, form or "")


def _print_template(rows: list[Row], columns: Sequence[Column], form: str) -> None:
    from berth.cli.template import Template

    form = form.replace("\\t", "\t").replace("\\n", "\n")
    if not form.startswith("table"):
        template = Template(form)
        for row in rows:
            click.echo(template.render(row))
        return
    template = Template(form.removeprefix("table").lstrip())
    names = rows[0] if rows else dict.fromkeys([name for name, _ in columns], "")
    known = dict(columns)
    heading = template.render(Row({name: _heading(name, names.get(name), known) for name in {**names, **known}}))
    for line in aligned([heading.split("\t"), *(template.render(row).split("\t") for row in rows)]):
        click.echo(line)


def _heading(name: str, value: Any, known: dict[str, str]) -> Any:
    """The heading of a placeholder; that of a label is the last part of its name."""
    if callable(value):
        return lambda label: label.rpartition(".")[2].replace("-", " ").replace("_", " ")
    return known.get(name, _spaced(name))


def _spaced(name: str) -> str:
    """CreatedAt is CREATED AT."""
    out = ""
    for before, letter in zip(" " + name, name, strict=False):
        out += (" " if letter.isupper() and before.islower() else "") + letter
    return out.upper()


def print_documents(documents: list[Any], form: str | None) -> None:
    """What `inspect` prints: a JSON array, one template line each, or one JSON document each."""
    if form in (None, ""):
        click.echo(msgspec.json.format(msgspec.json.encode(documents), indent=4).decode())
        return
    if form == "json":
        for document in documents:
            click.echo(json_text(document))
        return
    from berth.cli.template import Template

    template = Template((form or "").replace("\\t", "\t").replace("\\n", "\n"))
    for document in documents:
        click.echo(template.render(document))
