"""Failpoints from a test's side: which there are, arming them, and who has been where."""

from __future__ import annotations

import ast
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import berth
from berth.failpoint import HITS, VARIABLE

SOURCE = Path(berth.__file__).parent


def _calls(path: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "failpoint.hit":
            yield node


def occurrences() -> list[str]:
    """The name of every failpoint, once for each place in the code that has it."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        if "failpoint" not in path.read_text():
            continue
        for call in _calls(path):
            argument = call.args[0]
            assert isinstance(argument, ast.Constant) and isinstance(argument.value, str), f"{path}:{call.lineno}"
            found.append(argument.value)
    return found


class Failpoints:
    """A directory of failpoints. Processes that are started with `environment` look into it."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        os.makedirs(directory, exist_ok=True)
        # Processes under other ids come here too.
        os.chmod(directory, 0o777)
        self.clear()

    @property
    def environment(self) -> dict[str, str]:
        """What switches failpoints on in an engine."""
        return {VARIABLE: self.directory}

    def clear(self) -> None:
        """Disarm everything and forget who has been where."""
        for name in os.listdir(self.directory):
            if name != HITS:
                os.unlink(f"{self.directory}/{name}")
        path = Path(self.directory, HITS)
        path.write_bytes(b"")
        path.chmod(0o666)

    def arm(self, name: str, action: str) -> None:
        """What happens to who comes there: kill, hold, `error 28`, `delay 0.5`, each perhaps with `@<n>`."""
        path = Path(self.directory, f".{name}")
        path.write_text(action)
        path.chmod(0o644)
        path.rename(Path(self.directory, name))

    def release(self, name: str) -> None:
        """Disarm; who is held there goes on."""
        Path(self.directory, name).unlink(missing_ok=True)

    def hits(self) -> list[tuple[str, int]]:
        """Names and process ids (in their own pid namespace), in the order of coming."""
        lines = Path(self.directory, HITS).read_text().splitlines()
        return [(name, int(pid)) for name, pid in (line.split(" ") for line in lines)]

    def await_hit(self, name: str, seconds: float, number: int = 1, waiting: Callable[[], bool] = lambda: True) -> int:
        """Wait until somebody has come there for the `number`-th time, as long as there is something to wait for, and a little
        longer for what goes on behind it; the process id."""
        deadline = time.monotonic() + seconds
        while True:
            if not waiting():
                deadline = min(deadline, time.monotonic() + 2)
                waiting = lambda: True  # noqa: E731
            going_on = time.monotonic() < deadline
            pids = [pid for hit, pid in self.hits() if hit == name]
            if len(pids) >= number:
                return pids[number - 1]
            assert going_on, f"nobody came to {name}; visited: {[hit for hit, _ in self.hits()]}"
            time.sleep(0.003)
