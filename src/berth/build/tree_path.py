"""Paths in trees that a worker holds open: following links, users by name, single files."""

from __future__ import annotations

from berth.contract.store import PathStat, Tree
from berth.errors import InvalidArgument, NotFound

_DIRECTORY = 1 << 31
_SYMLINK = 1 << 27
_LINKS = 40
_PASSWD_LIMIT = 4 * 1024 * 1024


def is_directory(stat: PathStat) -> bool:
    """By Go's mode bits."""
    return bool(stat.mode & _DIRECTORY)


def is_link(stat: PathStat) -> bool:
    """Whether it is a symbolic link."""
    return bool(stat.mode & _SYMLINK)


async def resolve(tree: Tree, path: str) -> tuple[str, PathStat] | None:
    """The absolute path with all links followed inside the tree, and its stat; None when it is not there."""
    done: list[str] = []
    todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    links = _LINKS
    stat = await _stat(tree, "/")
    while todo and stat is not None:
        part = todo.pop()
        if part == "..":
            del done[-1:]
            stat = await _stat(tree, "/" + "/".join(done))
            continue
        stat = await _stat(tree, "/" + "/".join([*done, part]))
        if stat is None:
            return None
        if stat.mode & _SYMLINK:
            links -= 1
            if links < 0:
                return None
            if stat.link_target.startswith("/"):
                done.clear()
            todo.extend(piece for piece in reversed(stat.link_target.split("/")) if piece not in ("", "."))
            if not todo:
                stat = await _stat(tree, "/" + "/".join(done))
            continue
        done.append(part)
    return ("/" + "/".join(done), stat) if stat is not None else None


async def _stat(tree: Tree, path: str) -> PathStat | None:
    try:
        return await tree.stat(path)
    except NotFound:
        return None


async def owner(tree: Tree, text: str) -> tuple[int, int]:
    """The ids that --chown means: user[:group], by number or by the tree's own passwd and group files. A user alone means
    the group of the same number."""
    user, colon, group = text.partition(":")
    uid = await _id(tree, user, "/etc/passwd", "user")
    return uid, await _id(tree, group, "/etc/group", "group") if colon and group else uid


async def _id(tree: Tree, name: str, path: str, what: str) -> int:
    if name.isascii() and name.isdigit():
        if int(name) > 2**32 - 2:
            raise InvalidArgument(f"the {what} id {name} is too large")
        return int(name)
    try:
        data = await tree.read_file(path, _PASSWD_LIMIT)
    except NotFound:
        data = b""
    for line in data.decode("utf-8", "surrogateescape").splitlines():
        fields = line.split(":")
        if len(fields) >= 3 and fields[0] == name and fields[2].isascii() and fields[2].isdigit():
            return int(fields[2])
    raise InvalidArgument(
        f"unable to convert uid/gid chown string to host mapping: can't find {what} {name!r} in {path} of the image"
    )
