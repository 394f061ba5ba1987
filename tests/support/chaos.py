"""Many clients at once that do everything to an engine that is killed again and again.

Some of what they do is to containers that all of them know by name (`Crowd`): anything may come of it, but no defect's status, no
two containers of one name, no request without an answer. The rest is to containers of a client's own (`Life`), of which it is
known what has to come of them: their exit codes, their output, their execs' exit codes, whatever happens to the engine meanwhile.
Everything comes of one seed, but for the order in which things happen.
"""

from __future__ import annotations

import http.client
import io
import json
import random
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from support.api_client import Answer, ask
from support.engine import READY_SECONDS, EngineProcess
from support.event_order import Listener, disorder, exit_codes

HANGS_AFTER = 60.0
_SHARED, _NETWORKS = 12, 5
_MARK = {"chaos": "yes"}
_ALLOWED = (501, 503)


class Lost(Exception):
    """What a client was waiting for did not come true; its message says what."""


class Chaos:
    """One engine, one seed."""

    def __init__(self, engine: EngineProcess, seed: int, clients: int) -> None:
        self.engine = engine
        self.seed = seed
        self.faults: list[str] = []
        self.statuses: Counter[int] = Counter()
        self.lives = 0
        self.kills = 0
        self.restart_seconds: list[float] = []
        self.codes: dict[str, int] = {}
        self._over = threading.Event()
        self._listener = Listener(engine.socket)
        self._clients = [threading.Thread(target=self._client, args=(number,)) for number in range(clients)]

    def run(self, seconds: float, kill_every: float) -> list[str]:
        """What is wrong. The engine runs when this returns, with nothing left in it."""
        self._listener.start()
        for client in self._clients:
            client.start()
        # So many kills, however long a start takes.
        for _ in range(round(seconds / kill_every) - 1):
            time.sleep(kill_every)
            self._kill()
        time.sleep(kill_every)
        self._over.set()
        for client in self._clients:
            client.join(HANGS_AFTER * 3)
            if client.is_alive():
                self.faults.append(f"{client.name} did not come to an end")
        self._tidy()
        time.sleep(0.5)
        self._listener.close()
        self.faults += disorder(self._listener.events) + self._check_codes()
        return self.faults

    @property
    def events(self) -> int:
        """How many were heard."""
        return len(self._listener.events)

    def _kill(self) -> None:
        self.engine.kill()
        started = time.monotonic()
        self.engine.start()
        self.restart_seconds.append(time.monotonic() - started)
        self.kills += 1

    def _check_codes(self) -> list[str]:
        told = exit_codes(self._listener.events)
        wrong = []
        for identifier, code in self.codes.items():
            if set(told[identifier]) != {code}:
                wrong.append(f"container {identifier[:12]} ended with {code}, and its events tell of {told[identifier]}")
        return wrong

    def _tidy(self) -> None:
        """Take everything away again."""
        for container in self.ask("GET", "/containers/json?all=1").document:
            self.ask("DELETE", f"/containers/{container['Id']}?force=1&v=1")
        for network in self.ask("GET", "/networks").document:
            if network["Name"].startswith("net"):
                self.ask("DELETE", f"/networks/{network['Id']}")
        for image in self.ask("GET", "/images/json").document:
            for tag in image["RepoTags"]:
                if tag.startswith("made"):
                    self.ask("DELETE", f"/images/{tag}?force=1")

    def _client(self, number: int) -> None:
        chance = random.Random(f"{self.seed}-{number}")
        serial = 0
        while not self._over.is_set():
            serial += 1
            try:
                if chance.random() < 0.35:
                    Life(self, chance, f"own-{number}-{serial}").live()
                    self.lives += 1
                else:
                    Crowd(self, chance).act()
            except Lost as lost:
                self.faults.append(f"client {number}: {lost}")
            except Exception as error:  # a thread's end would go unnoticed
                self.faults.append(f"client {number}: {type(error).__name__}: {error}")

    def try_once(self, method: str, path: str, body: Any = None, *, kind: str = "application/json") -> Answer | None:
        """The answer, or None when the engine went away meanwhile."""
        started = time.monotonic()
        try:
            answer = ask(self.engine.socket, method, path, body, kind=kind, timeout=HANGS_AFTER)
        except TimeoutError:
            self.faults.append(f"no answer within {HANGS_AFTER:.0f} s: {method} {path}")
            return None
        except (OSError, http.client.HTTPException):
            return None
        self.statuses[answer.status] += 1
        if answer.status >= 500 and answer.status not in _ALLOWED:
            said = answer.body[:300].decode(errors="replace")
            asked = "" if isinstance(body, bytes) else json.dumps(body)
            self.faults.append(f"{answer.status} after {time.monotonic() - started:.1f} s: {method} {path} {asked}: {said}")
        return answer

    def ask(self, method: str, path: str, body: Any = None, *, kind: str = "application/json") -> Answer:
        """The answer, however often the engine has to be asked."""
        deadline = time.monotonic() + HANGS_AFTER + READY_SECONDS * 2
        while (answer := self.try_once(method, path, body, kind=kind)) is None:
            if time.monotonic() > deadline:
                raise Lost(f"nobody answers: {method} {path}")
            time.sleep(0.05)
        return answer


class Life:
    """A container that nobody else knows, from its creation to its removal."""

    def __init__(self, chaos: Chaos, chance: random.Random, name: str) -> None:
        self._chaos = chaos
        self._chance = chance
        self._name = name
        self._code = chance.choice((0, 1, 3, 42, 137))
        self._auto_remove = chance.random() < 0.3

    def _need(self, method: str, path: str, body: Any = None, *allowed: int) -> Answer:
        """One that was cut off may have been carried out: then the next answer says so, and that is as good."""
        answer = self._chaos.ask(method, path, body)
        if answer.status >= 300 and answer.status not in allowed:
            raise Lost(f"{self._name}: {method} {path}: {answer.status} {answer.body[:200].decode(errors='replace')}")
        return answer

    def live(self) -> None:
        """All of it."""
        identifier = self._create()
        self._chaos.codes[identifier] = self._code
        if self._chance.random() < 0.3:
            self._rename(identifier)
        if self._auto_remove:
            self._run_once(identifier)
            return
        self._need("POST", f"/containers/{identifier}/start", None, 304)
        for step in self._chance.sample((self._pause, self._exec, self._read), self._chance.randrange(3)):
            step(identifier)
        self._ended(identifier)
        if self._chance.random() < 0.2:
            self._commit(identifier)
        self._need("DELETE", f"/containers/{identifier}", None, 404, 409)
        self._gone(identifier)

    def _create(self) -> str:
        script = f"echo begin; sleep {self._chance.choice((0, 0, 0.3, 1, 2))}; echo end; exit {self._code}"
        host: dict[str, Any] = {"AutoRemove": self._auto_remove, "NetworkMode": self._chance.choice(("bridge", "none", "bridge"))}
        if self._chance.random() < 0.2:
            host["PublishAllPorts"] = True
        body = {"Image": "busybox", "Cmd": ["sh", "-c", script], "HostConfig": host, "Labels": _MARK}
        body["ExposedPorts"] = {"80/tcp": {}}
        answer = self._need("POST", f"/containers/create?name={self._name}", body, 409)
        if answer.status == 409:
            answer = self._need("GET", f"/containers/{self._name}/json")
        return str(answer.document["Id"])

    def _rename(self, identifier: str) -> None:
        self._name += "-new"
        answer = self._need("POST", f"/containers/{identifier}/rename?name={self._name}", None, 400, 409)
        if answer.status != 204 and self._need("GET", f"/containers/{identifier}/json").document["Name"] != f"/{self._name}":
            raise Lost(f"{self._name}: the rename was refused: {answer.body.decode()}")

    def _pause(self, identifier: str) -> None:
        # It may have ended before, or in between.
        self._need("POST", f"/containers/{identifier}/pause", None, 409)
        self._need("POST", f"/containers/{identifier}/unpause", None, 409)

    def _exec(self, identifier: str) -> None:
        """Begun for certain, its exit code is known to whoever asks while the container runs."""
        body = {"Cmd": ["sh", "-c", f"sleep 0.1; exit {self._code}"], "AttachStdout": True}
        made = self._need("POST", f"/containers/{identifier}/exec", body, 409)
        if made.status == 409:
            return
        path = f"/exec/{made.document['Id']}"
        begun = self._chaos.try_once("POST", f"{path}/start", {"Detach": True})
        if begun is None or begun.status != 200:
            return
        deadline = time.monotonic() + HANGS_AFTER
        while time.monotonic() < deadline:
            state = self._need("GET", f"{path}/json", None, 404)
            if state.status == 404 or not state.document["Running"]:
                break
            time.sleep(0.05)
        # A container that ends takes its execs along, and is said to have ended a moment later.
        time.sleep(0.5)
        running = self._need("GET", f"/containers/{identifier}/json").document["State"]["Running"]
        if running and (state.status == 404 or state.document["ExitCode"] != self._code):
            raise Lost(f"{self._name}: an exec that ended with {self._code} is said to be {state.body.decode()}")

    def _read(self, identifier: str) -> None:
        for path in ("json", "top", "logs?stdout=1", "stats?stream=0&one-shot=1", "changes"):
            self._need("GET", f"/containers/{identifier}/{path}", None, 409)

    def _ended(self, identifier: str) -> None:
        """It ends as it was told to, and has said what it was told to."""
        waited = self._need("POST", f"/containers/{identifier}/wait").document["StatusCode"]
        state = self._need("GET", f"/containers/{identifier}/json").document["State"]
        if (waited, state["ExitCode"], state["Status"]) != (self._code, self._code, "exited"):
            raise Lost(f"{self._name}: exit code {self._code} became {waited} and {state}")
        text = self._need("GET", f"/containers/{identifier}/logs?stdout=1").body
        if text.count(b"begin") != text.count(b"end") or not text.count(b"end"):
            raise Lost(f"{self._name}: its log is {text!r}")

    def _run_once(self, identifier: str) -> None:
        """With --rm: its exit code is in the events, and it goes by itself."""
        started = self._need("POST", f"/containers/{identifier}/start", None, 304, 404)
        if started.status != 404:
            self._need("POST", f"/containers/{identifier}/wait?condition=removed", None, 404)
        self._gone(identifier)

    def _gone(self, identifier: str) -> None:
        deadline = time.monotonic() + HANGS_AFTER
        while self._need("GET", f"/containers/{identifier}/json", None, 404).status != 404:
            if time.monotonic() > deadline:
                raise Lost(f"{self._name} was to be removed, and is still there")
            time.sleep(0.1)

    def _commit(self, identifier: str) -> None:
        self._need("POST", f"/commit?container={identifier}&repo=made&tag={self._name.lower()}", {})


class Crowd:
    """One act upon things that everybody knows."""

    def __init__(self, chaos: Chaos, chance: random.Random) -> None:
        self._chaos = chaos
        self._chance = chance
        self._who = f"shared{chance.randrange(_SHARED)}"
        self._net = f"net{chance.randrange(_NETWORKS)}"

    def act(self) -> None:
        """Something."""
        acts: tuple[Callable[[], object], ...] = (
            self._create, self._create, self._start, self._start, self._start, self._signal, self._stop, self._pause,
            self._rename, self._remove, self._exec, self._read, self._connect, self._network, self._commit, self._build,
            self._list, self._wait,
        )  # fmt: skip
        self._chance.choice(acts)()

    def _post(self, path: str, body: Any = None) -> Answer | None:
        return self._chaos.try_once("POST", path, body)

    def _create(self) -> None:
        policy = self._chance.choice(("no", "no", "on-failure", "always"))
        network = self._chance.choice(("bridge", "none", "host", self._net, self._net))
        host: dict[str, Any] = {"NetworkMode": network, "RestartPolicy": {"Name": policy}}
        if self._chance.random() < 0.3:
            host["Binds"] = [f"vol{self._chance.randrange(3)}:/v"]
        if self._chance.random() < 0.2 and network not in ("host", "none"):
            host["PortBindings"] = {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}
        script = self._chance.choice(("sleep 100", "sleep 1; exit 3", "exit 0", "trap 'exit 7' TERM; sleep 100 & wait"))
        body = {"Image": "busybox", "Cmd": ["sh", "-c", script], "HostConfig": host, "Labels": _MARK, "StopTimeout": 1}
        if self._chance.random() < 0.2:
            body["Healthcheck"] = {"Test": ["CMD", "true"], "Interval": 300_000_000}
        self._post(f"/containers/create?name={self._who}", body)

    def _start(self) -> None:
        self._post(f"/containers/{self._who}/start")

    def _signal(self) -> None:
        self._post(f"/containers/{self._who}/kill?signal={self._chance.choice(('KILL', 'TERM', 'HUP'))}")

    def _stop(self) -> None:
        self._post(f"/containers/{self._who}/{self._chance.choice(('stop', 'restart'))}?t={self._chance.choice((0, 1))}")

    def _pause(self) -> None:
        self._post(f"/containers/{self._who}/{self._chance.choice(('pause', 'unpause'))}")

    def _rename(self) -> None:
        self._post(f"/containers/{self._who}/rename?name=shared{self._chance.randrange(_SHARED)}")

    def _remove(self) -> None:
        self._chaos.try_once("DELETE", f"/containers/{self._who}?force={self._chance.randrange(2)}&v=1")

    def _exec(self) -> None:
        made = self._post(f"/containers/{self._who}/exec", {"Cmd": ["sh", "-c", "echo x"], "AttachStdout": True})
        if made is not None and made.status == 201:
            detach = self._chance.random() < 0.5
            self._post(f"/exec/{made.document['Id']}/start", {"Detach": detach})

    def _read(self) -> None:
        for path in ("json", "logs?stdout=1&tail=5", "top", "stats?stream=0&one-shot=1", "archive?path=/etc/passwd", "changes"):
            self._chaos.try_once("GET", f"/containers/{self._who}/{path}")

    def _connect(self) -> None:
        self._post(f"/networks/{self._net}/{self._chance.choice(('connect', 'disconnect'))}", {"Container": self._who})

    def _network(self) -> None:
        if self._chance.random() < 0.6:
            self._post("/networks/create", {"Name": self._net})
        else:
            self._chaos.try_once("DELETE", f"/networks/{self._net}")

    def _commit(self) -> None:
        self._post(f"/commit?container={self._who}&repo=made&tag=t{self._chance.randrange(4)}", {})

    def _build(self) -> None:
        text = f"FROM busybox\nRUN echo {self._chance.randrange(3)} > /made\nLABEL chaos=yes\n".encode()
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            info = tarfile.TarInfo("Dockerfile")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
        target = f"/build?t=made:b{self._chance.randrange(3)}&nocache={self._chance.randrange(2)}"
        self._chaos.try_once("POST", target, out.getvalue(), kind="application/x-tar")

    def _wait(self) -> None:
        """For what has ended: nobody ends the others for us."""
        state = self._chaos.try_once("GET", f"/containers/{self._who}/json")
        if state is not None and state.status == 200 and state.document["State"]["Status"] == "exited":
            self._post(f"/containers/{self._who}/wait")

    def _list(self) -> None:
        """Names and ids are unique at every moment."""
        filters = quote(json.dumps({"label": ["chaos=yes"]}))
        answer = self._chaos.try_once("GET", f"/containers/json?all=1&filters={filters}")
        if answer is not None and answer.status == 200:
            named = Counter(name for container in answer.document for name in (*container["Names"], container["Id"]))
            if twice := [name for name, count in named.items() if count > 1]:
                self._chaos.faults.append(f"two containers are called {twice}")
