"""Whom copied files belong to: `berth cp` with and without --chown and -a, into and out of containers that run or do not."""

from __future__ import annotations

import base64
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.engine import BIN, EngineProcess

LARGE = 1_234_567


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A tree that belongs to somebody whom no container knows by name: a directory, a file in it, a link to that."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("x")
    (tree / "link").symlink_to("file")
    for path in (tree, tree / "file", tree / "link"):
        os.lchown(path, 4321, 8765)
    return tree


@pytest.fixture(params=["running", "stopped"])
def boxes(request: pytest.FixtureRequest, engine: EngineProcess) -> Iterator[EngineProcess]:
    """Containers `plain` and `worker`, whose user is 1000, both running, or both ended."""
    for name, user in (("plain", ""), ("worker", "worker")):
        command = ["sleep", "1000"] if request.param == "running" else ["true"]
        engine.ok("run", "-d", "--init", "--name", name, "-u", user, "busybox", *command)
        if request.param == "stopped":
            engine.ok("wait", name)
    yield engine


def inside(engine: EngineProcess, name: str, path: str = "/tmp/tree") -> set[tuple[str, int, int]]:
    """(name, uid, gid) as the container sees them, by a tar of the docker CLI."""
    done = engine.run("sh", "-c", f"docker cp {name}:{path} - | base64")
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(done.stdout))) as tar:
        return {(member.name.rstrip("/"), member.uid, member.gid) for member in tar}


def all_of(uid: int, gid: int) -> set[tuple[str, int, int]]:
    return {("tree", uid, gid), ("tree/file", uid, gid), ("tree/link", uid, gid)}


def copy(engine: EngineProcess, *arguments: str) -> None:
    done = engine.berth("cp", "-q", *arguments)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("container", "options", "uid", "gid"),
    [
        ("plain", (), 0, 0),
        ("worker", (), 1000, 1000),
        ("worker", ("--chown", "root"), 0, 0),
        ("plain", ("--chown", "worker"), 1000, 1000),
        ("plain", ("--chown", "worker:extra"), 1000, 2000),
        ("plain", ("--chown", "777"), 777, 777),
        ("plain", ("--chown", "777:root"), 777, 0),
        ("plain", ("-a",), 4321, 8765),
        ("worker", ("-a",), 4321, 8765),
    ],
)
def test_into_a_container(
    boxes: EngineProcess, local: Path, container: str, options: tuple[str, ...], uid: int, gid: int
) -> None:
    copy(boxes, *options, str(local), f"{container}:/tmp")
    assert inside(boxes, container) == all_of(uid, gid)


def test_a_tar_on_standard_input(boxes: EngineProcess, local: Path) -> None:
    script = f"tar -C {local.parent} -c tree | {{}} cp -q --chown worker:extra - plain:/tmp"
    done = boxes.run("sh", "-c", script.format(BIN / "berth"))
    assert done.returncode == 0, done.stderr
    assert inside(boxes, "plain") == all_of(1000, 2000)


@pytest.mark.parametrize(
    ("options", "owner"), [((), (os.geteuid(), os.getegid())), (("-a",), (1000, 2000)), (("--chown", "55:66"), (55, 66))]
)
def test_out_of_a_container(
    boxes: EngineProcess, local: Path, tmp_path: Path, options: tuple[str, ...], owner: tuple[int, int]
) -> None:
    copy(boxes, "--chown", "worker:extra", str(local), "plain:/tmp")
    copy(boxes, *options, "plain:/tmp/tree", str(tmp_path / "out"))
    for name in ("", "file", "link"):
        found = os.lstat(tmp_path / "out" / name)
        assert (found.st_uid, found.st_gid) == owner, name or "the directory"


def test_an_owner_that_a_running_container_cannot_have_is_refused_and_not_replaced(engine: EngineProcess, local: Path) -> None:
    os.chown(local / "file", LARGE, 0)
    engine.ok("run", "-d", "--init", "--name", "box", "busybox", "sleep", "1000")
    done = engine.berth("cp", "-a", str(local), "box:/tmp")
    assert done.returncode == 1 and f"Container ID {LARGE} cannot be mapped to a host ID" in done.stderr
    assert "Stop it first, or copy without the owners" in done.stderr
    # Without the owners nobody is left out, and a container that does not run takes every one.
    copy(engine, str(local), "box:/tmp")
    assert inside(engine, "box") == all_of(0, 0)
    engine.ok("stop", "box")
    copy(engine, "-a", str(local), "box:/tmp")
    assert ("tree/file", LARGE, 0) in inside(engine, "box")


def test_wrong_words(engine: EngineProcess, local: Path) -> None:
    engine.ok("create", "--name", "box", "busybox", "true")
    for options, words in (
        (("--chown", "nobody-here"), "unable to find user nobody-here: no matching entries in the container's passwd file"),
        (("--chown", "root:nowhere"), "unable to find group nowhere: no matching entries in the container's group file"),
        (("--chown", "9999999999"), "user id 9999999999 is out of range"),
        (("-a", "--chown", "root"), "--archive keeps the owners and --chown changes them: leave one of them out"),
    ):
        done = engine.berth("cp", *options, str(local), "box:/tmp")
        assert done.returncode == 1 and words in done.stderr, done.stderr
