"""The proxy: a process that passes on what comes to published ports which the kernel cannot translate, and outlives the engine.

These are ports on IPv6 addresses of the host (their container may have IPv4 only; ::1 is never translated), and all ports of an
engine that respects its host's own firewall: a connection that is accepted here has passed the host's INPUT chains. Containers
see the host's address of their network as the client.

    engine  serve  {port: [protocol, address, port], target: [address, port]} + descriptors socket[, lifeline]
            lead   {port, target or null}                what is to come goes there, or nowhere
            drop   {port} + descriptor                   connections that there are go on; the descriptor is closed then
            begin, then keep {port, target} ... commit   ports that are not mentioned in between are dropped
            quit

The socket is bound and, for TCP, listens. The lifeline is one end of a socket pair whose other end the container's shim holds:
when the container has ended, the port and its connections are closed, whether or not there is an engine.

One process for all ports, in one thread; each connection holds at most 128 KiB here. It gives up root once it runs, and ends when
it has had nothing to do for two seconds.
"""

from __future__ import annotations

import errno
import resource
import socket
import time

from berth.network.control import Control, give_up_root
from berth.network.passage import Address, Flows, Passage
from berth.network.reactor import Reactor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

Name = tuple[str, str, int]
# Without a descriptor to accept with: until others have ended.
_PAUSE = 0.2
_FLOW_CHECK = 10.0
_IDLE = 2.0


class Port:
    """A published port."""

    def __init__(self, reactor: Reactor, sock: socket.socket, lifeline: socket.socket | None, target: Address | None) -> None:
        self._reactor = reactor
        self._sock = sock
        self._lifeline = lifeline
        self._passages: set[Passage] = set()
        self._resume = 0.0
        self.target = target
        sock.setblocking(False)
        self.flows = Flows(reactor, sock) if sock.type == socket.SOCK_DGRAM else None
        self._listen()

    def _listen(self) -> None:
        self._resume = 0.0
        self._reactor.watch(self._sock.fileno(), self._receive if self.flows else self._accept)

    def _receive(self) -> None:
        assert self.flows is not None
        self.flows.receive(self.target)

    def _accept(self) -> None:
        for _ in range(32):
            try:
                client, _ = self._sock.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._reactor.forget(self._sock.fileno())
                    self._resume = time.monotonic() + _PAUSE
                return
            if self.target is None:
                client.close()
                continue
            try:
                self._passages.add(Passage(self._reactor, client, self.target, self._passages.discard))
            except OSError:
                # The container's network has gone, or there is no descriptor left: the client has been told.
                pass

    def tick(self, now: float) -> float | None:
        """In how many seconds there is something to be done."""
        if self._resume and now >= self._resume:
            self._listen()
        if self._resume:
            return _PAUSE
        return _FLOW_CHECK if self.flows is not None and self.flows.expire(now) else None

    @property
    def busy(self) -> bool:
        """Whether connections are open."""
        return bool(self._passages)

    def close(self) -> None:
        """No further connections. Idempotent."""
        if self._sock.fileno() >= 0:
            self._reactor.forget(self._sock.fileno())
            self._sock.close()
        if self.flows:
            self.flows.close()
        if self._lifeline is not None and not self._passages:
            self._let_go()

    def _let_go(self) -> None:
        if self._lifeline is not None:
            self._reactor.forget(self._lifeline.fileno())
            self._lifeline.close()
            self._lifeline = None

    def watch_life(self, ended: Callable[[], None]) -> None:
        """Call `ended` when the container has."""
        if self._lifeline is not None:
            self._reactor.watch(self._lifeline.fileno(), ended)

    def is_over(self) -> bool:
        """Whether the container has ended. An event of a descriptor that had the same number a moment ago says nothing."""
        try:
            return self._lifeline is not None and not self._lifeline.recv(1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def end(self) -> None:
        """The container has ended: its connections too."""
        self.close()
        for passage in list(self._passages):
            passage.close()
        self._let_go()


class Proxy:
    """All state of the process."""

    def __init__(self, listener: socket.socket) -> None:
        self._reactor = Reactor()
        self._ports: dict[Name, Port] = {}
        self._between: set[Name] | None = None
        # Those that are closed and whose connections go on.
        self._retired: set[Port] = set()
        self._checked = 0.0
        self._idle_since = 0.0
        self._control = Control(self._reactor, listener, self._obey, lambda peer: None)

    def run(self) -> None:
        """Until told to quit."""
        self._reactor.run(self._tick)

    def _tick(self, now: float) -> float | None:
        # Looking at every port after each round would cost more than the round; what is left out now is done a little later.
        if now - self._checked < _PAUSE:
            return _PAUSE
        self._checked = now
        self._retired = {port for port in self._retired if port.busy}
        if not self._ports and not self._retired:
            self._idle_since = self._idle_since or now
            self._reactor.running = now < self._idle_since + _IDLE
            return _IDLE / 4
        self._idle_since = 0.0
        waits = [wait for port in list(self._ports.values()) if (wait := port.tick(now)) is not None]
        return min(waits, default=None)

    def _obey(self, _peer: int, message: dict[str, object], fds: Sequence[int]) -> tuple[int, ...]:
        """Carry out a message; the descriptors that are kept."""
        operation = message["op"]
        if operation == "begin":
            self._between = set()
        elif operation == "commit":
            for name in set(self._ports) - (self._between or set()):
                self._retire(name)
            self._between = None
        elif operation == "quit":
            self._reactor.running = False
        else:
            return self._port_message(str(operation), _name(message["port"]), message, fds)
        return ()

    def _port_message(self, operation: str, name: Name, message: dict[str, object], fds: Sequence[int]) -> tuple[int, ...]:
        if self._between is not None:
            self._between.add(name)
        known = self._ports.get(name)
        if operation == "serve":
            return self._serve(name, _target(message["target"]), fds)
        if operation == "drop":
            self._retire(name)
        elif operation in ("lead", "keep") and known is not None:
            known.target = _target(message["target"])
        return ()

    def _serve(self, name: Name, target: Address | None, fds: Sequence[int]) -> tuple[int, ...]:
        if len(fds) not in (1, 2):
            raise IndexError("descriptors")
        self._retire(name)
        lifeline = socket.socket(fileno=fds[1]) if len(fds) == 2 else None
        port = Port(self._reactor, socket.socket(fileno=fds[0]), lifeline, target)
        self._ports[name] = port
        port.watch_life(lambda: self._ended(name, port))
        return tuple(fds)

    def _retire(self, name: Name) -> None:
        port = self._ports.pop(name, None)
        if port is not None:
            port.close()
            self._retired.add(port)

    def _ended(self, name: Name, port: Port) -> None:
        if not port.is_over():
            return
        if self._ports.get(name) is port:
            del self._ports[name]
        port.end()


def _name(value: Any) -> Name:
    protocol, address, port = value
    return str(protocol), str(address), int(port)


def _target(value: Any) -> Address | None:
    if value is None:
        return None
    address, port = value
    return str(address), int(port)


def main(arguments: Sequence[str], fds: Sequence[int]) -> None:
    """Serve on the listening socket `fds[0]`."""
    proxy = Proxy(socket.socket(fileno=fds[0]))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    give_up_root()
    proxy.run()
