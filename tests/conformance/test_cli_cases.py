"""The case list of the docker CLI: each case answers as Debian's docker.io did when it was recorded, or differs exactly as the
case says, for the reason that it gives. `make cli-cases ARGS=...` runs parts of the list by hand."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from support import leak
from support.cli_cases import (
    DATA,
    STREAMS,
    Answer,
    Runner,
    differences,
    is_current,
    read_cases,
    recorded,
    recorded_differences,
    used,
)
from support.cli_engine import cli_version, commands, prepare, surroundings
from support.engine import EngineProcess

# All cases are run by one fixture.
pytestmark = pytest.mark.timeout(900)
CASES = {case.id: case for case in read_cases()}
LEAST = 300
# Groups whose flags need not all be in a case, and why.
REFUSED = {
    "checkpoint": "the engine refuses all of it: it has no CRIU",
    "config": "without a swarm refused before flags are looked at",
    "manifest": "the CLI asks the registry itself",
    "node": "without a swarm refused before flags are looked at",
    "plugin": "there are no plugins, whatever is asked of them",
    "secret": "without a swarm refused before flags are looked at",
    "service": "without a swarm refused before flags are looked at",
    "stack": "without a swarm refused before flags are looked at",
    "swarm": "refused before flags are looked at",
    "trust": "the CLI asks a notary server itself, which Docker has given up",
}


@pytest.fixture(scope="module")
def answers(request: pytest.FixtureRequest) -> Iterator[dict[str, list[Answer] | str]]:
    """What an engine of its own answers, for the cases that were chosen; it leaves nothing behind."""
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces, mounts and network devices are made")
    if cli_version() != (DATA / "cli.txt").read_text().strip():
        pytest.skip(f"the answers were recorded with another CLI than {cli_version()}: make cli-cases ARGS=record")
    items = [item for item in request.session.items if isinstance(item, pytest.Function) and "test_answers_as" in item.name]
    chosen = {str(item.callspec.params["id"]) for item in items}
    found: dict[str, list[Answer] | str] = {}
    engine = EngineProcess()
    with leak.nothing_left(engine.snapshot):
        try:
            engine.start()
            prepare(engine.host)
            with surroundings() as (hide, environment):
                hidden = [(engine.root, "<root>"), (engine.host, "<host>"), *hide]
                cases = [case for case in CASES.values() if case.id in chosen]
                Runner(engine.host, hidden, environment).run_all(cases, lambda case, got: found.update({case.id: got}))
            assert "internal error" not in engine.log_text()
        finally:
            engine.shut_down()
    yield found


@pytest.mark.parametrize("id", CASES)
def test_answers_as_docker_does_or_as_is_listed(id: str, answers: dict[str, list[Answer] | str]) -> None:
    case, got, docker = CASES[id], answers[id], recorded().get(id)
    assert isinstance(got, list), got
    assert docker is not None and is_current(case, docker), f"{id} has changed: make cli-cases ARGS='record ^{id}$'"
    differ = differences(case, got, docker)
    listed = {f"{number}.{stream}" for number, step in enumerate(case.compared) for stream in step.differs}
    for key in sorted(differ.keys() - listed):
        number, stream = key.split(".")
        assert got[int(number)][stream] == docker[int(number)][stream], case.compared[int(number)].text
    assert not listed - differ.keys(), "listed as different, and is as Docker's"
    assert differ == recorded_differences().get(id, {}), "differs in another way than was recorded"


def test_the_list_is_long_enough_and_each_difference_has_a_reason() -> None:
    assert len(CASES) >= LEAST
    reasons = [reason for case in CASES.values() for step in case.compared for reason in step.differs.values()]
    assert all(len(reason) > 10 for reason in reasons)
    assert recorded().keys() == CASES.keys()
    assert set(STREAMS) == {"exit", "stdout", "stderr"}


def test_every_command_and_flag_of_the_cli_is_in_a_case() -> None:
    known = commands()
    uses = used(list(CASES.values()), set(known))
    missing = []
    for name, command in known.items():
        flags = {flag for alias in command.names for flag in uses.get(alias, {})}
        if not flags and not name.startswith("trust "):
            missing.append(name)
        if name.split()[0] not in REFUSED:
            missing += [f"{name} {'/'.join(pair)}" for pair in command.flags if flags.isdisjoint(pair)]
    assert not missing, "in no case:\n" + "\n".join(missing)
