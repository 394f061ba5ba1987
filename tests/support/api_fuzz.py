"""Requests that nobody would send: made of Docker's schema, of what there is on the engine, and of nonsense.

Everything comes of one seeded generator, so that a number is enough to have the same requests again. `Fuzzer.run` sends them and
collects what must not be: statuses of 500 and above that the schema's owner does not give either, answers that do not come, an
engine that is gone.
"""

from __future__ import annotations

import http.client
import json
import random
import re
import socket
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from support.api_client import ask
from support.api_schema import NEWEST, VERSIONS, Operation, api_schema
from support.engine import EngineProcess, busybox_tar

HANGS_AFTER = 30.0
# As a rule a stream is left after a moment.
_GLIMPSE = 0.3
_STREAMS = ("/events", "/containers/{id}/logs", "/containers/{id}/stats", "/containers/{id}/wait", "/containers/{id}/attach",
            "/containers/{id}/attach/ws", "/exec/{id}/start", "/build", "/containers/{id}/export", "/images/{name}/push",
            "/images/create")  # fmt: skip
# Swarm and plugins answer the same to everything: now and then is enough.
DULL = ("swarm", "nodes", "services", "tasks", "secrets", "configs", "plugins")
ALLOWED = (501, 503)
_STRINGS = ("", " ", "a", "..", "../../etc/passwd", "/", "/etc", "\0", "a\nb", "x" * 300, "ünï\u202ecode", "%00", "-1", "0",
            "true", "null", "{}", "[]", "*", "host", "none", "bridge", "container:one", "busybox", "sha256:" + "0" * 64, "a:b:c",
            "a/b@c")  # fmt: skip
_NUMBERS = (0, 1, -1, 2, 7, 255, 65535, 65536, 1 << 31, -(1 << 31), (1 << 63) - 1, -(1 << 63), 10**30)
# How long a client is willing to wait is for the client to say: nothing is found out by waiting long.
_ALWAYS = ("Image", "Cmd", "Container", "Name")
# A container that gets nothing of a processor that others use takes as long to start and to end.
_BOUNDED = ("t", "StopTimeout", "CpuShares")
# More than these are taken away, so that the engine stays as quick as it was.
_CONTAINERS, _NETWORKS = 40, 10
_COMPANY: dict[str, Any] = {
    "one": {"Image": "busybox", "Cmd": ["sh", "-c", "while sleep 0.2; do echo line; done"], "StopTimeout": 1},
    "two": {"Image": "busybox", "Tty": True, "OpenStdin": True, "StopTimeout": 1},
}


_ARCHIVE = busybox_tar()


@dataclass
class Fault:
    """One request and what was wrong with its answer."""

    number: int
    request: str
    what: str


@dataclass
class Outcome:
    """What a run came to."""

    requests: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)
    slowest: float = 0.0


class Fuzzer:
    """One engine, one seed."""

    def __init__(self, engine: EngineProcess, seed: int) -> None:
        self.engine = engine
        self.random = random.Random(seed)
        self.outcome = Outcome()
        self._names: dict[str, list[str]] = {}
        self._operations = list(api_schema(NEWEST).operations.values())
        self._weights = [self._weight(operation) for operation in self._operations]
        self._hints = self._make_hints()

    @staticmethod
    def _weight(operation: Operation) -> float:
        if operation.path.split("/")[1] in DULL:
            return 0.1
        return {"/containers/create": 8.0, "/containers/{id}/start": 4.0, "/containers/{id}/exec": 2.0}.get(operation.path, 1.0)

    def run(self, requests: int, seconds: float) -> Outcome:
        """At most that many requests, for at most that long."""
        end = time.monotonic() + seconds
        while self.outcome.requests < requests and time.monotonic() < end:
            if self.outcome.requests % 50 == 0:
                self.tidy()
            self._one()
        return self.outcome

    # The engine's things

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = ask(self.engine.socket, method, path, body, timeout=HANGS_AFTER)
        return answer.document if answer.status < 300 and answer.body else None

    def tidy(self) -> None:
        """The image is there, two containers run, and there are not too many of anything."""
        if self._ask("GET", "/images/busybox/json") is None:
            self.engine.add_busybox()
        containers = self._ids("/containers/json?all=1", "Id")
        if len(containers) > _CONTAINERS:
            for identifier in containers:
                self._ask("DELETE", f"/containers/{identifier}?force=1&v=1")
            containers = []
        for name, body in _COMPANY.items():
            if (self._ask("GET", f"/containers/{name}/json") or {}).get("State", {}).get("Status") != "running":
                self._ask("DELETE", f"/containers/{name}?force=1&v=1")
                self._ask("POST", f"/containers/create?name={name}", body)
                self._ask("POST", f"/containers/{name}/start", {})
        networks = self._ids("/networks", "Id")
        for identifier in networks if len(networks) > _NETWORKS else ():
            self._ask("DELETE", f"/networks/{identifier}")
        self._names = {
            "containers": [*_COMPANY, *containers],
            "images": ["busybox", "busybox:latest", *self._ids("/images/json", "Id")],
            "networks": ["bridge", "host", "none", *self._ids("/networks", "Id")],
            "volumes": ["one", *self._ids("/volumes", "Name", "Volumes")],
            "exec": (self._ask("GET", "/containers/one/json") or {}).get("ExecIDs") or [],
        }

    def _ids(self, path: str, key: str, below: str = "") -> list[str]:
        found = self._ask("GET", path)
        return [item[key] for item in (found[below] if below else found) or []]

    def _make_hints(self) -> dict[str, Callable[[], Any]]:
        """Values that make sense, by the name of a property or a parameter."""
        pick = self.random.choice

        def some(*values: Any) -> Callable[[], Any]:
            return lambda: pick(values)

        named = self._name
        return {
            "Image": some("busybox"),
            "fromImage": some("busybox", "127.0.0.1:1/x/y", "registry.invalid/x"),
            "fromSrc": some("-", "http://127.0.0.1:1/x"),
            "remote": some("", "http://127.0.0.1:1/x", "git://127.0.0.1:1/x"),
            "serveraddress": some("127.0.0.1:1", "https://registry.invalid/v1/", "registry.invalid"),
            "Cmd": some(["true"], ["sleep", "60"], ["sh", "-c", "exit 3"], ["nosuch"], ["sh"]),
            "Entrypoint": some(None, [], ["/bin/sh"], ["/bin/sleep"]),
            "Binds": some(["/:/x"], ["one:/v"], ["/etc:/e:ro"], ["/proc:/p"], ["/dev:/dev"], ["/sys:/s:rw,rshared"]),
            "NetworkMode": lambda: pick(["bridge", "host", "none", f"container:{named('containers')}", named("networks")]),
            "PidMode": lambda: pick(["host", "", f"container:{named('containers')}"]),
            "IpcMode": lambda: pick(["host", "none", "private", "shareable", f"container:{named('containers')}"]),
            "UsernsMode": some("", "host"),
            "CgroupnsMode": some("", "host", "private"),
            "Memory": some(0, 16 << 20, 64 << 20, 1),
            "CapAdd": some(["ALL"], ["SYS_ADMIN"], ["NET_ADMIN"], ["nonsense"]),
            "SecurityOpt": some(["no-new-privileges"], ["seccomp=unconfined"], ["apparmor=x"], ["label=disable"], ["x"]),
            "Healthcheck": some({"Test": ["CMD", "true"], "Interval": 10**9}, {"Test": ["NONE"]}, {"Test": []}),
            "RestartPolicy": some({"Name": "no"}, {"Name": "on-failure", "MaximumRetryCount": 1}, {"Name": "always"}),
            "PortBindings": some({"80/tcp": [{"HostPort": ""}]}, {"80/udp": [{"HostIp": "::1", "HostPort": "0"}]}, {"x": None}),
            "Container": lambda: named("containers"),
            "container": lambda: named("containers"),
            "Subnet": some("10.50.0.0/24", "10.50.0.0/8", "fd00:50::/64", "10.50.0.0/33", "x"),
            "Driver": some("bridge", "host", "none", "macvlan", "local", "overlay", "x"),
            "Type": some("bind", "volume", "tmpfs", "image", "npipe", "json-file", "none"),
            "Source": some("/", "/etc", "one", "/nosuch"),
            "Target": some("/t", "/", "t", "/proc", "/etc/passwd"),
            "path": some("/", "/etc", "/etc/passwd", "/nosuch", "../..", "/proc/1/root"),
            "signal": some("KILL", "TERM", "0", "15", "SIGWINCH", "x", "-9"),
            "t": some("0", "1", "x", ""),
            "since": some("0", "1", str(int(time.time())), "x", "2020-01-01T00:00:00Z"),
            "until": some("0", "1", str(int(time.time())), "x"),
            "tail": some("0", "1", "all", "-1", "x"),
            "h": some("10", "0", "65536", "-1", "x"),
            "w": some("10", "0", "65536", "-1", "x"),
            "condition": some("not-running", "next-exit", "removed", "x"),
            "platform": some("linux/amd64", '{"os":"linux","architecture":"amd64"}', "x", "{"),
            "names": lambda: named("images"),
            "repo": some("made", "Made", "a/b", ""),
            "StopTimeout": some(0, 1),
            "CpuShares": some(0, 512, 1024, -1, 1 << 18),
            "Detach": some(True, False),
            "Privileged": some(True, False),
            "filters": self._filters,
        }  # fmt: skip

    def _name(self, noun: str) -> str:
        known = self._names.get(noun) or ["one"]
        return self.random.choice(known) if self.random.random() < 0.9 else self.random.choice(_STRINGS)

    def _filters(self) -> str:
        keys = ("id", "name", "label", "status", "until", "dangling", "driver", "type", "before", "since", "nonsense", "event")
        found = {self.random.choice(keys): [self.random.choice(_STRINGS)] for _ in range(self.random.randrange(3))}
        old = {key: {value[0]: True} for key, value in found.items()}
        return self.random.choice((json.dumps(found), json.dumps(old), "{", "[1]", "null"))

    # Values

    def _value(self, schema: dict[str, Any], name: str = "", depth: int = 0) -> Any:
        if "$ref" in schema:
            schema = api_schema(NEWEST).document["definitions"][schema["$ref"].rpartition("/")[2]]
        dice = self.random.random()
        if name in self._hints and (dice < 0.75 or name in _BOUNDED):
            return self._hints[name]()
        if dice > 0.97:
            return self.random.choice((None, 5, "text", [], {}, [[]], True, 10**30))
        if "enum" in schema and dice < 0.9:
            return self.random.choice(schema["enum"])
        kind = schema.get("type") or ("object" if "allOf" in schema or "properties" in schema else "string")
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return [self._value(schema.get("items", {}), name, depth + 1) for _ in range(self.random.randrange(3))]
        if kind in ("integer", "number"):
            return self.random.choice(_NUMBERS) if dice < 0.5 else self.random.randrange(1000)
        if kind == "boolean":
            return self.random.random() < 0.5
        return self.random.choice(_STRINGS)

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        extra = schema.get("additionalProperties")
        if extra is not None and depth < 6:
            part = extra if isinstance(extra, dict) else {}
            for _ in range(self.random.randrange(3)):
                found[self.random.choice(_STRINGS)] = self._value(part, "", depth + 1)
        properties = api_schema(NEWEST).properties(schema)
        share = min(0.9, 2.5 / (len(properties) or 1))
        for name, part in properties.items():
            wanted = name in _ALWAYS or (name == "HostConfig" and self.random.random() < 0.7)
            if depth < 6 and (wanted or self.random.random() < share):
                found[name] = self._value(part, name, depth + 1)
        return found

    # Requests

    def _one(self) -> None:
        operation = self.random.choices(self._operations, self._weights)[0]
        target = self._target(operation)
        body, kind = self._body(operation)
        number = self.outcome.requests
        self.outcome.requests += 1
        line = f"{operation.method} {target} {body[:2000]!r}" if body is not None else f"{operation.method} {target}"
        started = time.monotonic()
        try:
            status, message = self._send(operation, target, body, kind)
        except TimeoutError:
            self._fault(number, line, f"no answer within {HANGS_AFTER:.0f} s")
            return
        except (OSError, http.client.HTTPException) as error:
            self._fault(number, line, f"no answer: {type(error).__name__} {error}")
            return
        self.outcome.slowest = max(self.outcome.slowest, time.monotonic() - started)
        self.outcome.statuses[status] += 1
        if status >= 500 and status not in ALLOWED:
            self._fault(number, line, f"{status} {message}")

    def _fault(self, number: int, request: str, what: str) -> None:
        self.outcome.faults.append(Fault(number, request, f"{what} ({time.strftime('%H:%M:%S')})"))

    def _target(self, operation: Operation) -> str:
        noun = operation.path.split("/")[1].replace("distribution", "images")
        safe = "/:" if noun == "images" else ""
        path = re.sub(r"\{[^}]*\}", lambda _: urllib.parse.quote(self._name(noun), safe=safe), operation.path)
        pairs: list[tuple[str, str]] = []
        for name, parameter in operation.query.items():
            if self.random.random() < (0.8 if parameter.get("required") else 0.4):
                value = self._value(parameter, name)
                for item in value if isinstance(value, list) else [value]:
                    text = item if isinstance(item, str) else json.dumps(item)
                    pairs.append((name, text.encode(errors="replace").decode()))
        prefix = f"/v{self.random.choice(VERSIONS)}" if self.random.random() < 0.8 else ""
        return prefix + path + ("?" + urllib.parse.urlencode(pairs) if pairs else "")

    def _body(self, operation: Operation) -> tuple[bytes | None, str]:
        """The body, and its content type."""
        schema = operation.body
        if schema is None:
            return (b"", "application/json") if operation.method == "POST" else (None, "")
        dice = self.random.random()
        if dice < 0.04:
            return self.random.choice((b"", b"{", b"null", b"[]", b"\xff\xfe", b'"', b"{" * 5000)), "application/json"
        if schema.get("format") == "binary" or schema.get("type") == "string":
            size = self.random.choice((0, 100, 1024, 100_000, len(_ARCHIVE)))
            return (_ARCHIVE[:size] if dice < 0.5 else b"x" * 3000), "application/x-tar"
        return json.dumps(self._value(schema)).encode(), "application/json"

    def _send(self, operation: Operation, target: str, body: bytes | None, kind: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("engine", timeout=HANGS_AFTER)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(HANGS_AFTER)
        try:
            connection.sock.connect(self.engine.socket)
            try:
                connection.request(operation.method, target, body, {"Content-Type": kind} if kind else {})
            except BrokenPipeError:
                # Refused before the body was read.
                pass
            raw = connection.sock
            if operation.path in _STREAMS:
                raw.settimeout(_GLIMPSE if operation.path != "/build" else 2.0)
            try:
                answer = connection.getresponse()
                text = answer.read() if operation.path not in _STREAMS or answer.status >= 400 else answer.read1(4096)
            except TimeoutError:
                if operation.path not in _STREAMS:
                    raise
                # Nothing has come yet: an attach to something silent, a pull that tries.
                return 0, ""
            return answer.status, text[:300].decode(errors="replace")
        finally:
            connection.close()
