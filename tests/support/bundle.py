"""Bundles, and OCI runtimes driven by their command lines: berth-runtime, or runc for comparison."""

from __future__ import annotations

import copy
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from berth.runtime.oci import description

BASE = 3_200_000
PREFIX = "berth-oci-test"
BERTH = (sys.executable, "-m", "berth.runtime.oci")
SECONDS = 60


class Bundle:
    """A directory with a busybox root filesystem; `config` is written by every `write`."""

    def __init__(self, directory: Path, layer: str) -> None:
        self.directory = directory
        self.rootfs = directory / "rootfs"
        shutil.copytree(layer, self.rootfs, symlinks=True)
        self.config: dict[str, Any] = description.template(False)
        self.config["process"]["terminal"] = False

    def write(self, *args: str, **linux: Any) -> Bundle:
        """config.json with these arguments; keywords replace parts of its `linux`."""
        document = copy.deepcopy(self.config)
        if args:
            document["process"]["args"] = list(args)
        document["linux"].update(linux)
        (self.directory / "config.json").write_text(json.dumps(document))
        return self

    def shell(self, script: str, **linux: Any) -> Bundle:
        """config.json that runs a script."""
        return self.write("sh", "-c", script, **linux)

    def own(self) -> None:
        """With a user namespace, whose root owns the files."""
        mapping = [{"containerID": 0, "hostID": BASE, "size": 65536}]
        self.config["linux"].update(uidMappings=mapping, gidMappings=mapping)
        self.config["linux"]["namespaces"].append({"type": "user"})
        for folder, _, files in os.walk(self.rootfs):
            for path in (folder, *(os.path.join(folder, name) for name in files)):
                os.chown(path, BASE, BASE, follow_symlinks=False)


class Runtime:
    """A runtime's command line, with a root of its own. `id` is one of its own."""

    def __init__(self, command: tuple[str, ...], root: Path, bundle: Bundle) -> None:
        self.command = (*command, "--root", str(root))
        self.root = root
        self.bundle = bundle
        self.id = f"{PREFIX}-{secrets.token_hex(4)}"

    def __call__(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """A command to its end. Output goes to pipes, but for create, whose container would keep them open."""
        if "create" in words or "--detach" in words or "-d" in words:
            log = self.root.parent / "output"
            with open(log, "w+") as file:
                done = subprocess.run(
                    [*self.command, *words], stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=SECONDS, **more
                )
                file.seek(0)
                return subprocess.CompletedProcess(done.args, done.returncode, "", file.read())
        more.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run([*self.command, *words], capture_output=True, text=True, timeout=SECONDS, **more)

    def popen(self, *words: str, **more: Any) -> subprocess.Popen[bytes]:
        """A command that goes on."""
        return subprocess.Popen([*self.command, *words], **more)

    def create(self, *words: str, **more: Any) -> None:
        """A container of the bundle."""
        done = self("create", "--bundle", str(self.bundle.directory), *words, self.id, **more)
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Start it."""
        done = self("start", self.id)
        assert done.returncode == 0, done.stderr

    def run(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """A container in the foreground."""
        return self("run", "--bundle", str(self.bundle.directory), *words, self.id, **more)

    def state(self) -> dict[str, Any]:
        """Its state document."""
        done = self("state", self.id)
        assert done.returncode == 0, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def await_status(self, status: str) -> None:
        """Until it has it."""
        wait_for(lambda: self.state()["status"] == status)

    def output(self) -> str:
        """What containers that are not in the foreground have written."""
        return (self.root.parent / "output").read_text()


def wait_for(condition: Callable[[], bool]) -> None:
    """Bounded."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def remove_all(runtime: Runtime) -> None:
    """Every container of a runtime."""
    for id in runtime("list", "--quiet").stdout.split():
        runtime("delete", "--force", id)
