"""Engines by fork: a process that has imported everything, so that starting an engine takes a tenth of the time.

    -> {"arguments": [...], "environment": {...}, "log": path}\n        <- pid\n
    -> {"reap": pid}\n                                                  <- exit code (negative: signal), when it has ended\n

Run as `python -c "..." berthd-zygote`: what looks for an engine's leftovers takes it for an engine.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from contextlib import suppress
from typing import Any

_RUN = "import sys; sys.path[:0] = [{path!r}]; from support.zygote import main; main()"


def main() -> None:
    """Serve until standard input ends."""
    from berth.api import application, server
    from berth.api import main as berthd
    from berth.engine import app

    assert application and server and app
    for line in sys.stdin:
        request = json.loads(line)
        if "reap" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["reap"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                _become(request, berthd.main)
        print(answer, flush=True)


def _become(request: dict[str, Any], run: Any) -> None:
    status = 1
    try:
        os.setsid()
        for path, flags, target in (os.devnull, os.O_RDONLY, 0), (request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 1):
            fd = os.open(path, flags, 0o644)
            os.dup2(fd, target)
            os.close(fd)
        os.dup2(1, 2)
        signal.signal(signal.SIGUSR1, _tell)
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = ["berthd", *request["arguments"]]
        run()
        status = 0
    except SystemExit as leave:
        print(leave, file=sys.stderr, flush=True)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _tell(_number: int, _frame: object) -> None:
    """SIGUSR1: what the engine is waiting for, into its log."""
    faulthandler.dump_traceback()
    with suppress(RuntimeError):
        for task in asyncio.all_tasks():
            task.print_stack()


class ForkedProcess:
    """An engine that a zygote has forked; what tests use of subprocess.Popen."""

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self._zygote = zygote
        self.pid = pid
        self.returncode: int | None = None
        self._pidfd = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._ended(0)

    def _ended(self, milliseconds: int | None) -> int | None:
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            if poll.poll(milliseconds):
                os.close(self._pidfd)
                self.returncode = self._zygote.ask({"reap": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. TimeoutExpired when it does not end in time."""
        code = self._ended(None if timeout is None else int(timeout * 1000))
        if code is None:
            raise subprocess.TimeoutExpired("berthd", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """A signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(9)


class Zygote:
    """One process from which engines are forked."""

    def __init__(self) -> None:
        code = _RUN.format(path=os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, "berthd-zygote"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, request: dict[str, Any]) -> int:
        """One request."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, arguments: list[str], environment: dict[str, str], log: str) -> ForkedProcess:
        """An engine."""
        return ForkedProcess(self, self.ask({"arguments": arguments, "environment": environment, "log": log}))

    def close(self) -> None:
        """End it; engines go on."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()
