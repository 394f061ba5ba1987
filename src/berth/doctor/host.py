"""The machine as checks see it: files below a directory, programs, file systems. Nothing here changes anything.

Tests lay out a machine of their own below a directory and give it as `top`.
"""

from __future__ import annotations

import grp
import os
import pwd
import subprocess

_TOOL_SECONDS = 20.0


class Host:
    """This machine. What cannot be read is None, or empty: each check says what that means."""

    def __init__(self, top: str = "") -> None:
        self._top = top

    def path(self, path: str) -> str:
        """Where an absolute path of the machine really is."""
        return self._top + path

    def text(self, path: str) -> str | None:
        """The file's content without the last line end."""
        try:
            with open(self.path(path), encoding="utf-8", errors="replace") as file:
                return file.read().rstrip("\n")
        except OSError:
            return None

    def number(self, path: str) -> int | None:
        """The first number in the file."""
        words = (self.text(path) or "").split()
        return int(words[0]) if words and words[0].lstrip("-").isdigit() else None

    def exists(self, path: str) -> bool:
        """Whether there is something at the path."""
        return os.path.lexists(self.path(path))

    def names(self, path: str) -> list[str]:
        """A directory's entries, sorted."""
        try:
            return sorted(os.listdir(self.path(path)))
        except OSError:
            return []

    def status(self, path: str) -> os.stat_result | None:
        """stat(2), links followed."""
        try:
            return os.stat(self.path(path))
        except OSError:
            return None

    def space(self, path: str) -> os.statvfs_result | None:
        """statvfs(3) of the file system that holds the path."""
        try:
            return os.statvfs(self.path(path))
        except OSError:
            return None

    def is_root(self) -> bool:
        """Whether the doctor may see what only root may."""
        return os.geteuid() == 0

    def user(self, uid: int) -> str:
        """A user's name, else the number."""
        try:
            return pwd.getpwuid(uid).pw_name
        except KeyError:
            return str(uid)

    def group(self, gid: int) -> str:
        """A group's name, else the number."""
        try:
            return grp.getgrgid(gid).gr_name
        except KeyError:
            return str(gid)

    def members(self, group: str) -> list[str]:
        """Who is in a group besides those whose main group it is."""
        try:
            return sorted(grp.getgrnam(group).gr_mem)
        except KeyError:
            return []

    def output(self, *command: str) -> str | None:
        """What a program prints; None when it is not installed, fails or does not end."""
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TOOL_SECONDS, check=False, cwd="/"
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.decode(errors="replace") if done.returncode == 0 else None

    def programs(self) -> set[str]:
        """The names of all running programs (comm), as far as they are seen."""
        found = (self.text(f"/proc/{entry}/comm") for entry in self.names("/proc") if entry.isdigit())
        return {name for name in found if name}
