"""What a worker does in its tree. Each operation gets the tree, the descriptors that came along, and its own arguments."""

from __future__ import annotations

import ctypes
import os
import posixpath
import socket
import stat
import time

from berth.errors import DataLoss, InvalidArgument, NotFound
from berth.kernel.libc import check, libc
from berth.kernel.paths import make_directories_in_root, open_in_root
from berth.storage.copy import Treatment, copy_entry, copy_tree
from berth.storage.pack import pack_single, pack_tree
from berth.storage.tar_reader import Source, TarReader
from berth.storage.tree_entry import Entered, path_in
from berth.storage.unpack import Unpacker
from berth.storage.walk import Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

_PIECE = 1 << 18
_ACCOUNTS_LIMIT = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY

# Filesystems whose files are not content: they are passed over when a directory above them is copied.
_PSEUDO = frozenset(
    (
        0x9FA0,  # proc
        0x62656572,  # sysfs
        0x27E0EB,  # cgroup
        0x63677270,  # cgroup2
        0x1CD1,  # devpts
        0x19800202,  # mqueue
        0x73636673,  # securityfs
        0x64626720,  # debugfs
        0x74726163,  # tracefs
        0xCAFE4A11,  # bpf
    )
)

# Go's os.FileMode, as the API shows modes.
_GO_KINDS = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
}
_GO_BITS = {stat.S_ISUID: 1 << 23, stat.S_ISGID: 1 << 22, stat.S_ISVTX: 1 << 20}


class _Asked:
    """A path as Docker reads it: cleaned, and followed at its end only if it ends with `/` or `/.`."""

    __slots__ = ("base", "clean", "directory", "follow")

    def __init__(self, path: str) -> None:
        if "\0" in path:
            raise InvalidArgument("a path may not contain a NUL byte")
        self.clean = posixpath.normpath("/" + path.lstrip("/"))
        dot = path.endswith("/.") or path == "."
        self.directory = dot or path.endswith("/")
        self.follow = self.directory or self.clean == "/"
        self.base = "." if dot else posixpath.basename(self.clean) or "/"

    def open(self, tree: Entered) -> int:
        """An O_PATH descriptor. NotFound; InvalidArgument when it ends like a directory and is none."""
        try:
            fd = open_in_root(tree.root, os.fsencode(self.clean), os.O_PATH | (0 if self.follow else os.O_NOFOLLOW))
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"no such file or directory: {self.clean}") from None
        if self.directory and not stat.S_ISDIR(os.fstat(fd).st_mode):
            os.close(fd)
            raise InvalidArgument(f"{self.clean} is not a directory: leave out the slash at its end")
        return fd


def go_mode(mode: int) -> int:
    """A stat mode as Go's os.FileMode."""
    bits = sum(go for bit, go in _GO_BITS.items() if mode & bit)
    return (mode & 0o777) | bits | _GO_KINDS.get(stat.S_IFMT(mode), 0)


def rfc3339(nanoseconds: int) -> str:
    """A time in UTC with as many digits as it needs."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    # Go's time has years up to 9999 in this form; a file may claim more.
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(min(max(seconds, -62_135_596_800), 253_402_300_799)))
    return f"{text}.{fraction:09d}".rstrip("0").rstrip(".") + "Z"


def path_stat(tree: Entered, fds: list[int], path: str) -> dict[str, Any]:
    """The fields of PathStat. A link's target is where it leads, absolute in the tree."""
    asked = _Asked(path)
    fd = asked.open(tree)
    try:
        status = os.fstat(fd)
        link = _target(tree, asked.clean, fd) if stat.S_ISLNK(status.st_mode) else ""
    finally:
        os.close(fd)
    return {
        "name": asked.base,
        "size": status.st_size,
        "mode": go_mode(status.st_mode),
        "mtime": rfc3339(status.st_mtime_ns),
        "linkTarget": link,
    }


def _target(tree: Entered, path: str, link: int) -> str:
    try:
        fd = open_in_root(tree.root, os.fsencode(path), os.O_PATH)
    except OSError:
        text = os.fsdecode(os.readlink(b"", dir_fd=link))
        return posixpath.normpath(posixpath.join("/", posixpath.dirname(path), text))
    try:
        return "/" + os.fsdecode(path_in(tree.root, fd))
    finally:
        os.close(fd)


def get(tree: Entered, fds: list[int], path: str) -> None:
    """A tar of the path, its names below the base name, to the socket."""
    asked = _Asked(path)
    fd = asked.open(tree)
    try:
        with socket.socket(fileno=os.dup(fds[0])) as sink:
            status = os.fstat(fd)
            base = os.fsencode(asked.base)
            if not stat.S_ISDIR(status.st_mode):
                pack_single(Entry(b"", fd, status), base, sink.sendall, tree.inside)
                return
            top = os.open(b".", _DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
            try:
                prefix = base.rstrip(b"/") + b"/"
                pack_tree(top, b"", sink.sendall, lambda name: prefix + name, tree.inside, _is_content)
            finally:
                os.close(top)
    finally:
        os.close(fd)


def export(tree: Entered, fds: list[int]) -> None:
    """A tar of everything to the socket, names from the root on; the root itself is no member."""
    with socket.socket(fileno=os.dup(fds[0])) as sink:
        pack_tree(tree.root, b"", sink.sendall, lambda name: name, tree.inside, _is_content)


def _is_content(entry: Entry) -> bool:
    return not entry.path or _filesystem(entry.fd) not in _PSEUDO


def _filesystem(fd: int) -> int:
    """The magic number of the filesystem; os.statvfs does not tell it."""
    buffer = ctypes.create_string_buffer(256)
    check(libc.fstatfs(fd, buffer), "fstatfs")
    return int.from_bytes(buffer.raw[:4], "little")


def put(tree: Entered, fds: list[int], path: str, strict: bool, exact: bool) -> None:
    """Unpack the stream from the socket, a plain tar, into an existing directory. `exact`: nothing gets another's owner."""
    asked = _Asked(path)
    try:
        base = open_in_root(tree.root, os.fsencode(asked.clean), os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"no such directory: {asked.clean}") from None
    try:
        if not stat.S_ISDIR(os.fstat(base).st_mode):
            raise InvalidArgument("extraction point is not a directory")
    finally:
        os.close(base)
    with socket.socket(fileno=os.dup(fds[0])) as source:
        try:
            with Unpacker(
                tree.root,
                os.fsencode(asked.clean),
                strict=strict,
                owner=tree.exact if exact else tree.outside,
                set_capability=tree.set_capability,
            ) as unpacker:
                unpacker.run(TarReader(Source(lambda: source.recv(_PIECE))))
            while source.recv(_PIECE):
                # What follows the archive is read, so that the sender is not held up.
                pass
        except DataLoss as error:
            # Nothing of ours was lost: the client sent it.
            raise InvalidArgument(f"invalid archive: {error.message}") from error


def make_directories(tree: Entered, fds: list[int], path: str, uid: int, gid: int, mode: int) -> None:
    """Like mkdir -p; what is made gets the owner and mode."""
    parts = _Asked(path).clean.strip("/").split("/")
    for count in range(1, len(parts) + 1):
        prefix = os.fsencode("/".join(parts[:count]))
        try:
            os.close(open_in_root(tree.root, prefix, os.O_PATH | os.O_DIRECTORY))
        except FileNotFoundError:
            fd = make_directories_in_root(tree.root, prefix, 0o755)
            try:
                os.chown(f"/proc/self/fd/{fd}", *tree.outside(uid, gid))
                os.chmod(f"/proc/self/fd/{fd}", mode)
            finally:
                os.close(fd)


def read_file(tree: Entered, fds: list[int], path: str, limit: int) -> None:
    """The first bytes of a regular file to the socket."""
    data = _read(tree, path, limit)
    with socket.socket(fileno=os.dup(fds[0])) as sink:
        sink.sendall(data)


def _read(tree: Entered, path: str, limit: int) -> bytes:
    """A FIFO, a device or a directory is never opened: only looked at."""
    try:
        fd = open_in_root(tree.root, os.fsencode(path), os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"no such file or directory: {path}") from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidArgument(f"{path} is not a regular file")
        file = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(fd)
    try:
        parts = []
        while limit > 0 and (piece := os.read(file, min(limit, _PIECE))):
            parts.append(piece)
            limit -= len(piece)
        return b"".join(parts)
    finally:
        os.close(file)


def copy_out(tree: Entered, fds: list[int], path: str) -> bool:
    """Copy a directory's content and look into the host's directory that came along."""
    try:
        source = open_in_root(tree.root, os.fsencode(path), _DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        # A path-only descriptor was sent: it cannot be read or given attributes.
        destination = os.open(b".", _DIRECTORY | os.O_CLOEXEC, dir_fd=fds[0])
        try:
            copy_tree(source, b"", destination, Treatment(owner=tree.inside, enter=_is_content))
        finally:
            os.close(destination)
    finally:
        os.close(source)
    return True


def copy_in(
    tree: Entered,
    fds: list[int],
    sources: list[tuple[int, str]],
    destination: str,
    owner: str,
    chmod: int | None,
    destination_is_directory: bool,
) -> None:
    """COPY: each source is (number of the descriptor of its root, path below it)."""
    uid, gid = tree.outside(*_owner(tree, owner))
    mode = (lambda _: chmod) if chmod is not None else (lambda mode: mode)
    treatment = Treatment(owner=lambda *_: (uid, gid), mode=mode, top=False)
    asked = _Asked(destination)
    into = destination_is_directory or len(sources) > 1 or asked.follow or _is_directory(tree, asked.clean)
    for number, path in sources:
        _copy_source(tree, fds[number], path, asked.clean, into, treatment)


def _copy_source(tree: Entered, root: int, path: str, target: str, into: bool, treatment: Treatment) -> None:
    try:
        fd = open_in_root(root, os.fsencode(path), os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"no such file or directory: {path}") from None
    try:
        entry = Entry(b"", fd, os.fstat(fd))
        if stat.S_ISDIR(entry.status.st_mode):
            top = os.open(b".", _DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
            try:
                _into(tree, target, treatment, lambda parent: copy_tree(top, b"", parent, treatment))
            finally:
                os.close(top)
            return
        name = posixpath.basename(posixpath.normpath(path)) if into else posixpath.basename(target)
        directory = target if into else posixpath.dirname(target)
        _into(tree, directory, treatment, lambda parent: copy_entry(entry, parent, os.fsencode(name), treatment))
    finally:
        os.close(fd)


def _into(tree: Entered, directory: str, treatment: Treatment, copy: Callable[[int], None]) -> None:
    """Open a directory of the tree, made if it is missing, and copy into it."""
    uid, gid = tree.inside(*treatment.owner(0, 0))
    make_directories(tree, [], directory, uid, gid, 0o755)
    parent = open_in_root(tree.root, os.fsencode(directory), _DIRECTORY)
    try:
        copy(parent)
    finally:
        os.close(parent)


def _is_directory(tree: Entered, path: str) -> bool:
    try:
        os.close(open_in_root(tree.root, os.fsencode(path), os.O_PATH | os.O_DIRECTORY))
    except OSError:
        return False
    return True


def _owner(tree: Entered, text: str) -> tuple[int, int]:
    """uid[:gid], or names looked up in the tree's own files, read here and by nothing else."""
    if not text:
        return 0, 0
    user, _, group = text.partition(":")
    uid = _account(tree, "/etc/passwd", "user", user)
    return uid, _account(tree, "/etc/group", "group", group) if group else uid


def _account(tree: Entered, path: str, kind: str, name: str) -> int:
    if name.isascii() and name.isdigit():
        number = int(name)
        if number > 0x7FFFFFFF:
            raise InvalidArgument(f"{kind} id {name} is out of range: the highest is 2147483647")
        return number
    try:
        lines = _read(tree, path, _ACCOUNTS_LIMIT).split(b"\n")
    except (NotFound, InvalidArgument):
        lines = []
    for line in lines:
        fields = line.split(b":")
        if len(fields) > 2 and fields[0] == name.encode() and fields[2].isdigit():
            return int(fields[2])
    raise InvalidArgument(f"unable to find {kind} {name}: no matching entries in {posixpath.basename(path)} file")


OPERATIONS: Mapping[str, Callable[..., Any]] = {
    "stat": path_stat,
    "get": get,
    "export": export,
    "put": put,
    "make_directories": make_directories,
    "read_file": read_file,
    "copy_out": copy_out,
    "copy_in": copy_in,
}
