"""Nothing in a tree that somebody else controls is opened by its path (SECURITY rows 5, 10, 14, 24 and most others).

The modules that work inside such trees are read here: a call that takes a path may take a descriptor, a path of /proc that leads
to a descriptor, or one name below a directory's descriptor without following a link. Every other call is in a list, with the
reason why it is none inside a tree. A new call fails this test until it is one of those, or has its reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import berth

PACKAGE = Path(berth.__file__).parent
MODULES = [
    "kernel/fs.py", "kernel/paths.py", "kernel/terminal.py", "runtime/account.py", "runtime/ahead.py", "runtime/enter.py",
    "runtime/beginning.py", "runtime/init.py", "runtime/init_mounts.py", "storage/copy.py", "storage/diff.py",
    "storage/pack.py", "storage/tree_entry.py", "storage/tree_work.py", "storage/unpack.py", "storage/verify.py",
    "storage/walk.py",
]  # fmt: skip
# The functions of the standard library, and of ours, that take a path.
TAKING = {
    "open", "stat", "lstat", "mkdir", "makedirs", "symlink", "link", "unlink", "remove", "rmdir", "rename", "replace", "chmod",
    "chown", "lchown", "utime", "readlink", "listdir", "scandir", "access", "mknod", "mkfifo", "truncate", "chdir", "chroot",
    "setxattr", "getxattr", "listxattr", "removexattr", "walk", "statvfs", "execve", "execv", "rmtree", "copyfile", "copy",
    "copytree", "move", "isdir", "isfile", "exists", "lexists", "islink", "realpath", "getsize", "mount", "umount2", "open_tree",
}  # fmt: skip
BARE = {"open", "Path", "write_text", "read_text", "mount", "umount2", "open_tree"}
# Descriptors under their names in these modules: what they are is checked by mypy, which refuses a path there.
DESCRIPTORS = {"fd", "source", "destination"}
NOFOLLOW = ("O_NOFOLLOW", "O_EXCL", "_CREATE", "follow_symlinks=False")
# One name below a directory's descriptor; these do not follow a link at their end.
ENDS = {"mkdir", "unlink", "rmdir", "symlink", "mknod", "link", "rename", "readlink", "chown", "utime", "stat"}

_OURS = "a path of the engine's own, below the data root"
_BEFORE = "init's own descriptor or root, before or after pivot"
REASONS = {
    ("kernel/fs.py", "os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)"): _OURS,
    ("kernel/fs.py", "os.open(path, os.O_RDONLY | os.O_CLOEXEC)"): _OURS,
    ("kernel/fs.py", "os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 384)"): _OURS,
    ("kernel/fs.py", "os.rename(temporary, path)"): _OURS,
    ("kernel/fs.py", "os.unlink(temporary)"): _OURS,
    ("kernel/fs.py", "os.open(os.path.dirname(name) or b'.', os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)"):
        "the directory that a tree is in; the tree itself is entered without following",
    ("kernel/fs.py", "os.setxattr(at(dirfd, name), attribute, value, follow_symlinks=False)"): "at() is /proc/self/fd/N/NAME",
    ("kernel/fs.py", "os.listxattr(path, follow_symlinks=False)"): "at() is /proc/self/fd/N/NAME",
    ("kernel/fs.py", "os.getxattr(path, attribute, follow_symlinks=False)"): "at() is /proc/self/fd/N/NAME",
    ("kernel/terminal.py", "os.open('ptmx', os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=devpts_fd)"):
        "what was opened is checked to be a pty master",
    ("runtime/account.py", "os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)"):
        "after pivot: the container is all there is; regular files only, bounded",
    ("runtime/ahead.py", "os.open(_ROOT, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=state.staging)"):
        "a directory that init has just made, in a tmpfs of its own",
    ("runtime/beginning.py", "os.open(plan['scratch'], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)"): _OURS,
    ("runtime/init.py", "os.chdir('/')"): _BEFORE,
    ("runtime/init.py", "os.chroot('.')"): _BEFORE,
    ("runtime/init.py", "mount.umount2('.')"): _BEFORE,
    ("runtime/init.py", "os.open('/', os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)"): _BEFORE,
    ("runtime/init.py", "open(path, 'rb')"): "the seccomp program, which the engine compiled",
    ("runtime/init_mounts.py", "os.open('/dev/pts', os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)"):
        "a terminal for an exec, in the container; what is opened there is checked to be a pty master",
    ("runtime/init.py", "write_text('sys/' + name, value, state.proc)"): "in the private procfs; planning checks the name",
    ("runtime/init.py", "os.execve(path, args, state.environment)"): "the container's program, as the container's user",
    ("runtime/init.py", "os.access(candidate, os.X_OK, effective_ids=True)"): "looking for that program, after pivot",
    ("runtime/init.py", "os.access(candidate, os.X_OK)"): "the same by an older call",
    ("runtime/init.py", "os.stat(candidate)"): "looking for that program, after pivot",
    ("storage/copy.py", "os.open(name, flags, 384, dir_fd=parent)"): "flags have O_EXCL and O_NOFOLLOW",
    ("storage/tree_entry.py", "os.open(store, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)"): _OURS,
    ("storage/tree_entry.py", "os.open(f'{store}/{path}', flags)"): _OURS,
    ("storage/tree_entry.py", "os.rmdir(f'{work}/{_VOLATILE}')"): "the overlay's work directory, where containers do not reach",
    ("storage/tree_entry.py", "os.open(f'/proc/{pid}/root', os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)"): "entering the tree",
    ("storage/tree_entry.py", "os.open(f'/proc/{pid}/ns/user', os.O_RDONLY | os.O_CLOEXEC)"): "entering the tree",
    ("storage/tree_entry.py", "os.chdir('/')"): "away from it again",
    ("storage/tree_entry.py", "open(path)"): "/proc/PID/uid_map of the tree's process",
    ("storage/tree_entry.py", "mount.umount2(self._mounted)"): _OURS,
    ("storage/tree_entry.py", "mount.open_tree(AT_FDCWD, source, recursive=True)"): "a source of a bind, as the client named it",
    ("storage/tree_entry.py", "mount.mount('overlay', store, 'overlay', mount.MS_NODEV, f'{options},{_OPTIONS}')"): _OURS,
    ("storage/verify.py", "os.open(directory, _DIRECTORY | os.O_CLOEXEC)"): _OURS,
    ("storage/verify.py", "os.open(path, _DIRECTORY | os.O_CLOEXEC)"): _OURS,
    ("storage/verify.py", "open(path, 'rb')"): "the sums, beside the layer's tree",
    ("storage/verify.py", "open(path, 'xb')"): "the sums, beside the layer's tree",
    ("storage/verify.py", "os.listxattr(found)"): "a descriptor",
    ("storage/verify.py", "os.removexattr(found, attribute)"): "a descriptor",
    ("storage/walk.py", "os.listxattr(path)"): "/proc/self/fd/N",
    ("storage/walk.py", "os.getxattr(path, name)"): "/proc/self/fd/N",
}  # fmt: skip


def calls(module: str) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse((PACKAGE / module).read_text())):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            of = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
            if name in (BARE if not of else TAKING) and of in ("", "os", "os.path", "shutil", "mount"):
                yield node


def is_confined(call: ast.Call) -> bool:
    """A descriptor, a constant of /proc, or a single name below a descriptor that is not followed."""
    text = ast.unparse(call)
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    first = ast.unparse(call.args[0]) if call.args else ""
    if name == "open_tree":
        return first != "AT_FDCWD"
    if any(keyword.arg in ("dir_fd", "src_dir_fd") for keyword in call.keywords):
        dot = first in ("b'.'", "b''")
        plain = name in ("chown", "utime", "stat", "link") and "follow_symlinks=False" not in text
        return dot or (name in ENDS and not plain) or any(word in text for word in NOFOLLOW)
    return first in DESCRIPTORS or any(start in first[:40] for start in ("f'/proc/self/fd/", "b'/proc/self/fd/", "'/proc/self/"))


@pytest.mark.parametrize("module", MODULES)
def test_nothing_in_a_tree_is_opened_by_its_path(module: str) -> None:
    odd = {ast.unparse(call) for call in calls(module) if not is_confined(call)}
    listed = {text for where, text in REASONS if where == module}
    assert odd == listed, "new calls need a descriptor, or a reason; reasons that are not needed any more go"


def test_the_check_sees_what_it_should() -> None:
    for text, confined in (
        ("os.open(path, os.O_RDONLY)", False),
        ("os.open(name, os.O_RDONLY, dir_fd=parent)", False),
        ("os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=parent)", True),
        ("os.stat(name, dir_fd=parent)", False),
        ("os.chown(name, 1, 1, dir_fd=parent, follow_symlinks=False)", True),
        ("open(f'{root}/etc/passwd')", False),
        ("os.listdir(os.fsencode(f'/proc/self/fd/{fd}'))", True),
        ("os.setxattr(fd, name, value)", True),
    ):
        call = ast.parse(text).body[0].value  # type: ignore[attr-defined]
        assert is_confined(call) is confined, text
