"""Whom copied files shall belong to (`cp`): a user and a group by name or number, looked up where the files go.

Names of a container are those of its own /etc/passwd and /etc/group, which are read over the API and only taken apart here;
so it works with any engine.
"""

from __future__ import annotations

import grp
import os
import pwd
import tarfile
from collections.abc import Iterator
from typing import IO, NamedTuple

from berth.cli.pieces import PieceReader
from berth.client.engine import Engine
from berth.errors import InvalidArgument, NotFound

_LIMIT = 1 << 20
_HIGHEST = 0x7FFFFFFF


class Owner(NamedTuple):
    """Numbers."""

    uid: int
    gid: int


def of_container(target: Engine, container: str, text: str, *, same_group: bool = True) -> Owner:
    """USER[:GROUP] as the container knows them; without a group the user's own. A number that no user has gets the group of the
    same number, as with COPY --chown, or without `same_group` that of root, as a process does."""
    user, colon, group = text.partition(":")
    passwd = _table(target, container, "/etc/passwd")
    entry = next((line for line in passwd if len(line) > 3 and user in (line[0], line[2])), None)
    uid = _number(user, "user") if user.isdigit() else None
    if uid is None:
        if entry is None:
            raise InvalidArgument(f"unable to find user {user}: no matching entries in the container's passwd file")
        uid = _number(entry[2], "user")
    if not colon:
        return Owner(uid, _number(entry[3], "group") if entry is not None else uid if same_group else 0)
    if group.isdigit():
        return Owner(uid, _number(group, "group"))
    found = next((line for line in _table(target, container, "/etc/group") if len(line) > 2 and line[0] == group), None)
    if found is None:
        raise InvalidArgument(f"unable to find group {group}: no matching entries in the container's group file")
    return Owner(uid, _number(found[2], "group"))


def of_host(text: str) -> Owner:
    """USER[:GROUP] as this machine knows them."""
    user, colon, group = text.partition(":")
    try:
        if user.isdigit():
            uid = gid = _number(user, "user")
        else:
            uid, gid = pwd.getpwnam(user)[2:4]
        if colon:
            gid = _number(group, "group") if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise InvalidArgument(f"--chown {text}: {error.args[0]}") from None
    return Owner(uid, gid)


def _number(text: str, kind: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > _HIGHEST:
        raise InvalidArgument(f"{kind} id {text} is out of range: the highest is {_HIGHEST}")
    return int(text)


def _table(target: Engine, container: str, path: str) -> list[list[str]]:
    try:
        _, response = target.containers.get_archive(container, path)
    except NotFound as error:
        if error.message.startswith("No such container"):
            raise
        return []
    with tarfile.open(fileobj=PieceReader(iter(response)), mode="r|") as tar:  # type: ignore[call-overload]  # reads only, as a stream needs
        for member in tar:
            content = tar.extractfile(member)
            if member.isreg() and content is not None:
                text = content.read(_LIMIT).decode("utf-8", "replace")
                return [line.split(":") for line in text.splitlines()]
    return []


def rewritten(pieces: Iterator[bytes], owner: Owner, out: IO[bytes]) -> None:
    """A tar with another owner for all that is in it."""
    with (
        tarfile.open(fileobj=PieceReader(pieces), mode="r|") as source,  # type: ignore[call-overload]  # reads only, as a stream needs
        tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as target,
    ):
        for member in source:
            given(member, owner)
            target.addfile(member, source.extractfile(member) if member.isreg() else None)


def given(member: tarfile.TarInfo, owner: Owner) -> tarfile.TarInfo:
    """The member with another owner: numbers only, since names may mean others where it is unpacked."""
    member.uid, member.gid = owner
    member.uname = member.gname = ""
    member.pax_headers = {key: text for key, text in member.pax_headers.items() if key not in ("uid", "gid", "uname", "gname")}
    return member


def check_may_give(owner: Owner) -> None:
    """Only root gives files away. InvalidArgument."""
    if os.geteuid() != 0 and (owner.uid != os.geteuid() or owner.gid not in {os.getegid(), *os.getgroups()}):
        raise InvalidArgument("--chown gives files to another user of this machine, which only root may: use sudo")
