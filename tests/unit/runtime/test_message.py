"""Values between the processes of a launch, also from one that has ended."""

from __future__ import annotations

import os

from berth.runtime.message import pair, receive, send


def test_what_was_said_is_heard_though_something_was_left_unread() -> None:
    """The kernel reports the unread message once, at whichever packet of the last words it comes to be."""
    ours, theirs = pair()
    send(theirs, {"failed": ["mount", 20, "/bin/sh"]}, [0])
    send(ours, {"linked": True})
    theirs.close()
    answer = receive(ours)
    assert answer is not None and answer[0] == {"failed": ["mount", 20, "/bin/sh"]}
    os.close(answer[1][0])
    assert receive(ours) is None
    ours.close()


def test_the_report_may_come_between_a_value_and_its_descriptors() -> None:
    ours, theirs = pair()
    theirs.send(b"")
    send(theirs, {"console": True}, [0])
    ours.recv(1)
    send(ours, {"linked": True})

    class Between:
        """A socket whose peer ends after its first packet was read."""

        def __init__(self) -> None:
            self.calls = 0

        def recvmsg(self, *arguments: int) -> object:
            self.calls += 1
            if self.calls == 2:
                theirs.close()
            return ours.recvmsg(*arguments)

    answer = receive(Between())  # type: ignore[arg-type]
    assert answer is not None and answer[0] == {"console": True} and len(answer[1]) == 1
    os.close(answer[1][0])
    ours.close()
