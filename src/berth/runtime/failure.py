"""How a launch fails: one record (step, errno, path). Lean."""

from __future__ import annotations


class Failure(Exception):
    """`step` is what was being done, `errno` why it failed (0 when `path` is a sentence of its own), `path` with what."""

    def __init__(self, step: str, errno: int, path: str) -> None:
        super().__init__(step, errno, path)
        self.step = step
        self.errno = errno
        self.path = path


def record(step: str, error: BaseException) -> list[str | int]:
    """An exception as [step, errno, path]."""
    if isinstance(error, Failure):
        return [error.step, error.errno, error.path]
    if isinstance(error, OSError):
        return [step, error.errno or 0, os_path(error)]
    return [step, 0, f"{type(error).__name__}: {error}"]


def os_path(error: OSError) -> str:
    """The file name of an OSError as text; its message where there is none."""
    name = error.filename
    if isinstance(name, bytes):
        return name.decode(errors="replace")
    return str(name) if name is not None else str(error.strerror)
