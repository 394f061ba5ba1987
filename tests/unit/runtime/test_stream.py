"""Streams of a process: framing, detach keys, back-pressure, half-close, over pipes and sockets of this process."""

from __future__ import annotations

import os
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.runtime.loop import Loop
from berth.runtime.stream import DetachScanner, Session, frame

KEYS = b"\x10\x11"


def test_a_frame_has_the_stream_and_the_length():
    assert frame(2, b"abc") == bytes([2, 0, 0, 0, 0, 0, 0, 3])


@pytest.mark.parametrize(
    ("writes", "passed", "detached"),
    [
        ([b"abc"], b"abc", False),
        ([b"abc\x10\x11def"], b"abc", True),
        ([b"abc\x10", b"\x11def"], b"abc", True),
        ([b"\x10", b"x"], b"\x10x", False),
        ([b"\x10\x10\x11"], b"\x10", True),
        ([b"\x10", b"\x10", b"\x11"], b"\x10", True),
        ([b"\x10"], b"\x10", False),
    ],
)
def test_detach_keys(writes, passed, detached):
    scanner = DetachScanner(KEYS)
    text, found = b"", False
    for data in writes:
        part, found = scanner.scan(data)
        text += part
    assert (text + (b"" if found else scanner.rest()), found) == (passed, detached)


@given(
    st.lists(st.binary(max_size=6).map(lambda data: data.replace(b"\x03", b"\x01")), max_size=8),
    st.sampled_from([b"", b"\x03", b"\x01\x03", b"\x01\x01\x03"]),
)
def test_input_without_the_keys_passes_unchanged(writes, keys):
    scanner = DetachScanner(keys)
    text = b""
    for data in writes:
        part, found = scanner.scan(data)
        assert not found
        text += part
    assert text + scanner.rest() == b"".join(writes)


class Wired:
    """A session over pipes whose process ends this test holds."""

    def __init__(self, stdin=True, stdin_once=True):
        self.loop = Loop()
        out, self.out = os.pipe()
        err, self.err = os.pipe()
        near, far = os.pipe()
        self.stdin = near
        self.detached = 0
        self.ended = 0
        self.session = Session(
            self.loop, [(1, out), (2, err)], far if stdin else None, stdin_once=stdin_once, on_detach=lambda: None
        )
        if not stdin:
            os.close(far)

    def attach(self, **flags):
        client, fd = socket.socketpair()
        client.setblocking(False)
        values = {"stdin": False, "stdout": True, "stderr": True, "framed": False, "pending": b"", "keys": b""}
        self.session.attach(fd.detach(), **{**values, **flags})
        return client

    def turn(self, times=20):
        for _ in range(times):
            self.loop.after(0, lambda: None)
            self.loop.turn()

    def exit(self, grace=0.0):
        self.session.exited(grace, self._on_end)
        self.turn()

    def _on_end(self):
        self.ended += 1
        self.session.close_outputs()

    def close(self):
        for fd in (self.out, self.err, self.stdin):
            try:
                os.close(fd)
            except OSError:
                pass
        if not self.ended:
            self.exit()


@pytest.fixture
def wired():
    made = []

    def make(**options):
        made.append(Wired(**options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_output_goes_to_clients_by_what_they_asked_for(wired):
    session = wired()
    both, only_err, framed = session.attach(), session.attach(stdout=False), session.attach(framed=True)
    os.write(session.out, b"out")
    session.turn()
    os.write(session.err, b"err")
    session.turn()
    assert both.recv(100) == b"outerr"
    assert only_err.recv(100) == b"err"
    assert framed.recv(100) == struct.pack(">B3xI", 1, 3) + b"out" + struct.pack(">B3xI", 2, 3) + b"err"


def test_a_slow_client_stalls_the_process_and_loses_nothing(wired):
    session = wired()
    slow, quick = session.attach(), session.attach()
    os.set_blocking(session.out, False)
    written, taken = 0, b""
    for _ in range(200):
        try:
            written += os.write(session.out, b"x" * 65536)
        except BlockingIOError:
            session.turn(4)
            try:
                taken += quick.recv(1 << 20)
            except BlockingIOError:
                if written > len(taken):
                    break
    assert written < 2_000_000, "output was read without limit"
    received = 0
    while received < written:
        received += len(slow.recv(1 << 20))
        session.turn(4)
    assert received == written


def test_a_client_that_goes_does_not_stall_the_process(wired):
    session = wired()
    client = session.attach()
    os.set_blocking(session.out, False)
    try:
        for _ in range(100):
            os.write(session.out, b"x" * 65536)
            session.turn(4)
    except BlockingIOError:
        pass
    client.close()
    session.turn()
    for _ in range(50):
        os.write(session.out, b"x" * 65536)
        session.turn(4)


def test_half_close_ends_the_input_and_output_still_comes(wired):
    session = wired()
    client = session.attach(stdin=True, pending=b"early ")
    client.send(b"late")
    client.shutdown(socket.SHUT_WR)
    session.turn()
    assert os.read(session.stdin, 100) == b"early late"
    assert os.read(session.stdin, 100) == b""
    os.write(session.out, b"answer")
    session.turn()
    assert client.recv(100) == b"answer"


def test_without_stdin_once_the_input_stays_open_and_the_client_that_ended_is_let_go_after_the_answer(wired):
    session, gone = wired(stdin_once=False), []
    session.session.on_gone = lambda: gone.append(True)
    client = session.attach(stdin=True)
    client.send(b"one")
    client.shutdown(socket.SHUT_WR)
    session.turn()
    os.write(session.out, b"answer")
    session.turn()
    assert client.recv(100) == b"answer"
    # The loop waits for its timer.
    for _ in range(3):
        if not gone:
            session.loop.turn()
    assert gone
    assert client.recv(100) == b""
    second = session.attach(stdin=True)
    second.send(b"two")
    session.turn()
    assert os.read(session.stdin, 100) == b"onetwo"


def test_a_process_that_does_not_read_stalls_the_client(wired):
    session = wired()
    client = session.attach(stdin=True)
    sent = 0
    try:
        for _ in range(200):
            sent += client.send(b"x" * 65536)
            session.turn(4)
    except BlockingIOError:
        pass
    assert sent < 2_000_000
    client.shutdown(socket.SHUT_WR)
    received = 0
    while received < sent:
        received += len(os.read(session.stdin, 1 << 20))
        session.turn(4)
    assert received == sent
    session.turn()
    assert os.read(session.stdin, 100) == b""


def test_what_a_client_wrote_before_it_went_is_delivered(wired):
    session = wired()
    client = session.attach(stdin=True)
    client.send(b"last words")
    client.close()
    session.turn()
    assert os.read(session.stdin, 100) == b"last words"
    assert os.read(session.stdin, 100) == b""


def test_input_is_dropped_when_the_process_has_closed_its_own(wired):
    session = wired()
    client = session.attach(stdin=True)
    os.close(session.stdin)
    client.send(b"nobody reads this")
    session.turn()
    os.write(session.out, b"still here")
    session.turn()
    assert client.recv(100) == b"still here"


def test_the_end_comes_after_all_output_and_closes_the_clients(wired):
    session = wired()
    client = session.attach(stdin=True)
    client.send(b"unread")
    os.write(session.out, b"rest")
    os.close(session.out)
    os.close(session.err)
    session.exit(grace=100.0)
    assert session.ended == 1
    assert client.recv(100) == b"rest"
    assert client.recv(100) == b""


def test_the_end_does_not_wait_for_ever_for_outputs_that_others_hold(wired):
    session = wired()
    client = session.attach()
    os.write(session.out, b"rest")
    session.exit(grace=0.0)
    assert session.ended == 1
    assert client.recv(100) == b"rest"
    assert client.recv(100) == b""


def test_a_client_that_comes_after_the_end_is_closed_at_once(wired):
    session = wired()
    session.exit()
    assert session.attach().recv(100) == b""
