"""berth-runtime and runc side by side: the same commands on the same bundle, the same exit codes and words."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from support.bundle import BERTH, Bundle, Runtime, remove_all

pytest_plugins = ["support.bundle_fixture"]

OCI = Path(__file__).parent.parent / "data/oci"


@pytest.fixture
def pair(bundle: Bundle, tmp_path: Path) -> Iterator[tuple[Runtime, Runtime]]:
    """berth-runtime and runc, each with a root and an id of its own."""
    if not shutil.which("runc"):
        pytest.skip("needs the package runc")
    for name in "berth", "runc":
        (tmp_path / name).mkdir()
    made = Runtime(BERTH, tmp_path / "berth/state", bundle), Runtime(("runc",), tmp_path / "runc/state", bundle)
    yield made
    for runtime in made:
        remove_all(runtime)


def said(runtime: Runtime, done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    """Code and output without what must differ: names, ids, times."""

    def plain(text: str) -> str:
        for value, name in ((runtime.id, "ID"), ("berth-runtime", "runc"), (str(runtime.root), "ROOT")):
            text = text.replace(value, name)
        text = re.sub(r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "TIME", text)
        text = re.sub(r'"ociVersion": "[^"]*"', '"ociVersion": "V"', text)
        return re.sub(r'"pid": [1-9]\d*', '"pid": N', text)

    return done.returncode, plain(done.stdout), plain(done.stderr)


def same(pair: tuple[Runtime, Runtime], *words: str) -> tuple[int, str, str]:
    """Both say the same to a command; {id} and {bundle} are filled in."""
    answers = []
    for runtime in pair:
        filled = [word.format(id=runtime.id, bundle=runtime.bundle.directory) for word in words]
        done = runtime(*filled)
        if "create" in filled:
            done = subprocess.CompletedProcess(done.args, done.returncode, "", (runtime.root.parent / "output").read_text())
        answers.append(said(runtime, done))
    assert answers[0] == answers[1], words
    return answers[0]


def test_nobody(pair: tuple[Runtime, Runtime]) -> None:
    for command in ("state", "start", "delete", "kill", "pause", "resume", "ps"):
        assert same(pair, command, "{id}")[0] == 1
    assert same(pair, "delete", "--force", "{id}") == (0, "", "")
    assert same(pair, "exec", "{id}", "true")[0] == 255
    assert same(pair, "list")[0] == 0
    assert same(pair, "list", "--quiet")[1] == ""
    assert same(pair, "list", "--format", "json")[1] == "null\n"


def test_a_life(pair: tuple[Runtime, Runtime], bundle: Bundle) -> None:
    bundle.write("sleep", "600")
    assert same(pair, "create", "--bundle", "{bundle}", "{id}")[0] == 0
    assert same(pair, "create", "--bundle", "{bundle}", "{id}")[0] == 1
    code, document, _ = same(pair, "state", "{id}")
    assert code == 0 and json.loads(document.replace("N", "1"))["status"] == "created"
    assert same(pair, "start", "{id}")[0] == 0
    for words, code in (
        (("start", "{id}"), 1),
        (("delete", "{id}"), 1),
        (("exec", "{id}", "sh", "-c", "echo out; echo err >&2; exit 7"), 7),
        (("exec", "--user", "5:6", "--cwd", "/tmp", "--env", "A=b", "{id}", "sh", "-c", "id -u; id -g; pwd; echo $A"), 0),
        (("exec", "{id}", "nope"), 255),
        (("exec", "{id}", "sh", "-c", "kill -9 $$"), 137),
        (("pause", "{id}"), 0),
        (("pause", "{id}"), 1),
        (("start", "{id}"), 1),
        (("exec", "{id}", "true"), 255),
        (("delete", "{id}"), 1),
        (("state", "{id}"), 0),
        (("resume", "{id}"), 0),
        (("resume", "{id}"), 1),
        (("update", "--pids-limit", "77", "{id}"), 0),
        (("kill", "{id}", "FOO"), 1),
        (("kill", "{id}", "0"), 0),
        (("kill", "{id}", "SIGKILL"), 0),
    ):
        assert same(pair, *words)[0] == code, words
    for runtime in pair:
        runtime.await_status("stopped")
    for words, code in (
        (("state", "{id}"), 0),
        (("kill", "{id}", "KILL"), 1),
        (("exec", "{id}", "true"), 255),
        (("start", "{id}"), 1),
        (("pause", "{id}"), 1),
        (("events", "--stats", "{id}"), 1),
        (("delete", "{id}"), 0),
        (("delete", "{id}"), 1),
    ):
        assert same(pair, *words)[0] == code, words


@pytest.mark.parametrize(
    "script",
    [
        "true",
        "exit 3",
        "kill -9 $$",
        "echo out; echo err >&2",
        "cat /proc/self/status | grep -E '^(Cap[^IA]|Seccomp:|NoNew|Uid)'",
    ],
)
def test_runs(pair: tuple[Runtime, Runtime], bundle: Bundle, script: str) -> None:
    bundle.shell(script)
    same(pair, "run", "--bundle", "{bundle}", "{id}")


def test_what_a_container_sees(pair: tuple[Runtime, Runtime], bundle: Bundle) -> None:
    bundle.shell(
        "cut -d' ' -f5,6 /proc/self/mountinfo | cut -d, -f1 | grep -v cgroup | sort; ls /dev; "
        "readlink /dev/fd /dev/ptmx; hostname; ulimit -n; env | sort; touch /proc/sys/kernel/domainname; cat /proc/keys; "
        "ls /sys/firmware; umask"
    )
    answers = [said(runtime, runtime.run()) for runtime in pair]
    assert answers[0][0] == answers[1][0]
    ours, theirs = (set(answer[1].splitlines()) for answer in answers)
    # /dev/core is a link that the specification's list does not have.
    assert (ours - theirs, theirs - ours) == ({"core"}, set())


@pytest.mark.parametrize(
    "words",
    [
        ("run", "--bundle", "{bundle}", "../x"),
        ("run", "--bundle", "/nowhere", "{id}"),
        ("create", "--bundle", "{bundle}", "{id}"),
        ("bogus",),
    ],
)
def test_refusals(pair: tuple[Runtime, Runtime], bundle: Bundle, words: tuple[str, ...]) -> None:
    bundle.write("nope")
    ours, theirs = (said(one, one(*[word.format(id=one.id, bundle=bundle.directory) for word in words])) for one in pair)
    assert ours[0] == theirs[0] != 0
    assert ours[2].strip().rstrip('"').removesuffix("\\n") == theirs[2].strip().rstrip('"').removesuffix("\\n")


def validator(name: str) -> Any:
    """Of a schema of the specification, whose references are to files beside it."""
    documents = {path.name: json.loads(path.read_text()) for path in OCI.glob("*.json")}
    from referencing import Registry, Resource

    registry: Any = Registry().with_resources(
        (key, Resource.from_contents(value, default_specification=_draft())) for key, value in documents.items()
    )
    return jsonschema.Draft4Validator(documents[name], registry=registry)


def _draft() -> Any:
    from referencing.jsonschema import DRAFT4

    return DRAFT4


def test_documents_are_valid(pair: tuple[Runtime, Runtime], bundle: Bundle, tmp_path: Path) -> None:
    runtime = pair[0]
    validator("config-schema.json").validate(bundle.config)
    bundle.write("sleep", "600")
    runtime.create()
    validator("state-schema.json").validate(runtime.state())
    validator("features-schema.json").validate(json.loads(runtime("features").stdout))
