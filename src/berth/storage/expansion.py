"""The worker that undoes a compression: a process that has a stream, a place to write to, and nothing else.

    worker -> engine   {"ok": null} when it is confined, then {"ok": null} or {"error": {"kind", "message"}} at the end

on the control socket. Decompressors are C code that reads what anybody may have written; whoever takes one over is in an
empty root, without rights, and cannot open, connect to, signal or start anything (`kernel.confine`).
"""

from __future__ import annotations

import json
import os

from berth.errors import BerthError, DataLoss, ResourceExhausted
from berth.kernel.confine import confine
from berth.kernel.fs import write_all
from berth.storage.compression import expand

# Just behind the ids that containers get: nobody else's.
IDENTITY = 2_147_352_576
MEMORY = 1 << 30
RATIO_COUNTS_FROM = 4 << 30
_PIECE = 1 << 18


def run(control: int, source: int, sink: int, ratio: int, limit: int) -> None:
    """Expand what `source` gives into `sink`. At most `limit` bytes, and at most `ratio` for each compressed byte once there
    are more than 4 GiB; 0 is no limit."""
    confine(IDENTITY, MEMORY, (control, source, sink))
    os.write(control, b'{"ok": null}')
    try:
        _pump(source, sink, ratio, limit)
        answer: dict[str, object] = {"ok": None}
    except BerthError as error:
        answer = {"error": {"kind": type(error).__name__, "message": error.message}}
    except MemoryError:
        answer = {"error": {"kind": DataLoss.__name__, "message": f"it takes more than {MEMORY >> 20} MiB to expand it"}}
    except BrokenPipeError:
        # Whoever asked has gone.
        return
    os.close(sink)
    os.write(control, json.dumps(answer).encode())


def _pump(source: int, sink: int, ratio: int, limit: int) -> None:
    taken = given = 0

    def consumed(count: int) -> None:
        nonlocal taken
        taken = count

    for piece in expand(lambda: os.read(source, _PIECE), consumed):
        given += len(piece)
        if limit and given > limit:
            raise ResourceExhausted(f"it expands to more than {limit} bytes (berthd --expansion-limit)")
        if ratio and given > RATIO_COUNTS_FROM and given > taken * ratio:
            raise ResourceExhausted(f"it expands to more than {ratio} times its size (berthd --expansion-ratio)")
        write_all(sink, piece)
