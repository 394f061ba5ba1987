"""Exit codes as a shell and Docker count them. Pure."""

from __future__ import annotations

import os
from errno import EACCES, EISDIR, ENOENT, ENOEXEC, ENOTDIR


def code_of_status(status: int) -> int:
    """A wait status: the code, or 128 + signal."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def code_of_failure(step: str, errno: int) -> int:
    """A launch that failed: 127 for a missing program, 126 for one that cannot be executed, else 125."""
    if step == "execve" and errno in (ENOENT, ENOTDIR):
        return 127
    if step == "execve" and errno in (EACCES, EISDIR, ENOEXEC):
        return 126
    return 125
