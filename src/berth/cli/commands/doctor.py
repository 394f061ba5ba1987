"""doctor: what this host offers, what is exposed, what is wrong, and what to change.

The diagnosis is a program of its own (berth.doctor), which prints a report; here it is started and shown.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from typing import get_args

import click
import msgspec

from berth.cli.command import declare
from berth.cli.table import aligned
from berth.errors import InvalidArgument
from berth.wire.doctor import SEVERITIES, CheckInfo, Finding, Report, Severity

SECTIONS = {
    "kernel": "Kernel",
    "cgroup": "Control groups",
    "ids": "Ids",
    "network": "Network",
    "storage": "Storage",
    "limits": "Limits and rights",
    "build": "Builds",
    "engine": "Engine",
    "exposed": "What is exposed",
    "store": "Store",
}
_COLOURS = {"ok": "green", "note": "cyan", "warning": "yellow", "problem": "red"}
_CODES = {"ok": 0, "note": 0, "warning": 1, "problem": 2}
_LEAST_WIDTH, _MOST_WIDTH = 60, 130


@declare("doctor")
@click.argument("names", nargs=-1, metavar="[CHECK|SECTION...]")
@click.option("--deep", is_flag=True, help="Also check the store: database, layers, images, all content, volumes")
@click.option("--list", "list_", is_flag=True, help="List the checks instead of running them")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", help="Format of the report")
@click.option("--severity", type=click.Choice(get_args(Severity)), default="ok", help="Show nothing better than this")
@click.option("--root", help="Data root of an engine that does not run (default: /var/lib/berth)")
def doctor(names: tuple[str, ...], deep: bool, list_: bool, form: str, severity: Severity, root: str | None) -> int:
    """Examine this host and its engine: what works, what is exposed, what to change.

    Nothing is changed. Exit code: 0 nothing worse than a note, 1 warnings, 2 problems.
    """
    host = (click.get_current_context().find_root().obj or {}).get("host")
    arguments = [*(["--list"] if list_ else []), *(["--deep"] if deep else []), *(["--root", root] if root else [])]
    arguments += [*(["--host", host] if host else []), "--", *names]
    raw = _examine(arguments)
    if list_:
        _show_list(msgspec.json.decode(raw, type=list[CheckInfo]), form, raw)
        return 0
    report = msgspec.json.decode(raw, type=Report)
    if form == "json":
        click.echo(msgspec.json.format(raw, indent=2))
    else:
        _show(report, severity)
    return _CODES[report.worst]


def _examine(arguments: list[str]) -> bytes:
    # -P: the working directory is not searched for modules.
    command = [sys.executable, "-P", "-m", "berth.doctor.main", *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise InvalidArgument(said.splitlines()[-1] if said else f"the diagnosis ended with code {done.returncode}")
    return done.stdout


def _show_list(checks: list[CheckInfo], form: str, raw: bytes) -> None:
    if form == "json":
        click.echo(msgspec.json.format(raw, indent=2))
        return
    rows = [["CHECK", "WHAT IT LOOKS AT"], *([check.name, check.title + (" (--deep)" if check.deep else "")] for check in checks)]
    for line in aligned(rows):
        click.echo(line)


def _show(report: Report, severity: Severity) -> None:
    engine = f"engine at {report.engine.address}" if report.engine.running else "no engine runs"
    click.echo(f"{report.host}, {engine}, data root {report.engine.root}")
    shown = SEVERITIES[SEVERITIES.index(severity) :]
    width = min(max(shutil.get_terminal_size((100, 24)).columns, _LEAST_WIDTH), _MOST_WIDTH)
    for section, title in SECTIONS.items():
        findings = [f for f in report.findings if f.check.partition(".")[0] == section and f.severity in shown]
        if not findings:
            continue
        click.echo(f"\n{click.style(title, bold=True)}")
        for finding in findings:
            _show_finding(finding, width)
    counts = [f"{report.counts[name]} {name if name == 'ok' or report.counts[name] == 1 else name + 's'}" for name in SEVERITIES]
    click.echo(f"\n{', '.join(reversed(counts))}")
    if not report.as_root:
        click.echo("Some things only root can see: sudo berth doctor")


def _show_finding(finding: Finding, width: int) -> None:
    mark = click.style(f"{finding.severity:<9}", fg=_COLOURS[finding.severity])
    lead = " " * 11
    summary = textwrap.wrap(
        f"{finding.summary} [{finding.check}]", width - len(lead), break_long_words=False, break_on_hyphens=False
    )
    click.echo(f"  {mark}{summary[0]}")
    for line in summary[1:]:
        click.echo(lead + line)
    for label, text in (("", finding.why), ("change: ", finding.change)):
        for index, line in enumerate(
            textwrap.wrap(text, width - len(lead) - len(label), break_long_words=False, break_on_hyphens=False)
        ):
            click.echo(lead + (label if index == 0 else " " * len(label)) + line)


COMMANDS = {"doctor": doctor}
