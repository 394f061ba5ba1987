"""Unpack a container's tar on the user's machine. The content is the container's, so nothing in it is trusted.

Every directory on the way to a member is opened by its parent's descriptor and never through a symbolic link, so no member
can land outside the folder, whatever links came before it. Devices are left out, as are set-id bits without `archive`.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from berth.errors import InvalidArgument

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
Rename = Callable[[str], str]


def _parts(name: str) -> list[str]:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidArgument(f"the container's archive names {name!r}, which leaves the destination: refused")
    return parts


@contextmanager
def _parent(root: int, parts: list[str]) -> Iterator[int]:
    """The descriptor of the directory that holds the member; missing ones are made."""
    fd = os.dup(root)
    try:
        for part in parts[:-1]:
            try:
                os.mkdir(part, 0o755, dir_fd=fd)
            except FileExistsError:
                pass
            try:
                deeper = os.open(part, _DIRECTORY, dir_fd=fd)
            except OSError as error:
                raise InvalidArgument(f"cannot write below {'/'.join(parts[:-1])}: {part} is not a directory") from error
            os.close(fd)
            fd = deeper
        yield fd
    finally:
        os.close(fd)


def _remove(name: str, fd: int) -> None:
    try:
        os.unlink(name, dir_fd=fd)
    except FileNotFoundError:
        pass
    except IsADirectoryError as error:
        raise InvalidArgument(f"cannot overwrite directory {name} with a file") from error


def unpack(tar: tarfile.TarFile, folder: str, rename: Rename, *, archive: bool, owner: tuple[int, int] | None = None) -> None:
    """Unpack below the existing `folder`. `rename` gives each member's new name; `archive` keeps owners and all mode bits;
    `owner` is (uid, gid) to give all of it to."""
    root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    times: list[tuple[list[str], float]] = []
    try:
        for member in tar:
            if owner is not None:
                member.uid, member.gid = owner
            parts = _parts(rename(member.name))
            if member.isdir():
                _directory(root, parts, member, archive, owner is not None)
                times.append((parts, member.mtime))
            elif parts:
                _other(tar, root, parts, member, rename, archive, owner is not None)
        for parts, mtime in reversed(times):
            with _parent(root, [*parts, ""]) as fd:
                os.utime(fd, (mtime, mtime))
    finally:
        os.close(root)


def _owner_and_mode(fd: int, member: tarfile.TarInfo, archive: bool, given: bool) -> None:
    if given or (archive and os.geteuid() == 0):
        os.chown(fd, member.uid, member.gid)
    os.chmod(fd, member.mode & (0o7777 if archive else 0o777))


def _directory(root: int, parts: list[str], member: tarfile.TarInfo, archive: bool, given: bool) -> None:
    if parts:
        with _parent(root, [*parts, ""]) as fd:
            _owner_and_mode(fd, member, archive, given)


def _other(
    tar: tarfile.TarFile, root: int, parts: list[str], member: tarfile.TarInfo, rename: Rename, archive: bool, given: bool
) -> None:
    name = parts[-1]
    with _parent(root, parts) as fd:
        if member.issym():
            _remove(name, fd)
            os.symlink(member.linkname, name, dir_fd=fd)
            if given or (archive and os.geteuid() == 0):
                os.chown(name, member.uid, member.gid, dir_fd=fd, follow_symlinks=False)
        elif member.islnk():
            target = _parts(rename(member.linkname))
            with _parent(root, target) as source:
                _remove(name, fd)
                os.link(target[-1], name, src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)
        elif member.isreg():
            _remove(name, fd)
            _file(tar, fd, name, member, archive, given)
        elif member.isfifo():
            _remove(name, fd)
            os.mkfifo(name, member.mode & 0o777, dir_fd=fd)


def _file(tar: tarfile.TarFile, parent: int, name: str, member: tarfile.TarInfo, archive: bool, given: bool) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
    content = tar.extractfile(member)
    with open(fd, "wb") as out:
        if content is not None:
            shutil.copyfileobj(content, out, 1 << 17)
        out.flush()
        _owner_and_mode(fd, member, archive, given)
        os.utime(fd, (member.mtime, member.mtime))
