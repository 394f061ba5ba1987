"""The shim's event loop: failing handlers, descriptors that come round again, timers."""

from __future__ import annotations

import os
import sys

from berth.runtime.loop import READ, Loop


def test_a_descriptor_that_is_reused_within_a_turn_does_not_get_its_predecessors_event():
    loop = Loop()
    pipes = [os.pipe() for _ in range(2)]
    called = []

    def first(_mask):
        # Both are readable: whoever is served first closes the other, and a new pipe takes its number.
        for near, _ in pipes[1:]:
            loop.forget(near)
            os.close(near)
            fresh = os.pipe()
            assert fresh[0] == near
            pipes.append(fresh)
            loop.watch(near, READ, lambda mask: called.append("stale"))
        loop.forget(pipes[0][0])

    for near, far in pipes:
        os.write(far, b"x")
        loop.watch(near, READ, first if near == pipes[0][0] else lambda mask: called.append("second"))
    loop.turn()
    if not called:
        loop.after(0, lambda: called.append("timer"))
        loop.turn()
    assert "stale" not in called
    for fd in {fd for pair in pipes for fd in pair}:
        os.close(fd)


def test_a_handler_that_always_fails_is_given_up(monkeypatch):
    loop = Loop()
    near, far = os.pipe()
    errors = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: errors.append(error))
    os.write(far, b"x")

    def fail(_mask):
        raise ValueError("always")

    loop.watch(near, READ, fail)
    for _ in range(10):
        loop.after(0, lambda: None)
        loop.turn()
    assert len(errors) == 5
    assert not loop.watches(near)
    os.close(near)
    os.close(far)


def test_timers_come_in_their_order():
    loop = Loop()
    called = []
    loop.after(0.002, lambda: called.append("late"))
    loop.after(0.0, lambda: called.append("early"))
    loop.after(0.001, lambda: called.append("middle"))
    while len(called) < 3:
        loop.turn()
    assert called == ["early", "middle", "late"]
