r"""The log of a container: Docker's json-file records, written by the shim.

    {"log":"a line\n","stream":"stdout","time":"2026-01-02T03:04:05.123456789Z"}
    {"log":"a line\n","stream":"stderr","attrs":{"key":"value"},"time":"..."}

One record per line; a line of more than 16 KiB is cut into several, of which only the last ends with "\n", so the records'
texts joined are the output. An unfinished line waits for its end (or that of the stream). All lines of one read get one
timestamp and are formatted at once: line by line in Python would be ten times slower.

Rotation: when the file has reached `max_size` it becomes path.1, path.1 becomes path.2 and so on, `max_files` in all; with
`compress` path.1 then becomes path.1.gz (logpress). On a full disk records are dropped whole and counted;
one record says so once there is space again. Lean code.
"""

from __future__ import annotations

import json
import os
import time
from _json import encode_basestring

from berth import failpoint
from berth.runtime import logpress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PIECE = 16384
# Stands for a newline while the text is escaped: a character that JSON leaves alone and that output hardly ever contains.
_MARK = "\x7f"
_ZEROS = bytes(PIECE)
_escaped: list[bytes] = []


def timestamp(now: int) -> str:
    """RFC 3339 with nanoseconds, from nanoseconds since the epoch."""
    seconds, nanoseconds = divmod(now, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds:09d}Z"


def _escaped_zeros(count: int) -> memoryview:
    """That many zeros as JSON has them. Made when the first are logged: most containers never do."""
    if not _escaped:
        _escaped.append(b"\\u0000" * PIECE)
    return memoryview(_escaped[0])[: 6 * count]


def records(block: bytes, stream: str, now: int, attributes: str = "") -> bytes:
    """The records of a block of output. It is cut at newlines; what follows the last one is a record without newline."""
    tail = f'","stream":"{stream}",{attributes}"time":"{timestamp(now)}"}}\n'
    if _ZEROS.startswith(block):
        # As devices and disk images have them in bulk: one by one they would cost the most of all.
        return b"".join((b'{"log":"', _escaped_zeros(len(block)), tail.encode()))
    text = block.decode("utf-8", "replace")
    lines, unfinished = (text[:-1], False) if text.endswith("\n") else (text, True)
    if _MARK in lines:
        escaped = [encode_basestring(line)[1:-1] for line in lines.split("\n")]
        body = ("\\n" + tail + '{"log":"').join(escaped)
    else:
        body = encode_basestring(lines.replace("\n", _MARK))[1:-1].replace(_MARK, "\\n" + tail + '{"log":"')
    return f'{{"log":"{body}{"" if unfinished else chr(92) + "n"}{tail}'.encode("utf-8", "replace")


def split(data: bytes) -> tuple[list[bytes], bytes]:
    """What is complete of the data, in blocks for `records`, and the unfinished rest (at most 16 KiB).

    Blocks end with a newline, or are 16 KiB of a longer line (less where that would cut a character).
    """
    blocks: list[bytes] = []
    start, size = 0, len(data)
    while start < size:
        newline = data.rfind(b"\n", start, start + PIECE)
        if newline >= 0:
            end = newline + 1
        elif size - start > PIECE:
            end = _character_boundary(data, start + PIECE)
        else:
            break
        blocks.append(data[start:end])
        start = end
    return blocks, data[start:]


def _character_boundary(data: bytes, end: int) -> int:
    for back in range(4):
        if data[end - back] & 0xC0 != 0x80:
            return end - back
    return end


class LogFile:
    """Writes one container's log. The file is opened when it is made; OSError if that fails."""

    def __init__(
        self, path: str, max_size: int = 0, max_files: int = 1, attributes: dict[str, str] | None = None, compress: bool = False
    ) -> None:
        self._path = path
        self._max_size = max_size
        self._max_files = max(1, max_files)
        self._compress = compress
        self._compressing = -1
        self._attributes = f'"attrs":{json.dumps(attributes, separators=(",", ":"), sort_keys=True)},' if attributes else ""
        self._rest: dict[str, bytes] = {}
        self._lost = 0
        self._reason = ""
        self._fd = -1
        self._size = 0
        self._open()

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._size = os.fstat(self._fd).st_size
        # A log that cannot be read any more can perhaps be written; it is no reason not to run.
        try:
            self._drop_torn_record()
        except OSError:
            pass

    def _drop_torn_record(self) -> None:
        """A writer that was killed may have left half a record at the end: readers would not understand the line."""
        if self._size == 0:
            return
        with open(self._path, "rb") as file:
            start = max(0, self._size - 256 * 1024)
            file.seek(start)
            whole = file.read().rfind(b"\n") + 1
        if (whole or start == 0) and start + whole < self._size:
            self._size = start + whole
            os.ftruncate(self._fd, self._size)

    @property
    def lost(self) -> int:
        """Bytes of output that could not be written since the last report in the log."""
        return self._lost

    def write(self, stream: str, data: bytes) -> None:
        """Log a read of a stream. Never raises for a disk that is full."""
        now = time.time_ns()
        rest = self._rest.get(stream)
        blocks, self._rest[stream] = split(rest + data if rest else data)
        for block in blocks:
            self._put(records(block, stream, now, self._attributes), len(block))

    def finish(self, stream: str) -> None:
        """The stream has ended: log its unfinished line."""
        rest = self._rest.pop(stream, b"")
        if rest:
            self._put(records(rest, stream, time.time_ns(), self._attributes), len(rest))

    def close(self) -> None:
        """Log what is unfinished and close the file."""
        for stream in list(self._rest):
            self.finish(stream)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._await_compression()

    def rotate(self) -> None:
        """Begin a new file now; the old one is the newest of the rotated, or is gone where only one is kept."""
        if self._size:
            self._rotate()

    def _put(self, block: bytes, raw: int) -> None:
        if self._lost and not self._report():
            self._lost += raw
            return
        while block:
            room = self._max_size - self._size
            if self._max_size and room <= 0:
                self._rotate()
                room = max(1, self._max_size - self._size)
            # A record begins when there is room left, so a file is at most one record longer than max_size.
            cut = len(block) if not self._max_size or len(block) <= room else block.index(b"\n", room - 1) + 1
            part, rest = block[:cut], block[cut:]
            error = self._append(part)
            if error:
                self._lost += raw if not rest and raw else _content(block)
                self._reason = error
                return
            block, raw = rest, 0

    def _append(self, block: bytes) -> str:
        """Write whole records, or none of them; the reason when that fails."""
        view = memoryview(block)
        done = 0
        try:
            if self._fd < 0:
                self._open()
            while done < len(block):
                done += os.write(self._fd, view[done:])
        except OSError as error:
            if done:
                # Cutting a file needs no space. What is left would be half a record.
                os.ftruncate(self._fd, self._size)
            return error.strerror or str(error)
        self._size += done
        return ""

    def _report(self) -> bool:
        text = f"berth: {self._lost} bytes of output were lost here, the log could not be written: {self._reason}\n"
        if self._append(records(text.encode(), "stderr", time.time_ns(), self._attributes)):
            return False
        self._lost = 0
        return True

    def _rotate(self) -> None:
        try:
            if self._max_files == 1:
                os.ftruncate(self._fd, 0)
                self._size = 0
                return
            self._await_compression()
            failpoint.hit("log.rotate.before-rename")
            for number in range(self._max_files - 1, 0, -1):
                self._shift(number)
            failpoint.hit("log.rotate.after-rename")
            os.close(self._fd)
            self._fd = -1
            self._open()
            if self._compress:
                self._compressing = logpress.begin(f"{self._path}.1")
        except OSError as error:
            # Goes on in the old file, or counts as lost until a new one can be made; the next record tries again.
            self._reason = error.strerror or str(error)

    def _shift(self, number: int) -> None:
        """The file before `number` becomes that one, compressed or not. Readers prefer the plain one while there are both."""
        target, source = f"{self._path}.{number}", f"{self._path}.{number - 1}" if number > 1 else self._path
        moved = [end for end in ("", ".gz") if _moves(os.rename, source + end, target + end)]
        if moved == [""]:
            _moves(os.unlink, f"{target}.gz")
        elif moved == [".gz"]:
            _moves(os.unlink, target)

    def _await_compression(self) -> None:
        if self._compressing >= 0:
            done, self._compressing = self._compressing, -1
            logpress.await_end(done)


def _moves(call: Callable[..., None], *paths: str) -> bool:
    """Whether there was a file to rename or to remove."""
    try:
        call(*paths)
    except FileNotFoundError:
        return False
    return True


def _content(block: bytes) -> int:
    """Bytes of output in formatted records."""
    return sum(len(json.loads(line)["log"].encode()) for line in block.splitlines())
