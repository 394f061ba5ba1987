"""Debian's docker-registry on a free port of the loopback."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def registry(directory: Path, *, password: str = "") -> Iterator[str]:
    """A registry of its own on a free port of the loopback; its host:port."""
    directory.mkdir()
    address = f"127.0.0.1:{free_port()}"
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}, "delete": {"enabled": True}},
        "http": {"addr": address, "secret": "x"},
    }
    if password:
        make = "import crypt,sys; print('me:' + crypt.crypt(sys.argv[1], '$2y$05$abcdefghijklmnopqrstuu'))"
        line = subprocess.run([sys.executable, "-W", "ignore", "-c", make, password], capture_output=True, text=True, check=True)
        (directory / "htpasswd").write_text(line.stdout)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}}
    (directory / "config.json").write_text(json.dumps(config))
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(directory / "config.json")], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 15
        while True:
            try:
                socket.create_connection(("127.0.0.1", int(address.partition(":")[2])), 1).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, (directory / "log").read_text()
                time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait(10)
