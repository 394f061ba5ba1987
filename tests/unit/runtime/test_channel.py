"""Messages with descriptors over SEQPACKET."""

from __future__ import annotations

import os
import resource
import socket

import pytest

from berth.runtime import channel


@pytest.fixture
def pair():
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near.setblocking(False)
    far.setblocking(False)
    yield near, far
    near.close()
    far.close()


def open_descriptors():
    return set(os.listdir("/proc/self/fd"))


def test_a_message_and_its_descriptors_arrive(pair):
    near, far = pair
    reading, writing = os.pipe()
    channel.send(near, {"op": "x", "text": "ü"}, [writing])
    os.close(writing)
    message, fds = channel.receive(far)
    assert message == {"v": 1, "op": "x", "text": "ü"}
    os.write(fds[0], b"through")
    assert os.read(reading, 10) == b"through"
    assert not os.get_inheritable(fds[0])
    channel.close_all([reading, *fds])


def test_a_large_message_travels_in_a_memfd(pair):
    near, far = pair
    before = open_descriptors()
    text = "x" * 3_000_000
    channel.send(near, {"text": text})
    message, fds = channel.receive(far)
    assert message["text"] == text
    assert "memfd" not in message
    assert fds == []
    assert open_descriptors() == before


@pytest.mark.parametrize("text", ["", "x" * 100_000], ids=["inline", "memfd"])
@pytest.mark.parametrize("count", [240, 241, 700])
def test_more_descriptors_than_a_packet_carries(pair, text, count):
    near, far = pair
    before = open_descriptors()
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(count)]
    channel.send(near, {"text": text}, fds)
    channel.close_all(fds)
    message, received = channel.receive(far)
    assert message == {"v": 1, "text": text}
    assert len(received) == count
    channel.close_all(received)
    assert open_descriptors() == before


def test_the_end_is_none(pair):
    near, far = pair
    near.close()
    assert channel.receive(far) is None


def test_a_full_socket_sends_nothing_of_a_message(pair):
    near, far = pair
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            channel.send(near, {"n": sent, "text": "x" * 5000})
            sent += 1
    for number in range(sent):
        assert channel.receive(far)[0]["n"] == number
    with pytest.raises(BlockingIOError):
        channel.receive(far)


@pytest.mark.parametrize("packet", [b"nonsense", b"[1]", b'{"v":1,"memfd":true}', b'{"v":2}', b"{}"])
def test_what_is_no_message_is_refused(pair, packet):
    near, far = pair
    near.send(packet)
    with pytest.raises(channel.ChannelError):
        channel.receive(far)


def test_descriptors_that_do_not_fit_are_an_error_and_not_a_leak(pair):
    near, far = pair
    before = open_descriptors()
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
    channel.send(near, {}, fds)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    channel.close_all(fds[:4])
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(fds) + 1, hard))
    try:
        with pytest.raises(channel.ChannelError, match="too many open files"):
            channel.receive(far)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    channel.close_all(fds[4:])
    assert open_descriptors() == before
