"""`berth`: Docker's commands for berth, or for any other Docker engine.

The entry point: it has what must hold before anything else is imported, and turns what goes wrong into a line on stderr and
an exit code. Exit codes: 1 for an error that the user can act on, 125 for a wrong flag, 130 after Ctrl-C, 141 when the reader
of our output is gone; `run`, `create` and `exec` have Docker's own (125, 126, 127).
"""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import signal as _signal
else:
    # Without the names that `signal` makes of its numbers: they cost a millisecond.
    import _signal

# A command is over before a collection of the young generation would pay: importing alone would cause dozens of them.
_GARBAGE = 50_000


def main() -> None:
    """Run the command line and leave the process with its exit code."""
    gc.set_threshold(_GARBAGE)
    _hold_standard_streams()
    _hear_interrupts()
    try:
        code = _run()
        sys.stdout.flush()
    except BrokenPipeError:
        code = _reader_gone()
    except KeyboardInterrupt:
        code = _interrupted()
    except SystemExit as end:
        code = _leave(end)
    sys.exit(code)


def _run() -> int:
    from berth.errors import BerthError

    try:
        if sys.argv[1:] == ["version"]:
            from berth.cli.server_version import show_version

            show_version()
            return 0
        return _parse()
    except BerthError as error:
        return _say(f"berth: {error.message}", 1)
    except (BrokenPipeError, KeyboardInterrupt):
        raise
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        return _say(f"berth: {what}{(error.strerror or str(error)).lower()}", 1)
    except UnicodeError as error:
        return _say(f"berth: cannot print this text here: {error}: use a UTF-8 locale, such as LC_ALL=C.UTF-8", 1)
    except Exception as error:
        # The last resort of a program that talks to people: a traceback says nothing to them.
        if os.environ.get("BERTH_DEBUG"):
            raise
        text = f"{type(error).__name__}: {error}"
        return _say(f"berth: {text}: a bug, or what answers is not a Docker engine; BERTH_DEBUG=1 shows where", 1)


def _parse() -> int:
    import click

    from berth.cli.command import usage_failure
    from berth.cli.root import root

    try:
        result = root().main(args=_arguments(), prog_name="berth", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return 0
    except click.UsageError as error:
        text, code = usage_failure(error)
        return _say(text, code)
    except click.ClickException as error:
        return _say(f"berth: {error.format_message()}", 1)
    except click.Abort:
        return _interrupted()
    return result if isinstance(result, int) else 0


def _arguments() -> list[str]:
    """`berth help run` is `berth run --help`."""
    given = sys.argv[1:]
    return [*given[1:], "--help"] if given[:1] == ["help"] else given


def _say(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code


def _hold_standard_streams() -> None:
    """Descriptors 0, 1 and 2 that are closed become /dev/null, lest a socket takes their place."""
    for fd, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, mode)
    # A line of a file name or a label that is no UTF-8 is no reason to end.
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)


def _hear_interrupts() -> None:
    """A shell starts its background jobs with SIGINT ignored; `kill -INT` still ends an attached `up`, as with docker."""
    if _signal.getsignal(_signal.SIGINT) == _signal.SIG_IGN:
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)


def _leave(end: SystemExit) -> int:
    # click has met the broken pipe itself: it wraps the stream so that its last flush is silent.
    if "PacifyFlushWrapper" in type(sys.stdout).__name__:
        return _reader_gone()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _reader_gone()
    return end.code if isinstance(end.code, int) else 0 if end.code is None else 1


def _reader_gone() -> int:
    """The reader of our output went away (`berth ps | head -1`): nothing is left to say, nor to flush at the end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    return 141


def _interrupted() -> int:
    """Ctrl-C. A second one while Python ends would print a traceback."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        sys.stdout.flush()
    except OSError:
        _reader_gone()
    return 130
