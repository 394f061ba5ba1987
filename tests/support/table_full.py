"""The host's table of open files is full (ENFILE), for chosen processes: their system calls that open something are answered by
the test, through seccomp's user notification.

The limit itself (fs.file-max) cannot be shown on a real host: it does not count for CAP_SYS_ADMIN, so never for the engine, its
launcher and shims, and to lower it hurts everybody else. What is injected is what the kernel would answer, at the same place.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import socket
import struct
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# x86_64: what makes an entry in the table.
ACCEPTS = {43, 288}
OPENS = {2, 22, 41, 53, 257, 283, 284, 289, 290, 291, 293, 294, 319, 428, 430, 432, 434, 437}
_SECCOMP, _SET_FILTER, _NEW_LISTENER = 317, 1, 8
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_RECEIVE, _SEND, _CONTINUE = 0xC0502100, 0xC0182101, 1


class TableFull:
    """Stands behind an engine that was started with `prefix`. `with refusing(pid):` those processes get no files."""

    def __init__(self) -> None:
        self._directory = tempfile.mkdtemp(prefix="table-full-")
        path = f"{self._directory}/socket"
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(path)
        self._listening.listen()
        self.prefix = (sys.executable, "-m", "support.table_full", path)
        self.environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
        self._refused: frozenset[int] = frozenset()
        self._calls: frozenset[int] = frozenset()
        self.count = 0
        self._stop = os.pipe()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @contextmanager
    def refusing(self, *pids: int, accepts: bool = False) -> Iterator[None]:
        """Meanwhile, whatever these processes open is refused; with `accepts`, connections too."""
        self._calls, self._refused = frozenset(OPENS | ACCEPTS if accepts else OPENS), frozenset(pids)
        try:
            yield
        finally:
            self._refused = frozenset()

    def close(self) -> None:
        """Once the engine has ended."""
        os.write(self._stop[1], b"x")
        self._thread.join()
        for fd in self._stop:
            os.close(fd)
        self._listening.close()
        os.unlink(f"{self._directory}/socket")
        os.rmdir(self._directory)

    def _serve(self) -> None:
        notified: list[int] = []
        while True:
            ready = select.select([self._stop[0], self._listening, *notified], [], [])[0]
            if self._stop[0] in ready:
                break
            for source in ready:
                if source is self._listening:
                    connection, _ = self._listening.accept()
                    with connection:
                        notified += socket.recv_fds(connection, 1, 1)[1]
                elif isinstance(source, int) and not self._answer(source):
                    notified.remove(source)
                    os.close(source)
        for fd in notified:
            os.close(fd)

    def _answer(self, fd: int) -> bool:
        """False when nobody is left who could ask."""
        request = bytearray(80)
        try:
            fcntl.ioctl(fd, _RECEIVE, request)
        except OSError as error:
            # Who had asked has ended; or all have.
            waiting = select.poll()
            waiting.register(fd, select.POLLIN)
            return error.errno == errno.ENOENT and not any(events & select.POLLHUP for _, events in waiting.poll(0))
        number, task, _, call = struct.unpack_from("=QIIi", request)
        refuse = bool(self._refused) and call in self._calls and _process(task) in self._refused
        self.count += refuse
        answer = struct.pack("=QqiI", number, 0, -errno.ENFILE if refuse else 0, 0 if refuse else _CONTINUE)
        with suppress(FileNotFoundError):
            fcntl.ioctl(fd, _SEND, answer)
        return True


def _process(task: int) -> int:
    try:
        status = Path(f"/proc/{task}/status").read_text()
    except OSError:
        return 0
    return int(status.partition("Tgid:")[2].split(None, 1)[0])


def main() -> None:
    """`table_full SOCKET COMMAND...`: have the test asked from here on, and become the command."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(sys.argv[1])
    calls = sorted(OPENS | ACCEPTS)
    program = [(0x20, 0, 0, 0)]
    program += [(0x15, len(calls) - at, 0, call) for at, call in enumerate(calls)]
    program += [(0x06, 0, 0, _ALLOW), (0x06, 0, 0, _NOTIFY)]
    data = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    descriptor = ctypes.create_string_buffer(struct.pack("=H6xQ", len(program), ctypes.addressof(data)))
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(_SECCOMP, _SET_FILTER, _NEW_LISTENER, descriptor)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    socket.send_fds(connection, [b"x"], [fd])
    os.close(fd)
    connection.close()
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
