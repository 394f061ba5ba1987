"""Let schemathesis ask an engine: schemathesis_api.py SCHEMA [--examples N] [--seed N] [--tool PATH] [options of st run].

With `--chains` the stateful phase alone runs, on a narrowed copy of the definition whose bodies of creation are such as an engine
accepts: what it has made is then started, executed in, connected, renamed and removed by the ids of the answers, in any order.
SCHEMA is one of Docker's definitions of the Engine API (Swagger 2.0); its version is the one that is asked for. The engine runs
in the same namespaces as with fuzz_api.py, and is held to the same: no status of 500 and above but 501 and 503, no request
without an answer, no error in its log, nothing left behind. schemathesis speaks TCP, so connections are forwarded from a port on
loopback; a stream without an end is cut off there after a second, since schemathesis reads every answer to its end. The tool is
 no dependency of berth: `--tool` is the `st` of an environment that it is installed in. Needs root.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from fuzz_api import in_place

from support.api_fuzz import ALLOWED, DULL, HANGS_AFTER, Fuzzer
from support.engine import EngineProcess
from support.engine_check import changed, ready

_PORT = 18080
# How long a stream without an end of its own is listened to.
_GLIMPSE = 1.0
_TIDY_SECONDS = 5.0
_REQUEST = re.compile(rb"[A-Z]+ /")
_HEAD = re.compile(rb"HTTP/1\.1 (\d{3})")
# What no client waits for: a container that is given a day to stop has it.
_PATIENCE = [0, 1, 2]
# Their bodies are archives, which schemathesis cannot make, and counts as errors of its own.
_ARCHIVES = "^/(images/load|plugins/create)$"
_KNOWN = {"id": ["one", "two", "bridge", "none"], "name": ["busybox", "busybox:latest", "one", "v1"]}
# Of no use in chains: what takes nothing of another answer, or what such an engine has not.
_NO_CHAIN = ("build", "auth", "session", "distribution", "events", "/images/create", "/images/load", "/images/search",
             "/containers/prune", "/images/prune", "/networks/prune", "/volumes/prune")  # fmt: skip
_IDLE: dict[str, Any] = {"Image": "busybox", "Cmd": ["sleep", "1000"], "StopTimeout": 1}
_BODIES: dict[str, list[dict[str, Any]]] = {
    "ContainerCreate": [
        _IDLE,
        _IDLE | {"Tty": True, "OpenStdin": True, "Cmd": ["cat"]},
        _IDLE | {"Cmd": ["sh", "-c", "echo out; exit 3"], "HostConfig": {"RestartPolicy": {"Name": "on-failure"}}},
        _IDLE | {"Cmd": ["true"], "HostConfig": {"AutoRemove": True}},
        _IDLE | {"Volumes": {"/data": {}}, "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "0"}]}, "Memory": 1 << 26}},
        _IDLE | {"Healthcheck": {"Test": ["CMD", "true"], "Interval": 200_000_000}, "HostConfig": {"ReadonlyRootfs": True}},
    ],
    "ContainerExec": [
        {"Cmd": ["true"]},
        {"Cmd": ["sh", "-c", "echo x; exit 4"], "AttachStdout": True},
        {"Cmd": ["sleep", "20"], "Tty": True, "AttachStdout": True},
    ],
    "ExecStart": [{"Detach": True}, {"Detach": False}, {"Detach": True, "Tty": True}],
    "ContainerUpdate": [{"Memory": 1 << 27, "MemorySwap": -1}, {"CpuShares": 512}, {"RestartPolicy": {"Name": "always"}}],
    "NetworkCreate": [
        {"Name": "chain-one"}, {"Name": "chain-two", "Internal": True}, {"Name": "chain-three", "EnableIPv6": True},
    ],
    "NetworkConnect": [{"Container": "one"}, {"Container": "two", "EndpointConfig": {"Aliases": ["other"]}}],
    "NetworkDisconnect": [{"Container": "one"}, {"Container": "two", "Force": True}],
    "VolumeCreate": [{}, {"Name": "chain", "Labels": {"a": "b"}}],
    "ImageCommit": [{}, {"Cmd": ["true"], "Labels": {"a": "b"}}],
}  # fmt: skip


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("schema", type=os.path.abspath)
    parser.add_argument("--chains", action="store_true", help="sequences of requests that hand ids on, and nothing else")
    parser.add_argument("--examples", type=int, default=150, help="per operation and phase")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tool", default=shutil.which("st"), help="the program `st`")
    options, options.more = parser.parse_known_args()
    if not options.tool:
        parser.error("schemathesis is not there: install it in an environment of its own, and give that one's `st` by --tool")
    return in_place(lambda: _ask(options))


def _ask(options: argparse.Namespace) -> list[str]:
    """What is wrong, printed."""
    engine = EngineProcess()
    before, descriptors = ready(engine)
    fuzzer = Fuzzer(engine, options.seed)
    fuzzer.tidy()
    tally = Tally()
    threading.Thread(target=asyncio.run, args=(_forward(engine.socket, tally),), daemon=True).start()
    over = threading.Event()
    keeper = threading.Thread(target=_keep, args=(fuzzer, over))
    keeper.start()
    failed = subprocess.run(_command(options), cwd=tempfile.gettempdir(), check=False).returncode
    over.set()
    keeper.join()
    wrong = ["schemathesis has found something, see above"] if failed else []
    wrong += tally.faults + changed(engine, before, descriptors)
    print("\n".join(wrong))
    print(f"{tally.statuses.total()} requests, slowest answer {tally.slowest[0]:.1f} s to {tally.slowest[1][:200]}")
    print(", ".join(f"{status}: {count}" for status, count in sorted(tally.statuses.items())), f"\n{len(wrong)} faults")
    if engine.process is not None and engine.process.poll() is None:
        engine.shut_down()
    return wrong


def _keep(fuzzer: Fuzzer, over: threading.Event) -> None:
    """The image is there and two containers run, whatever is asked for."""
    while not over.wait(_TIDY_SECONDS):
        with suppress(OSError):
            fuzzer.tidy()


def _narrowed(path: str) -> str:
    """A copy of a definition for `--chains`."""
    schema = YAML(typ="safe").load(Path(path))
    for name, operations in list(schema["paths"].items()):
        if name.strip("/").split("/")[0] in (*DULL, *_NO_CHAIN) or name in _NO_CHAIN:
            del schema["paths"][name]
            continue
        for operation in operations.values():
            bodies = _BODIES.get(operation.get("operationId", ""))
            if bodies is not None:
                body = {"name": "body", "in": "body", "required": True, "schema": {"enum": bodies}}
                operation["parameters"] = [p for p in operation["parameters"] if p["in"] == "path"] + [body]
    narrowed = Path(tempfile.gettempdir(), "chains.json")
    narrowed.write_text(json.dumps(schema, default=str))
    return str(narrowed)


def _command(options: argparse.Namespace) -> list[str]:
    lines = []
    # In chains, names come of the answers.
    known = {} if options.chains else _KNOWN
    for parameter, values in known.items():
        lines += [f"[dictionaries.{parameter}]", f"values = {json.dumps(values)}"]
    lines += ["[dictionaries.patience]", f"values = {json.dumps(_PATIENCE)}"]
    lines += ["[parameters]", '"query.t" = { dictionary = "patience", probability = 1.0 }']
    lines += [f'"path.{name}" = {{ dictionary = "{name}", probability = 0.7 }}' for name in known]
    lines += ["[checks.not_a_server_error]", 'expected-statuses = ["2xx", "3xx", "4xx", "501", "503"]']
    settings = Path(tempfile.gettempdir(), "schemathesis.toml")
    settings.write_text("\n".join(lines))
    version = re.search(r"v1\.\d+", os.path.basename(options.schema))
    return [
        options.tool, "--config-file", str(settings), "--no-color", "run",
        *([_narrowed(options.schema), "--phases", "stateful"] if options.chains else [options.schema]),
        "--url", f"http://127.0.0.1:{_PORT}" + (f"/{version[0]}" if version else ""),
        "--checks", "not_a_server_error", "--continue-on-failure", "--max-examples", str(options.examples),
        "--seed", str(options.seed), "--request-timeout", str(HANGS_AFTER), "--suppress-health-check", "all",
        "--warnings", "off", "--no-shrink", "--exclude-path-regex", _ARCHIVES, *options.more,
    ]  # fmt: skip


@dataclass
class Tally:
    """What went through the forwarder."""

    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")

    def answered(self, request: str, status: int, seconds: float) -> None:
        """The beginning of an answer."""
        self.statuses[status] += 1
        self.slowest = max(self.slowest, (seconds, request))
        if status >= 500 and status not in ALLOWED:
            self.faults.append(f"{status}: {request}")


class Connection:
    """One client's."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._request = ""
        self._sent = 0.0

    async def serve(self, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until one side ends it."""
        with suppress(OSError):
            engine_reader, engine_writer = await asyncio.open_unix_connection(path, limit=1 << 20)
            there = asyncio.create_task(self._there(reader, engine_writer))
            await self._back(engine_reader, writer)
            there.cancel()
            engine_writer.close()
        writer.close()

    async def _there(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                if not self._request and _REQUEST.match(data):
                    self._request, self._sent = repr(data[:1500]), time.monotonic()
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        end: float | None = None
        chunked = False
        with suppress(OSError, TimeoutError):
            while data := await asyncio.wait_for(reader.read(1 << 16), end and end - time.monotonic()):
                if self._request and (head := _HEAD.match(data)):
                    self._tally.answered(self._request, int(head[1]), time.monotonic() - self._sent)
                    self._request = ""
                    known = b"content-length:" in data.lower() or head[1] in (b"204", b"304")
                    end = None if known else time.monotonic() + _GLIMPSE
                    chunked = b"transfer-encoding: chunked" in data.lower()
                if data.endswith(b"0\r\n\r\n"):
                    end = None
                writer.write(data)
                await writer.drain()
        if end is not None and chunked:
            with suppress(OSError):
                writer.write(b"0\r\n\r\n")
                await writer.drain()
        if self._request and time.monotonic() - self._sent > HANGS_AFTER - 1:
            self._tally.faults.append(f"no answer: {self._request}")


async def _forward(path: str, tally: Tally) -> None:
    """Listen for ever."""
    server = await asyncio.start_server(lambda *streams: Connection(tally).serve(path, *streams), "127.0.0.1", _PORT)
    await server.serve_forever()


if __name__ == "__main__":
    started = time.monotonic()
    status = main()
    print(f"{time.monotonic() - started:.0f} s")
    sys.exit(status)
