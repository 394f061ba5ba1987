"""version: of this command and of the engine.

Scripts ask for it to see whether the engine lives, so it does without the parser of the command line, whose import costs more
than all the rest.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

from berth.cli.row import json_text
from berth.client.engine import MAX_VERSION, connect
from berth.errors import BerthError
from berth.model.version import VERSION

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
_SHOWN = (
    ("Version", "Version"), ("ApiVersion", "API version"), ("MinAPIVersion", "Minimum API version"),
    ("PythonVersion", "Python version"), ("GoVersion", "Built with"), ("KernelVersion", "Kernel version"),
)  # fmt: skip


def show_version(host: str | None = None, form: str | None = None) -> None:
    """Print both versions. When the engine does not answer, ours is printed before the error is raised."""
    machine = os.uname().machine
    client = {
        "Platform": {"Name": f"berth {VERSION}"},
        "Version": VERSION,
        "ApiVersion": ".".join(map(str, MAX_VERSION)),
        "PythonVersion": sys.version.split()[0],
        "Os": "linux",
        "Arch": _ARCHITECTURES.get(machine, machine),
    }
    failure: BerthError | None = None
    server: dict[str, Any] | None = None
    try:
        server = connect(host).system.version_raw()
    except BerthError as error:
        failure = error
    if form:
        print(formatted({"Client": client, "Server": server}, form))
    else:
        print("\n".join(_lines("Client", client)))
        if server is not None:
            print("\n" + "\n".join(_lines("Server", server)))
    if failure is not None:
        raise failure


def formatted(document: dict[str, Any], form: str) -> str:
    """As `--format` says: json, or a template."""
    if form == "json":
        return json_text(document)
    from berth.cli.template import Template

    return Template(form).render(document)


def _lines(side: str, document: dict[str, Any]) -> Iterator[str]:
    name = (document.get("Platform") or {}).get("Name", "")
    yield f"{side}: {name}".rstrip()
    for key, label in _SHOWN:
        if document.get(key):
            yield f" {label + ':':<21}{document[key]}"
    yield f" {'OS/Arch:':<21}{document.get('Os')}/{document.get('Arch')}"
