"""SIGTERM: the engine ends within a second, whatever is going on, and leaves the containers running."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

from support.engine import SLOW, EngineProcess

_SECONDS = 1.0


def _client(engine: EngineProcess, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["docker", *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=engine.environment(),
    )  # fmt: skip


def test_an_engine_with_clients_and_a_build_ends_within_a_second(own: EngineProcess, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo begun; sleep 7533\n")
    chatty = "while read line; do echo got $line; done"
    health = ("--health-cmd", "sleep 50", "--health-interval", "100ms")
    own.ok("run", "-d", "-i", "--name", "box", *health, "busybox", "sh", "-c", chatty)
    own.ok("run", "-d", "--name", "silent", "busybox", "sleep", "1000")
    clients = {
        name: _client(own, *arguments)
        for name, arguments in {
            "attach": ("attach", "box"),
            "exec": ("exec", "-i", "box", "sh", "-c", chatty),
            "logs": ("logs", "-f", "silent"),
            "events": ("events", "--since", "0"),
            "stats": ("stats", "--format", "{{.Name}}"),
            "wait": ("wait", "silent"),
            "build": ("build", str(tmp_path)),
        }.items()
    }
    for name in ("attach", "exec"):
        pipe = clients[name].stdin
        assert pipe is not None
        pipe.write(b"one\n")
        pipe.flush()
        assert clients[name].stdout.readline() == b"got one\n"  # type: ignore[union-attr]
    for name, text in (("events", b"start"), ("stats", b"box"), ("build", b"begun")):
        # Of the build, the output and not the step that is announced with the same word.
        while text not in (line := clients[name].stdout.readline()) or b"RUN" in line:  # type: ignore[union-attr]
            assert line, f"{name} has ended"
    assert own.process is not None
    begun = time.monotonic()
    own.process.send_signal(signal.SIGTERM)
    assert own.process.wait(30) == 0, own.log_text()
    took = time.monotonic() - begun
    try:
        assert took < _SECONDS * SLOW, f"it took {took:.2f} s\n{own.log_text()}"
        assert "Traceback" not in own.log_text() and " ERROR " not in own.log_text(), own.log_text()
        # Attached clients are the shims', not the engine's.
        for name in ("attach", "exec"):
            pipe = clients[name].stdin
            assert pipe is not None
            pipe.write(b"two\n")
            pipe.flush()
            assert clients[name].stdout.readline() == b"got two\n"  # type: ignore[union-attr]
        for name in ("logs", "events", "stats", "wait", "build"):
            clients[name].wait(10)
    finally:
        own.start()
        own.ok("rm", "-f", "box", "silent")
        for client in clients.values():
            client.communicate(timeout=10)
    left = subprocess.run(["pgrep", "-fx", "sleep 7533"], capture_output=True, check=False)
    assert left.returncode != 0
