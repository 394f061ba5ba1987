"""What a command has to say besides its result: to the file of --log, where engines look for it, and to standard error."""

from __future__ import annotations

import os
import sys
from time import gmtime, strftime

from berth.runtime.oci import jsontext


class Journal:
    """As runc writes it: `log` is a file or empty, `form` is text or json. `debug` shows what debug() is told."""

    def __init__(self, log: str, form: str, debug: bool) -> None:
        self._form = form
        self._debug = debug
        self._file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644) if log else -1

    def error(self, message: str) -> None:
        """Why the command failed."""
        self._write("error", message)
        if self._file >= 0:
            sys.stderr.write(message + "\n")

    def warning(self, message: str) -> None:
        """What went wrong without being a reason to fail."""
        self._write("warning", message)

    def debug(self, message: str) -> None:
        """What is being done."""
        if self._debug:
            self._write("debug", message)

    def _write(self, level: str, message: str) -> None:
        when = strftime("%Y-%m-%dT%H:%M:%SZ", gmtime())
        if self._form == "json":
            line = jsontext.encode({"level": level, "msg": message, "time": when})
        else:
            line = f'time="{when}" level={level} msg={jsontext.encode(message)}'
        if self._file >= 0:
            os.write(self._file, (line + "\n").encode())
        else:
            sys.stderr.write(line + "\n")
