"""The engines that are measured: berthd and Debian's dockerd, each with a data root of its own."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from berth.client.address import Address
from berth.client.engine import Engine
from berth.errors import BerthError

READY_SECONDS = 30.0
BIN = Path(sys.executable).parent


@dataclass
class Peer:
    """A running engine. Its `directories` stand in the command lines of all its processes, and of no container's."""

    name: str
    directory: str
    process: subprocess.Popen[bytes]
    socket: str
    directories: tuple[str, ...]
    is_berth: bool = False

    def client(self) -> Engine:
        """A client with a connection of its own."""
        return Engine(Address(path=self.socket))

    def processes(self) -> list[int]:
        """All processes that belong to the engine, the containers' own not among them."""
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != os.getpid():
                try:
                    command = Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace")
                except OSError:
                    continue
                if any(directory in command for directory in self.directories):
                    found.append(int(entry))
        return found

    def memory(self) -> int:
        """The proportional set size of all its processes, in bytes."""
        total = 0
        for pid in self.processes():
            try:
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) * 1024
        return total

    def stop(self) -> None:
        """End it, with its containers where the engine can do that."""
        if self.is_berth and self.process.poll() is None:
            with self.client() as client:
                client.request("POST", "/berth/stop", query={"containers": True}, versioned=False).read()
        else:
            self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for directory in self.directories:
            shutil.rmtree(directory, ignore_errors=True)


def _wait(peer: Peer) -> Peer:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        try:
            with peer.client() as client:
                client.system.ping()
            return peer
        except BerthError:
            if peer.process.poll() is not None:
                break
            time.sleep(0.05)
    said = Path(f"{peer.directory}/log").read_text(errors="replace")[-2000:]
    peer.stop()
    raise SystemExit(f"bench: {peer.name} did not start; it said:\n{said}")


def _spawn(name: str, command: list[str], directory: str, directories: tuple[str, ...], *, is_berth: bool = False) -> Peer:
    with open(f"{directory}/log", "wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    return _wait(Peer(name, directory, process, f"{directory}/sock", directories, is_berth))


def berth(name: str = "berth", *options: str, trace: bool = False) -> Peer:
    """berthd, with options of its own; `trace`: it writes the phases of launches to `<directory>/trace`."""
    from berth.engine.config import EngineConfig

    directory = tempfile.mkdtemp(prefix="berth-bench-")
    root = f"{directory}/root"
    run = EngineConfig(root=root).run
    traced = ["--trace", f"{directory}/trace"] if trace else []
    command = [str(BIN / "berthd"), "--root", root, "--socket", f"{directory}/sock", *options, *traced]
    return _spawn(name, command, directory, (directory, run), is_berth=True)


def dockerd(*options: str, apart: bool = True) -> Peer | None:
    """Debian's dockerd with further options, or None where it is not installed. `apart`: in a network namespace of its own, so
    that its bridge and its rules, which it leaves behind, end with it, and a Docker engine of this host is not disturbed."""
    path = shutil.which("dockerd")
    if path is None:
        return None
    directory = tempfile.mkdtemp(prefix="berth-bench-peer-")
    given = [
        "--data-root", f"{directory}/data", "--exec-root", f"{directory}/exec", "-H", f"unix://{directory}/sock",
        "--pidfile", f"{directory}/pid", "--bip", "172.30.250.1/24",
    ]  # fmt: skip
    return _spawn("dockerd", [*(["unshare", "--net"] if apart else []), path, *given, *options], directory, (directory,))


def busybox() -> bytes:
    """A root filesystem with busybox alone."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        data = Path(shutil.which("busybox") or "/bin/busybox").read_bytes()
        info = tarfile.TarInfo("bin/busybox")
        info.size, info.mode = len(data), 0o755
        tar.addfile(info, io.BytesIO(data))
        for name in ("true", "sh", "sleep", "cat", "dd", "yes", "head", "wc"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return out.getvalue()
