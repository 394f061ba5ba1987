"""OCI seccomp filters compiled to BPF once and kept.

Standard library only: `berth-runtime` compiles the filters of bundles too, where imports are what takes the time.
"""

from __future__ import annotations

import os
from _blake2 import blake2b

from berth.errors import InvalidArgument
from berth.kernel import number, seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from berth.model.oci import Seccomp

_FORMAT = 2
_REMEMBERED = 8


def check(profile: Seccomp) -> None:
    """InvalidArgument when an action, operator or flag is unknown."""
    actions = [profile.default_action, *(rule.action for rule in profile.syscalls)]
    unknown = [action for action in actions if action not in seccomp.ACTIONS]
    unknown += [a.op for rule in profile.syscalls for a in rule.args if a.op not in seccomp.OPERATORS]
    unknown += [flag for flag in profile.flags if flag not in seccomp.FILTER_FLAGS]
    unknown += [name for name in profile.architectures if name not in seccomp.ARCHITECTURES]
    if unknown:
        raise InvalidArgument(f"seccomp profile: {unknown[0]} is not supported")
    if "SCMP_ACT_NOTIFY" in actions and not profile.listener_path:
        raise InvalidArgument("seccomp profile: SCMP_ACT_NOTIFY needs a listenerPath, which only bundles of berth-runtime have")


class SeccompCache:
    """Compiled filters, in memory by key and as files <directory>/<key>.bpf, which exec reads again after a restart."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        # The last profiles, by identity: most launches have the same one.
        self._last: list[tuple[Seccomp, str]] = []

    def path(self, profile: Seccomp) -> str:
        """The file with the compiled filter; compiled at the first call (17 ms for the default profile)."""
        path = next((path for known, path in self._last if known is profile), "")
        if not path:
            path = f"{self._directory}/{blake2b(_text(profile).encode(), digest_size=16).hexdigest()}.bpf"
            self._last = [(profile, path), *self._last[: _REMEMBERED - 1]]
        if not os.path.exists(path):
            self._write(path, compile_profile(profile))
        return path

    def _write(self, path: str, program: bytes) -> None:
        os.makedirs(self._directory, 0o700, exist_ok=True)
        temporary = f"{path}.{os.getpid()}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, program)
        finally:
            os.close(fd)
        os.rename(temporary, path)


def _text(profile: Seccomp) -> str:
    """What the compiled filter depends on."""
    rules = [
        (rule.names, rule.action, rule.errno_ret, [(arg.index, arg.value, arg.value_two, arg.op) for arg in rule.args])
        for rule in profile.syscalls
    ]
    return repr((_FORMAT, number.MACHINE, profile.default_action, profile.default_errno_ret, profile.architectures, rules))


def flags(profile: Seccomp) -> int:
    """The flags of seccomp(2) that the profile asks for."""
    result = 0
    for name in profile.flags:
        result |= seccomp.FILTER_FLAGS[name]
    return result


def compile_profile(profile: Seccomp) -> bytes:
    """BPF for a profile."""
    check(profile)
    rules = [
        (
            rule.names,
            seccomp.action(rule.action, rule.errno_ret),
            [(a.index, a.op, a.value, a.value_two) for a in rule.args],
        )
        for rule in profile.syscalls
    ]
    default_action = seccomp.action(profile.default_action, profile.default_errno_ret)
    try:
        library = seccomp.library()
    except OSError:
        raise InvalidArgument(
            "seccomp filters need libseccomp: install it (libseccomp2), or run with --security-opt seccomp=unconfined"
        ) from None
    return seccomp.compile_filter(default_action, profile.architectures, rules, library)
