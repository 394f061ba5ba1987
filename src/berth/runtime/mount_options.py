"""Mount options as mount(8) and the OCI specification write them, sorted into what the kernel's calls take. Pure."""

from __future__ import annotations

from berth.errors import InvalidArgument
from berth.kernel import mount

_SET = {
    "ro": mount.MOUNT_ATTR_RDONLY,
    "nosuid": mount.MOUNT_ATTR_NOSUID,
    "nodev": mount.MOUNT_ATTR_NODEV,
    "noexec": mount.MOUNT_ATTR_NOEXEC,
    "nodiratime": mount.MOUNT_ATTR_NODIRATIME,
    "nosymfollow": mount.MOUNT_ATTR_NOSYMFOLLOW,
}
_CLEAR = {
    "rw": mount.MOUNT_ATTR_RDONLY,
    "suid": mount.MOUNT_ATTR_NOSUID,
    "dev": mount.MOUNT_ATTR_NODEV,
    "exec": mount.MOUNT_ATTR_NOEXEC,
    "diratime": mount.MOUNT_ATTR_NODIRATIME,
    "symfollow": mount.MOUNT_ATTR_NOSYMFOLLOW,
}
_ATIME = {
    "relatime": mount.MOUNT_ATTR_RELATIME,
    "noatime": mount.MOUNT_ATTR_NOATIME,
    "strictatime": mount.MOUNT_ATTR_STRICTATIME,
}
_PROPAGATION = {
    "private": mount.MS_PRIVATE,
    "slave": mount.MS_SLAVE,
    "shared": mount.MS_SHARED,
    "unbindable": mount.MS_UNBINDABLE,
}
_IGNORED = frozenset(
    ("defaults", "async", "auto", "noauto", "nofail", "user", "nouser", "_netdev", "z", "Z", "norelatime", "nostrictatime")
)
_IDMAP = frozenset(("idmap", "ridmap", "noidmap"))


class Options:
    """`attributes` are set and `clear` removed on the mount, `deep` on all below too; `data` is for the filesystem."""

    def __init__(self, bind: bool = False) -> None:
        self.attributes = 0
        self.clear = 0
        self.propagation = mount.MS_PRIVATE
        self.bind = bind
        self.recursive = False
        self.deep = False
        # "idmap" or "ridmap" where it was asked for, False where it was declined.
        self.idmap: str | bool | None = None
        # Whether a tmpfs begins with a copy of what it hides.
        self.copy_up = False
        self.data: list[list[str | None]] = []


def names() -> set[str]:
    """The options that are understood here, without those of filesystems."""
    flags = {*_SET, *_CLEAR, *_ATIME}
    recursive = {"r" + name for name in (*flags, *_PROPAGATION)}
    return flags | recursive | set(_PROPAGATION) | {"bind", "rbind", "tmpcopyup"} | _IGNORED | _IDMAP


def parse(options: list[str], where: str) -> Options:
    """Sort options. The later one wins, as with mount(8). Unknown ones go to the filesystem, which may refuse them."""
    result = Options()
    for option in options:
        if not _attribute(result, option):
            _other(result, option, where)
    return result


def _attribute(result: Options, option: str) -> bool:
    name = option
    if option[:1] == "r" and option not in _SET and option not in _CLEAR and option not in _ATIME:
        rest = option[1:]
        if rest in _SET or rest in _CLEAR or rest in _ATIME:
            name, result.deep = rest, True
    if name in _SET:
        result.attributes |= _SET[name]
        result.clear &= ~_SET[name]
    elif name in _CLEAR:
        result.clear |= _CLEAR[name]
        result.attributes &= ~_CLEAR[name]
    elif name in _ATIME:
        result.attributes = result.attributes & ~mount.MOUNT_ATTR__ATIME | _ATIME[name]
        result.clear |= mount.MOUNT_ATTR__ATIME
    else:
        return False
    return True


def _other(result: Options, option: str, where: str) -> None:
    plain = option[1:] if option[:1] == "r" and option[1:] in _PROPAGATION else option
    if option in ("bind", "rbind"):
        result.bind, result.recursive = True, option == "rbind"
    elif plain in _PROPAGATION:
        result.propagation = _PROPAGATION[plain]
    elif option in _IDMAP:
        result.idmap = option if option != "noidmap" else False
    elif option in _IGNORED or option.startswith("x-"):
        return
    elif option in ("tmpcopyup", "notmpcopyup"):
        result.copy_up = option == "tmpcopyup"
    elif option == "remount":
        raise InvalidArgument(f"mount option {option} of {where} is not supported")
    else:
        key, equals, value = option.partition("=")
        result.data.append([key, value if equals else None])
