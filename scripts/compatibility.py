"""Write docs/compatibility.md from the tests: endpoints from the API's schemas and the lists of what is not read, commands and
flags from the docker CLI's case list, clients from their tests. With --check: say whether the page is as it would be written."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.api_schema import VERSIONS, api_schema
from support.cli_cases import Case, read_cases, used

TOP = Path(__file__).parents[1]
PAGE = TOP / "docs/compatibility.md"
# Clients, and the file of their tests.
CLIENTS = {
    "docker CLI 28": "tests/conformance/test_cli_cases.py",
    "docker SDK for Python": "tests/conformance/test_docker_sdk.py",
    "docker SDK for Python, in detail": "tests/conformance/test_docker_sdk_details.py",
    "testcontainers, python-on-whales, dockerode and more": "tests/conformance/test_other_clients.py",
    "docker-compose 2, of Go's modules": "tests/conformance/test_compose_v2.py",
    "docker-compose 1.29, berth compose": "tests/integration/test_compose_engine.py",
    "podman, containerd and Docker with berth-runtime": "tests/integration/test_oci_engines.py",
    "the Open Container Initiative's tests of runtimes": "tests/conformance/test_oci_validation.py",
}
GROUPS = {
    "builder", "checkpoint", "config", "container", "context", "image", "manifest", "network",
    "node", "plugin", "secret", "service", "stack", "swarm", "system", "trust", "volume",
}
ABSENT = {
    "/swarm": "as on a node that is in no swarm: 503; what would make one is a 501",
    "/nodes": "503: not a swarm manager",
    "/services": "503: not a swarm manager",
    "/tasks": "503: not a swarm manager",
    "/secrets": "503: not a swarm manager",
    "/configs": "503: not a swarm manager",
    "/plugins": "as an engine that has none",
}


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _endpoints() -> list[str]:
    """A row for each operation of any version: since when, until when, what of it has no effect."""
    accounted = _module(TOP / "tests/unit/api/test_accounted.py")
    where: dict[str, list[str]] = {}
    for version in VERSIONS:
        for operation in api_schema(version).operations.values():
            where.setdefault(str(operation), []).append(version)
    rows = ["| endpoint | API | what differs |", "|---|---|---|"]
    for name in sorted(where, key=lambda text: text.split()[::-1]):
        path = name.split()[1]
        ignored = [(key, why) for (operation, key), why in accounted.PARAMETERS.items() if operation == name]
        notes = [why if key == "*" else f"`{key}`: {why}" for key, why in ignored]
        notes += [why for start, why in ABSENT.items() if path.startswith(start)]
        rows.append(f"| `{name}` | {where[name][0]} to {where[name][-1]} | {'; '.join(notes)} |")
    return rows


def _commands(cases: list[Case]) -> list[str]:
    """A row for each command: its flags, and in how many cases and which one each is shown."""
    names = {words for case in cases for step in case.steps for words in _candidates(step.text)}
    uses = used(cases, names)
    rows = ["| command | cases | flags, each with a case that shows it |", "|---|---|---|"]
    for command in sorted(uses):
        if not command:
            continue
        flags = [f"`{flag}` {ids[0]}" for flag, ids in sorted(uses[command].items()) if flag]
        rows.append(f"| `docker {command}` | {len(uses[command][''])} | {', '.join(flags)} |")
    return rows


def _candidates(text: str) -> set[str]:
    found = set()
    for match in re.finditer(r"\bdocker ((?:-\S+ (?:\S+ )?)*)([a-z]+)(?: ([a-z-]+))?", text):
        first, second = match[2], match[3]
        found.add(f"{first} {second}" if first in GROUPS and second else first)
    return found


def _differences(cases: list[Case]) -> list[str]:
    """Reason by reason, the cases that differ for it."""
    reasons: dict[str, list[str]] = {}
    for case in cases:
        for step in case.compared:
            for reason in step.differs.values():
                ids = reasons.setdefault(reason, [])
                if case.id not in ids:
                    ids.append(case.id)
    rows = ["| why | cases |", "|---|---|"]
    often = sorted(reasons.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    return rows + [f"| {reason} | {', '.join(ids)} |" for reason, ids in often]


def _clients() -> list[str]:
    rows = ["| client | tests |", "|---|---|"]
    return rows + [f"| {name} | [{Path(file).name}](../{file}) |" for name, file in CLIENTS.items() if (TOP / file).exists()]


def page() -> str:
    """The whole text."""
    cases = read_cases()
    steps = [step for case in cases for step in case.compared]
    same = sum(not step.differs for step in steps)
    return "\n".join(
        [
            "# Compatibility with Docker",
            "",
            "Made of the tests by `make docs`; a test holds it up to date. [The Engine API](dev/api.md) has its promise.",
            "",
            "## Clients",
            "",
            *_clients(),
            "",
            "## The docker CLI",
            "",
            f"{len(cases)} cases with {len(steps)} command lines were recorded with Debian's docker.io (API 1.41).",
            f"{same} of them answer the same with berth, exit code and both streams.",
            f"The other {len(steps) - same} differ for these reasons. The cases are",
            "files of [cli_cases](../tests/conformance/cli_cases), where the reason stands under the command line.",
            "",
            *_differences(cases),
            "",
            "### Command by command, flag by flag",
            "",
            *_commands(cases),
            "",
            "## Endpoint by endpoint",
            "",
            f"Every endpoint of API {VERSIONS[0]} to {VERSIONS[-1]}. Parameters and fields that are not named here have an",
            "effect, or are refused by name.",
            "",
            *_endpoints(),
            "",
        ]
    )


def main() -> int:
    """The command."""
    text = page()
    if "--check" in sys.argv:
        return int(not PAGE.exists() or PAGE.read_text() != text)
    PAGE.write_text(text)
    print(f"{PAGE.relative_to(TOP)} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
