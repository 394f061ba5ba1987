"""Users and groups of the container, read from its own /etc/passwd and /etc/group after its root has become ours.

Lean. The files belong to the image: they may be missing, huge, a FIFO or a link. Nothing here blocks, follows a name
service or reads more than a few megabytes. Links stay inside, since the root is the container's by then.
"""

from __future__ import annotations

import errno
import os

from berth.kernel.fs import naming

LIMIT = 4 << 20
MAXIMUM_ID = (1 << 31) - 1


class UnknownAccount(Exception):
    """A user or group that cannot be resolved; the text is Docker's."""


class Account:
    """What a user specification comes to."""

    def __init__(self, uid: int, gid: int, groups: list[int], home: str) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.home = home


def read_bounded(path: str) -> list[list[str]]:
    """The lines of a colon separated file; none when it is missing. OSError when it is no plain file or too large."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return []
    try:
        status = os.fstat(fd)
        if status.st_mode & 0o170000 != 0o100000:
            raise OSError(errno.EINVAL, "not a regular file", path)
        if status.st_size > LIMIT:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
        parts = []
        room = LIMIT
        with naming(path):
            while room and (part := os.read(fd, min(room, 65536))):
                parts.append(part)
                room -= len(part)
    finally:
        os.close(fd)
    text = b"".join(parts).decode(errors="replace")
    return [line.split(":") for line in text.splitlines() if line and not line.startswith("#")]


def number(text: str) -> int | None:
    """A decimal id; None for anything that is not plainly digits. UnknownAccount when it is out of range."""
    digits = text.removeprefix("-")
    if not digits.isascii() or not digits.isdigit():
        return None
    value = int(text) if len(text) < 11 and digits == text else MAXIMUM_ID + 1
    if value > MAXIMUM_ID:
        raise UnknownAccount(f"uids and gids must be in range 0-{MAXIMUM_ID}")
    return value


def _field(row: list[str], index: int) -> str:
    return row[index] if index < len(row) else ""


def _id(row: list[str], index: int) -> int:
    text = _field(row, index)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 11 and int(text) <= MAXIMUM_ID else -1


def resolve(user: str, extra: list[str], passwd: str = "/etc/passwd", group: str = "/etc/group") -> Account:
    """`user` is "", name, uid, and optionally ":group" or ":gid"; `extra` are further groups by name or number.

    Without a group it is the user's own, and the user gets the supplementary groups that list it by name.
    """
    name, _, group_name = user.partition(":")
    users = read_bounded(passwd)
    uid, gid, home, login = _user(name, users)
    groups: list[int] = []
    rows: list[list[str]] = []
    if group_name or extra or login:
        rows = read_bounded(group)
    if group_name:
        gid = _group(group_name, rows)
    elif login:
        groups = [_id(row, 2) for row in rows if login in _field(row, 3).split(",")]
    for item in extra:
        groups.append(_group(item, rows, "Unable"))
    # The primary group is one of them: a file that denies its group must not be open to who merely lacks it (CVE-2022-36109).
    unique = list(dict.fromkeys([gid, *(g for g in groups if g >= 0)]))
    return Account(uid, gid, unique, home)


def _user(name: str, users: list[list[str]]) -> tuple[int, int, str, str]:
    # A number is a number, also where an image has an account of that name: `--user 1000` must not come out as root.
    wanted = number(name) if name else 0
    for row in users:
        uid = _id(row, 2)
        if uid >= 0 and (row[0] == name if wanted is None else uid == wanted):
            return uid, max(_id(row, 3), 0), _field(row, 5) or "/", row[0]
    if wanted is None:
        raise UnknownAccount(f"unable to find user {name}: no matching entries in passwd file")
    return wanted, 0, "/" if wanted else "/root", ""


def _group(name: str, rows: list[list[str]], unable: str = "unable") -> int:
    wanted = number(name)
    for row in rows:
        gid = _id(row, 2)
        if gid >= 0 and (row[0] == name if wanted is None else gid == wanted):
            return gid
    if wanted is None:
        raise UnknownAccount(f"{unable} to find group {name}: no matching entries in group file")
    return wanted
