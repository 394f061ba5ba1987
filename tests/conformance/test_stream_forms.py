"""Every form of the API's streams, byte by byte, on berthd and on Debian's dockerd where it is installed: what is expected is
the same for both. Where Docker itself differs (its answers of 1.41 to what makes no sense), berth alone is asked."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
from bench.engine import dockerd as start_dockerd

from support.api_client import Answer, ask
from support.engine import EngineProcess, busybox_tar
from support.wire import BINARY, CLOSE, PING, PONG, TEXT, UPGRADE, get_frame, opened, put_frame, websocket

V = "/v1.41"
RAW = "application/vnd.docker.raw-stream"
WITH_INPUT = {"OpenStdin": True, "StdinOnce": True}
NUMBERS = itertools.count()


@dataclass
class Target:
    """An engine with a busybox image."""

    name: str
    socket: str

    def call(self, method: str, path: str, body: Any = None) -> Answer:
        return ask(self.socket, method, V + path, body)

    def make(self, command: str, *, start: bool = False, host: dict[str, Any] | None = None, **config: Any) -> str:
        """A container's id."""
        body = {"Image": "busybox", "Cmd": ["sh", "-c", command], "HostConfig": {"NetworkMode": "none", **(host or {})}, **config}
        made = self.call("POST", f"/containers/create?name=form{next(NUMBERS)}", body)
        assert made.status == 201, made.body
        identifier: str = made.document["Id"]
        if start:
            self.start(identifier)
        return identifier

    def start(self, identifier: str) -> None:
        assert self.call("POST", f"/containers/{identifier}/start").status == 204

    def state(self, identifier: str) -> str:
        status: str = self.call("GET", f"/containers/{identifier}/json").document["State"]["Status"]
        return status

    def exec(self, identifier: str, command: str, **config: Any) -> str:
        body = {"Cmd": ["sh", "-c", command], "AttachStdout": True, "AttachStderr": True, **config}
        made: str = self.call("POST", f"/containers/{identifier}/exec", body).document["Id"]
        return made

    def ended(self, identifier: str) -> str:
        assert self.call("POST", f"/containers/{identifier}/wait").status == 200
        return identifier


@pytest.fixture(scope="module")
def dockerd() -> Iterator[Target]:
    peer = start_dockerd()
    if peer is None:
        pytest.skip("dockerd is not installed")
    try:
        with peer.client() as client:
            for _ in client.images.import_tar(busybox_tar(), repo="busybox", tag="latest", changes=['CMD ["sh"]']):
                pass
        yield Target("dockerd", peer.socket)
    finally:
        with peer.client() as client:
            for container in client.containers.list(all=True):
                client.containers.remove(container.id or "", force=True)
        peer.stop()


@pytest.fixture(params=["berthd", "dockerd"])
def target(request: pytest.FixtureRequest) -> Target:
    """Each engine in turn."""
    if request.param == "berthd":
        return Target("berthd", request.getfixturevalue("engine").socket)
    found: Target = request.getfixturevalue("dockerd")
    return found


@pytest.fixture
def ours(engine: EngineProcess) -> Target:
    return Target("berthd", engine.socket)


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


# Websockets


def test_a_websocket_takes_text_gives_bytes_and_is_closed_at_the_end(target: Target) -> None:
    box = target.make("read a; echo got $a; exit 3", start=True, **WITH_INPUT)
    with websocket(target.socket, f"{V}/containers/{box}/attach/ws?stream=1&stdin=1&stdout=1") as stream:
        assert stream.status == 101
        put_frame(stream, TEXT, b"this\n")
        assert get_frame(stream) == (BINARY, b"got this\n")
        assert get_frame(stream) == (CLOSE, b"\x03\xe8")
        assert get_frame(stream) == (0, b"")


def test_a_websocket_that_its_client_closes_leaves_the_container_alone(target: Target) -> None:
    box = target.make("cat", start=True, OpenStdin=True)
    with websocket(target.socket, f"{V}/containers/{box}/attach/ws?stream=1&stdin=1&stdout=1") as stream:
        put_frame(stream, PING, b"abc")
        assert get_frame(stream) == (PONG, b"abc")
        put_frame(stream, BINARY, b"x\n")
        assert get_frame(stream) == (BINARY, b"x\n")
        put_frame(stream, CLOSE, b"\x03\xe8")
        assert get_frame(stream) == (CLOSE, b"\x03\xe8")
    time.sleep(0.3)
    assert target.state(box) == "running"


def test_a_websocket_before_the_start(target: Target) -> None:
    box = target.make("cat", OpenStdin=True)
    with websocket(target.socket, f"{V}/containers/{box}/attach/ws?stream=1&stdin=1&stdout=1") as stream:
        target.start(box)
        put_frame(stream, BINARY, b"x\n")
        assert get_frame(stream) == (BINARY, b"x\n")


# Attach and exec: heads and framing


@pytest.mark.parametrize("head", [UPGRADE, ()], ids=["upgrade", "plain"])
@pytest.mark.parametrize("tty", [False, True], ids=["frames", "terminal"])
def test_attach(target: Target, tty: bool, head: tuple[str, ...]) -> None:
    box = target.make("echo out; echo err >&2", Tty=tty)
    with opened(target.socket, f"{V}/containers/{box}/attach?stream=1&stdout=1&stderr=1", head=head) as stream:
        target.start(box)
        assert (stream.status, stream.headers["content-type"]) == (101 if head else 200, RAW)
        assert stream.headers.get("upgrade") == ("tcp" if head else None)
        if tty:
            assert stream.rest() == b"out\r\nerr\r\n"
        else:
            assert sorted(stream.frames()) == [(1, b"out\n"), (2, b"err\n")]


@pytest.mark.parametrize("head", [UPGRADE, ()], ids=["upgrade", "plain"])
@pytest.mark.parametrize("tty", [False, True], ids=["frames", "terminal"])
def test_exec(target: Target, tty: bool, head: tuple[str, ...]) -> None:
    box = target.make("sleep 100", start=True)
    exec_id = target.exec(box, "echo out; echo err >&2", Tty=tty)
    with opened(target.socket, f"{V}/exec/{exec_id}/start", head=head, body={"Tty": tty}) as stream:
        assert (stream.status, stream.headers["content-type"]) == (101 if head else 200, RAW)
        if tty:
            assert stream.rest() == b"out\r\nerr\r\n"
        else:
            assert sorted(stream.frames()) == [(1, b"out\n"), (2, b"err\n")]


@pytest.mark.parametrize("query", ["stream=1", "logs=1", "stdout=1&logs=0&stream=0"])
def test_who_attaches_to_nothing_does_not_wait_for_it(target: Target, query: str) -> None:
    box = target.make("sleep 100", start=True)
    with opened(target.socket, f"{V}/containers/{box}/attach?{query}") as stream:
        # Docker answers 101 and ends where nothing at all is asked for; berth says what is missing.
        assert stream.status == (101 if target.name == "dockerd" or "=0" not in query else 400)
        if stream.status == 101:
            assert stream.rest() == b""


# Detach keys

KEYS = [
    ("", b"\x10\x11"), ("ctrl-a", b"\x01"), ("ctrl-a,b", b"\x01b"), ("a,b,c", b"abc"), ("ctrl-@", b"\0"), ("ctrl-[", b"\x1b"),
    ("ctrl-\\", b"\x1c"), ("ctrl-]", b"\x1d"), ("ctrl-^", b"\x1e"), ("ctrl-_", b"\x1f"), ("x", b"x"),
]  # fmt: skip


def test_detach_keys_let_go_and_nothing_of_them_arrives(target: Target) -> None:
    box = target.make("stty -echo; cat", start=True, Tty=True, OpenStdin=True)
    for keys, typed in KEYS:
        path = f"{V}/containers/{box}/attach?stream=1&stdin=1&stdout=1&detachKeys={quote(keys)}"
        with opened(target.socket, path) as stream:
            assert stream.status == 101, keys
            stream.send(typed)
            assert stream.rest() == b"", keys
    assert target.state(box) == "running"


NO_KEYS = ["ctrl-", "ctrl-1", "abc", "ctrl-a,", "ctrl-ab", ",", "ctrl", "ctrl-a,,b", "CTRL-a", "ctrl-A", "é", "^P"]


@pytest.mark.parametrize("keys", NO_KEYS)
def test_detach_keys_that_are_none(target: Target, keys: str) -> None:
    box = target.make("cat", start=True, Tty=True, OpenStdin=True)
    with opened(target.socket, f"{V}/containers/{box}/attach?stream=1&stdin=1&detachKeys={quote(keys)}") as stream:
        assert stream.status == 400
        assert f"Invalid detach keys ({keys}) provided" in stream.receive().decode()
    made = target.call("POST", f"/containers/{box}/exec", {"Cmd": ["true"], "Tty": True, "DetachKeys": keys})
    assert (made.status, keys in made.document["message"]) == (500 if target.name == "dockerd" else 400, True)


def test_detaching_from_an_exec(ours: Target) -> None:
    """With dockerd 20.10 that ends it, against what it says itself."""
    box = ours.make("sleep 100", start=True)
    for keys, typed in (("", b"\x10\x11"), ("a,b", b"ab")):
        exec_id = ours.exec(box, "stty -echo; echo ready; cat", Tty=True, AttachStdin=True, DetachKeys=keys)
        with opened(ours.socket, f"{V}/exec/{exec_id}/start", body={"Tty": True}) as stream:
            stream.until(b"ready\r\n")
            stream.send(typed)
            assert stream.rest() == b""
        assert ours.call("GET", f"/exec/{exec_id}/json").document["Running"] is True


# Half-close


def test_an_input_that_ends_is_the_end_of_the_input_only(target: Target) -> None:
    command = "cat; echo after; sleep 0.3; echo later"
    box = target.make(command, **WITH_INPUT)
    with opened(target.socket, f"{V}/containers/{box}/attach?stream=1&stdin=1&stdout=1") as stream:
        target.start(box)
        stream.send(b"in\n")
        stream.end()
        assert stream.frames() == [(1, b"in\nafter\nlater\n")]
    box = target.make("sleep 100", start=True)
    exec_id = target.exec(box, command, AttachStdin=True)
    with opened(target.socket, f"{V}/exec/{exec_id}/start", body={}) as stream:
        stream.send(b"in\n")
        stream.end()
        assert stream.frames() == [(1, b"in\nafter\nlater\n")]


def test_where_the_input_stays_open_its_end_ends_the_attachment_after_the_answer(ours: Target) -> None:
    """With dockerd it is chance whether the answer comes."""
    box = ours.make("cat", start=True, OpenStdin=True)
    for _ in range(2):
        with opened(ours.socket, f"{V}/containers/{box}/attach?stream=1&stdin=1&stdout=1") as stream:
            stream.send(b"in\n")
            stream.end()
            assert stream.frames() == [(1, b"in\n")]
    assert ours.state(box) == "running"


# Resize


def test_the_size_of_an_execs_terminal_right_after_its_start(target: Target) -> None:
    box = target.make("sleep 100", start=True)
    exec_id = target.exec(box, "sleep 1; stty size", Tty=True)
    with opened(target.socket, f"{V}/exec/{exec_id}/start", body={"Tty": True}) as stream:
        assert target.call("POST", f"/exec/{exec_id}/resize?h=11&w=22").status == 200
        assert stream.rest() == b"11 22\r\n"


def test_the_size_of_a_containers_terminal(target: Target) -> None:
    box = target.make("read a; stty size; sleep 100", Tty=True, OpenStdin=True)
    before = target.call("POST", f"/containers/{box}/resize?h=10&w=20")
    assert (before.status, "is not running" in before.document["message"]) == (409, True)
    with opened(target.socket, f"{V}/containers/{box}/attach?stream=1&stdin=1&stdout=1") as stream:
        target.start(box)
        assert target.call("POST", f"/containers/{box}/resize?h=10&w=20").status == 200
        stream.send(b"\n")
        stream.until(b"10 20")
    for query in ("", "?h=1", "?w=1", "?h=x&w=2"):
        assert target.call("POST", f"/containers/{box}/resize{query}").status == 400, query
    target.call("POST", f"/containers/{box}/kill")
    after = target.ended(box) and target.call("POST", f"/containers/{box}/resize?h=10&w=20")
    assert (after.status, "is not running" in after.document["message"]) == (409, True)
    assert target.call("POST", "/containers/nothere/resize?h=10&w=20").status == 404


def test_what_has_no_terminal_takes_no_notice_of_a_size(target: Target) -> None:
    box = target.make("sleep 100", start=True)
    assert target.call("POST", f"/containers/{box}/resize?h=10&w=20").status == 200
    exec_id = target.exec(box, "sleep 0.5")
    with opened(target.socket, f"{V}/exec/{exec_id}/start", body={}) as stream:
        assert target.call("POST", f"/exec/{exec_id}/resize?h=10&w=20").status == 200
        stream.rest()


# Wait


class Waiting:
    """A wait in the background."""

    def __init__(self, target: Target, identifier: str, condition: str) -> None:
        self.answer: Answer | None = None
        path = f"/containers/{identifier}/wait" + (f"?condition={condition}" if condition else "")

        def work() -> None:
            self.answer = target.call("POST", path)

        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()
        self.thread.join(0.4)

    @property
    def over(self) -> bool:
        return not self.thread.is_alive()

    def code(self) -> int:
        self.thread.join(10)
        assert self.answer is not None, "the wait has not ended"
        status: int = self.answer.document["StatusCode"]
        return status


@pytest.mark.parametrize("condition", ["", "not-running", "next-exit", "removed"])
def test_waits(target: Target, condition: str) -> None:
    at_once = condition in ("", "not-running")
    box = target.make("exit 3")
    created = Waiting(target, box, condition)
    assert created.over == at_once
    target.start(box)
    until(lambda: target.state(box) == "exited")
    if condition == "next-exit":
        assert created.code() == 3
    exited = Waiting(target, box, condition)
    assert exited.over == at_once
    if condition == "next-exit":
        target.start(box)
        assert exited.code() == 3
    target.call("DELETE", f"/containers/{box}")
    assert (created.code(), exited.code()) == (0 if at_once else 3, 3)


@pytest.mark.parametrize("condition", ["", "not-running", "next-exit", "removed"])
def test_waits_for_what_removes_itself(target: Target, condition: str) -> None:
    box = target.make("sleep 1; exit 4", start=True, host={"AutoRemove": True})
    assert Waiting(target, box, condition).code() == 4
    until(lambda: target.call("GET", f"/containers/{box}/json").status == 404)


def test_a_condition_that_is_none(ours: Target) -> None:
    box = ours.make("true")
    refused = ours.call("POST", f"/containers/{box}/wait?condition=foo")
    assert (refused.status, refused.document["message"]) == (400, 'invalid condition: "foo"')


# Logs


def lines_of(target: Target, box: str, query: str) -> list[bytes]:
    """The contents of the frames of a log."""
    with opened(target.socket, f"{V}/containers/{box}/logs?{query}", head=("Connection: close",), method="GET") as stream:
        data = stream.rest()
    assert stream.status == 200
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        body, data = body + data[: int(size, 16)], data[int(size, 16) + 2 :]
    found = []
    while body:
        length = int.from_bytes(body[4:8], "big")
        found.append(body[8 : 8 + length])
        body = body[8 + length :]
    return found


LOGS = [
    ("stdout=1", [b"one\n", b"three\n", b"four"]), ("stderr=1", [b"two\n"]), ("stdout=1&tail=1", [b"four"]),
    ("stdout=1&tail=0", []),
    ("stdout=1&tail=all", [b"one\n", b"three\n", b"four"]), ("stdout=1&tail=x", [b"one\n", b"three\n", b"four"]),
    ("stdout=1&tail=-1", [b"one\n", b"three\n", b"four"]), ("stdout=1&since=9999999999", []), ("stdout=1&until=1", []),
    ("stdout=1&until=0&since=0", [b"one\n", b"three\n", b"four"]), ("stdout=1&follow=1&tail=1", [b"four"]),
    ("stdout=1&follow=1", [b"one\n", b"three\n", b"four"]), ("stderr=1&details=1", [b"E=f,a=b two\n"]),
]  # fmt: skip


def test_logs(target: Target) -> None:
    log = {"LogConfig": {"Type": "json-file", "Config": {"labels": "a", "env": "E"}}}
    command = "echo one; echo two >&2; echo three; printf four"
    box = target.ended(target.make(command, start=True, host=log, Labels={"a": "b"}, Env=["E=f"]))
    for query, expected in LOGS:
        assert lines_of(target, box, query) == expected, query
    stamped = lines_of(target, box, "stderr=1&timestamps=1&details=1")[0].decode()
    moment, details, text = stamped.split(" ", 2)
    assert (moment.endswith("Z"), len(moment), details, text) == (True, 30, "E=f,a=b", "two\n")
    assert lines_of(target, box, f"stdout=1&since={time.time():.9f}") == []
    neither = target.call("GET", f"/containers/{box}/logs")
    assert (neither.status, neither.document["message"]) == (400, "Bad parameters: you must choose at least one stream")
    silent = target.ended(target.make("echo x", start=True, host={"LogConfig": {"Type": "none"}}))
    refused = target.call("GET", f"/containers/{silent}/logs?stdout=1")
    assert (refused.status, refused.document["message"]) == (501, "configured logging driver does not support reading")


# Stats


def test_stats(target: Target) -> None:
    box = target.make("sleep 100", start=True)
    whole = target.call("GET", f"/containers/{box}/stats?stream=0").document
    assert whole["precpu_stats"]["cpu_usage"]["total_usage"] > 0 and whole["preread"] > "2000"
    one = target.call("GET", f"/containers/{box}/stats?stream=0&one-shot=1").document
    assert one["precpu_stats"]["cpu_usage"]["total_usage"] == 0 and one["preread"].startswith("0001")
    for query in ("?stream=1&one-shot=1", "?one-shot=1"):
        refused = target.call("GET", f"/containers/{box}/stats{query}")
        assert (refused.status, refused.document["message"]) == (400, "cannot have stream=true and one-shot=true")
    with opened(target.socket, f"{V}/containers/{box}/stats", head=(), method="GET") as stream:
        for _ in range(3):
            stream.until(b'"read"')
    target.call("POST", f"/containers/{box}/kill")
    assert target.call("GET", f"/containers/{target.ended(box)}/stats?stream=0").document["read"].startswith("0001")


# Events


def test_events(target: Target) -> None:
    since = time.time()
    time.sleep(0.01)
    box = target.make("exit 2", start=True, Labels={"k": "v"})
    target.ended(box)
    number = next(NUMBERS)
    target.call("POST", f"/containers/{box}/rename?name=named{number}")
    target.call("DELETE", f"/containers/{box}")
    for kind, name in (("volumes", "vol"), ("networks", "net")):
        target.call("POST", f"/{kind}/create", {"Name": f"{name}{number}"})
        target.call("DELETE", f"/{kind}/{name}{number}")
    target.call("POST", f"/images/busybox/tag?repo=img{number}&tag=1")
    target.call("DELETE", f"/images/img{number}:1")
    ended = time.time() + 0.1

    def told(**filters: str) -> list[tuple[str, str]]:
        query = f"since={since}&until={ended}&filters={quote(json.dumps({k: [v] for k, v in filters.items()}))}"
        answer = target.call("GET", f"/events?{query}")
        assert answer.status == 200, answer.body
        return [(event["Type"], event["Action"]) for event in answer.lines]

    life = [("container", action) for action in ("create", "start", "die", "rename", "destroy")]
    volume = [("volume", "create"), ("volume", "destroy")]
    network = [("network", "create"), ("network", "destroy")]
    image = [("image", "tag"), ("image", "untag")]
    assert told(type="container", container=box) == life == told(container=box[:3], label="k=v")
    assert told(label="k=v") == life == told(label="k") and told(label="k=x") == []
    assert told(event="die", container=box) == [("container", "die")]
    # A name counts as it was then, and its beginning is enough.
    assert told(container=f"named{number}") == life[3:] == told(container=f"named{number}"[:-1], label="k")
    assert told(image="busybox", type="container", label="k=v") == life
    assert told(image=f"img{number}:1") == image[:1] == told(image=f"img{number}") and told(type="image") == image
    assert told(volume=f"vol{number}") == volume == told(type="volume")
    assert told(network=f"net{number}") == network
    assert told(scope="swarm") == [] and {*life, *volume, *network} <= set(told(scope="local"))
    for of_what in ("plugin", "node", "service", "secret", "config", "daemon"):
        assert told(**{of_what: "x"}) == [], of_what
    refused = target.call("GET", f"/events?since={ended + 5}&until={ended}")
    assert (refused.status, "cannot be after" in refused.document["message"]) == (400, True)
