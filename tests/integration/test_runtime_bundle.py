"""berth-runtime on bundles."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from berth.model.oci import Mount
from support.launching import NAMESPACES, Bench, Wish

pytest_plugins = ["support.launch_fixture"]


def command(*arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "berth.runtime.oci", *arguments], capture_output=True, text=True, timeout=60, **more
    )


def bundle(bench: Bench, path: Path, wish: Wish) -> str:
    spec = bench.spec(wish, "bundle")
    document = json.loads(msgspec.json.encode(spec))
    document["root"]["path"] = bench.layer
    (path / "config.json").write_text(json.dumps(document))
    return str(path)


def run(bench: Bench, path: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return command("--root", bench.base + "/state", "run", "--bundle", path, *arguments, stdin=subprocess.DEVNULL)


def test_run_gives_output_and_exit_code(bench: Bench, tmp_path: Path) -> None:
    script = "id; cat /proc/self/uid_map; echo err >&2; exit 3"
    done = run(bench, bundle(bench, tmp_path, Wish(["sh", "-c", script], readonly=True)), "one")
    assert done.returncode == 3, done.stderr
    assert "uid=0(root)" in done.stdout and "3000000" in done.stdout
    assert done.stderr == "err\n"


@pytest.mark.parametrize(
    ("args", "code", "text"), [(["no"], 127, "executable file not found in $PATH"), (["/etc"], 126, "permission denied")]
)
def test_run_that_cannot_start(bench: Bench, tmp_path: Path, args: list[str], code: int, text: str) -> None:
    done = run(bench, bundle(bench, tmp_path, Wish(args)), "one")
    assert done.returncode == code
    assert text in done.stderr


def test_signal_code(bench: Bench, tmp_path: Path) -> None:
    done = run(
        bench,
        bundle(
            bench,
            tmp_path,
            Wish(["sh", "-c", "kill -9 $$"], namespaces=("mount", "user"), without=("/sys", "/sys/fs/cgroup", "/dev/mqueue")),
        ),
        "one",
    )
    assert done.returncode == 137, done.stderr


def test_terminal(bench: Bench, tmp_path: Path) -> None:
    path = bundle(bench, tmp_path, Wish(["sh", "-c", "tty; read x; echo got $x"], terminal=True))
    master, slave = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "berth.runtime.oci", "--root", bench.base + "/state", "run", "-b", path, "two"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    output = b""
    while b"/dev/pts/0" not in output:
        output += os.read(master, 1000)
    os.write(master, b"hello\n")
    assert child.wait(timeout=30) == 0
    while b"got hello" not in output:
        output += os.read(master, 1000)
    os.close(master)


def test_steps_features_and_refusals(bench: Bench, tmp_path: Path) -> None:
    path = bundle(bench, tmp_path, Wish(["true"]))
    steps = command("--root", bench.base + "/state", "steps", "--bundle", path)
    assert steps.returncode == 0
    assert steps.stdout.splitlines()[0].startswith("clone new=") and steps.stdout.splitlines()[-1].startswith(
        "execve args=['true']"
    )
    assert json.loads(command("features").stdout)["linux"]["cgroup"]["v2"] is True
    later = command("create", "x")
    assert later.returncode == 1 and "create is not supported yet" in later.stderr
    document = json.loads(Path(path, "config.json").read_text())
    document["hooks"] = {"prestart": [{"path": "/x"}]}
    Path(path, "config.json").write_text(json.dumps(document))
    hooks = run(bench, path, "one")
    assert hooks.returncode == 1 and "hooks is not supported" in hooks.stderr
    assert "does not exist" in command("steps", "--bundle", str(tmp_path / "none")).stderr
    del document["hooks"]
    Path(path, "config.json").write_text(json.dumps(document))
    assert "invalid container id" in run(bench, path, "../x").stderr


@pytest.mark.parametrize("names", [NAMESPACES, tuple(name for name in NAMESPACES if name != "user")])
def test_the_interpreter_cannot_be_written_from_inside(bench: Bench, tmp_path: Path, names: tuple[str, ...]) -> None:
    mounts = [
        Mount(destination=path, type="bind", source=path, options=["rbind", "ro"])
        for path in ("/usr/lib", "/lib", "/lib64", "/usr/local/lib")
        if os.path.isdir(path)
    ]
    code = "import os; print('read-only', os.statvfs('/proc/self/exe').f_flag & os.ST_RDONLY)"
    wish = Wish(["/proc/self/exe", "-I", "-S", "-c", code], namespaces=names, mounts=mounts)
    done = run(bench, bundle(bench, tmp_path, wish), "one")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "read-only 1\n"
