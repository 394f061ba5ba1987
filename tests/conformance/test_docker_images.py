"""Images by the unmodified docker CLI and Compose, on the whole engine, with Debian's registry."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from integration.test_image_registry import registry
from support.engine import EngineProcess

pytestmark = pytest.mark.skipif(shutil.which("docker-registry") is None, reason="needs Debian's docker-registry")


def test_commit_push_remove_pull_and_run(engine: EngineProcess, tmp_path: Path) -> None:
    with registry(tmp_path / "registry") as address:
        name = f"{address}/team/app:1"
        engine.ok("run", "--name", "source", "busybox", "sh", "-c", "echo made > /made && rm /etc/group")
        image = engine.ok("commit", "-m", "a message", "-c", "CMD cat /made", "-c", "ENV A=b", "source", name)
        seen = engine.ok("inspect", "-f", "{{.Config.Cmd}} {{.Comment}} {{.Config.Env}}", name)
        assert seen.startswith("[/bin/sh -c cat /made] a message")
        engine.ok("rm", "source")
        assert engine.ok("run", "--rm", name) == "made"
        engine.ok("push", name)
        engine.ok("rmi", name)
        assert image not in engine.ok("images", "-aq", "--no-trunc")
        assert "Downloaded newer image" in engine.ok("pull", name)
        assert engine.ok("images", "-q", "--no-trunc", name) == image
        assert engine.ok("run", "--rm", name, "sh", "-c", "cat /made; test ! -e /etc/group && echo gone") == "made\ngone"
        engine.ok("rmi", name)
        # run pulls what is not here
        done = engine.docker("run", "--rm", name)
        assert done.stdout == "made\n" and "Unable to find image" in done.stderr and done.returncode == 0
        engine.ok("rmi", name)
    done = engine.docker("run", "--rm", name)
    assert done.returncode == 125 and "cannot be reached from this host" in done.stderr


def test_an_image_in_use_stays(engine: EngineProcess) -> None:
    engine.ok("tag", "busybox", "used:1")
    image = engine.ok("images", "-q", "used:1")
    container = engine.ok("run", "-d", "used:1", "sleep", "60")[:12]
    done = engine.docker("rmi", image)
    assert done.returncode == 1 and "image is being used by running container" in done.stderr + done.stdout
    assert "used:1" in engine.ok("rmi", "used:1")
    assert engine.ok("ps", "--format", "{{.Image}}")
    engine.ok("rm", "-f", container)


def test_save_and_load(engine: EngineProcess, tmp_path: Path) -> None:
    engine.ok("tag", "busybox", "saved:1")
    engine.ok("run", "--name", "change", "busybox", "touch", "/x")
    engine.ok("commit", "change", "saved:2")
    engine.ok("rm", "change")
    archive = str(tmp_path / "saved.tar")
    engine.ok("save", "-o", archive, "saved")
    first = engine.ok("images", "--no-trunc", "--format", "{{.Tag}} {{.ID}}", "saved")
    engine.ok("rmi", "saved:1", "saved:2")
    out = engine.ok("load", "-i", archive)
    assert sorted(out.splitlines()) == ["Loaded image: saved:1", "Loaded image: saved:2"]
    assert engine.ok("images", "--no-trunc", "--format", "{{.Tag}} {{.ID}}", "saved") == first
    assert engine.ok("run", "--rm", "saved:2", "ls", "/x") == "/x"
    engine.ok("rmi", "saved:1", "saved:2")


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="needs Debian's docker-compose")
def test_compose_builds_pushes_and_pulls(engine: EngineProcess, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    with registry(tmp_path / "registry") as address:
        (project / "Dockerfile").write_text("FROM busybox\nLABEL made=here\n")
        service = f"    image: {address}/a\n    build: .\n    network_mode: bridge\n    command: echo composed\n"
        (project / "docker-compose.yml").write_text(f"version: '3'\nservices:\n  a:\n{service}")
        for command in ("build", "push", "pull"):
            done = engine.run("docker-compose", command, cwd=str(project))
            assert done.returncode == 0, done.stderr
            if command == "push":
                engine.ok("rmi", f"{address}/a")
        assert engine.ok("inspect", "-f", "{{.Config.Labels.made}}", f"{address}/a") == "here"
        done = engine.run("docker-compose", "run", "--rm", "a", cwd=str(project))
        assert done.stdout.strip().endswith("composed"), done.stderr
        assert engine.run("docker-compose", "down", cwd=str(project)).returncode == 0
        engine.ok("rmi", f"{address}/a")
