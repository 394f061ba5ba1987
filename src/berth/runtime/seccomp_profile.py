"""Docker's default seccomp profile, resolved for a container, and filters compiled once and kept.

The profile is the file data/seccomp.json (its source and licence: data/seccomp.LICENSE.txt). Its conditions are
resolved here (`default`); what comes out is plain OCI. `SeccompCache` compiles an OCI filter to BPF.
"""

from __future__ import annotations

import hashlib
import os
from functools import cache
from importlib.resources import files

import msgspec

from berth.errors import InvalidArgument
from berth.kernel import number, seccomp
from berth.model.oci import Seccomp, SeccompArg, SeccompRule

_ARCHITECTURES = {
    "x86_64": ("amd64", ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]),
    "aarch64": ("arm64", ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]),
}
_FORMAT = b"1"


class _Condition(msgspec.Struct, frozen=True, rename="camel"):
    caps: list[str] | None = None
    arches: list[str] | None = None
    min_kernel: str | None = None


class _Rule(msgspec.Struct, frozen=True, rename="camel"):
    action: str
    name: str | None = None
    names: list[str] | None = None
    args: list[SeccompArg] | None = None
    errno_ret: int | None = None
    includes: _Condition | None = None
    excludes: _Condition | None = None


class _Map(msgspec.Struct, frozen=True, rename="camel"):
    architecture: str
    sub_architectures: list[str] | None = None


class Profile(msgspec.Struct, frozen=True, rename="camel"):
    """A profile as Docker writes them: rules with conditions."""

    default_action: str
    default_errno_ret: int | None = None
    architectures: list[str] | None = None
    arch_map: list[_Map] | None = None
    flags: list[str] | None = None
    syscalls: list[_Rule] | None = None


@cache
def _default_profile() -> Profile:
    return parse(files("berth.runtime").joinpath("data/seccomp.json").read_bytes())


def parse(document: bytes) -> Profile:
    """A profile from JSON. InvalidArgument says where it is wrong."""
    try:
        return msgspec.json.decode(document, type=Profile)
    except msgspec.MsgspecError as error:
        raise InvalidArgument(f"Decoding seccomp profile failed: {error}") from None


def default(capabilities: frozenset[str], kernel: str | None = None) -> Seccomp:
    """Docker's default profile for a container with these capabilities (its bounding set), on a kernel ("6.1.0-18", this one)."""
    return resolve(_default_profile(), capabilities, kernel)


def custom(document: bytes, capabilities: frozenset[str], kernel: str | None = None) -> Seccomp:
    """A profile given by the user, as JSON with or without conditions."""
    return resolve(parse(document), capabilities, kernel)


def resolve(profile: Profile, capabilities: frozenset[str], kernel: str | None = None) -> Seccomp:
    """The rules whose conditions hold. InvalidArgument for an action or operator that does not exist."""
    architecture, native = _ARCHITECTURES.get(number.MACHINE, (number.MACHINE, [seccomp.NATIVE]))
    version = kernel_version(kernel or os.uname().release)
    names = {architecture} | ({"x86", "x32"} if architecture == "amd64" else {"arm"})
    rules = []
    for rule in profile.syscalls or []:
        if _holds(rule.includes, rule.excludes, capabilities, names, version):
            called = rule.names or ([rule.name] if rule.name else [])
            rules.append(SeccompRule(names=called, action=rule.action, errno_ret=rule.errno_ret, args=rule.args or []))
    architectures = profile.architectures
    if architectures is None:
        architectures = native if profile.arch_map else [native[0]]
    result = Seccomp(
        default_action=profile.default_action,
        default_errno_ret=profile.default_errno_ret,
        architectures=architectures,
        flags=profile.flags or [],
        syscalls=rules,
    )
    check(result)
    return result


def _holds(
    includes: _Condition | None, excludes: _Condition | None, have: frozenset[str], names: set[str], version: tuple[int, int]
) -> bool:
    if includes is not None:
        if includes.caps and not have.issuperset(includes.caps):
            return False
        if includes.arches and not names & set(includes.arches):
            return False
        if includes.min_kernel and version < kernel_version(includes.min_kernel):
            return False
    if excludes is not None:
        if excludes.caps and have & set(excludes.caps):
            return False
        if excludes.arches and names & set(excludes.arches):
            return False
        if excludes.min_kernel and version >= kernel_version(excludes.min_kernel):
            return False
    return True


def kernel_version(release: str) -> tuple[int, int]:
    """(major, minor) of "6.1.0-18-amd64" or "4.8"."""
    parts = release.split(".")
    minor = ""
    for character in parts[1] if len(parts) > 1 else "0":
        if not character.isdigit():
            break
        minor += character
    return int(parts[0]), int(minor or 0)


def check(profile: Seccomp) -> None:
    """InvalidArgument when an action, operator or flag is unknown."""
    actions = [profile.default_action, *(rule.action for rule in profile.syscalls)]
    unknown = [action for action in actions if action not in seccomp.ACTIONS]
    unknown += [a.op for rule in profile.syscalls for a in rule.args if a.op not in seccomp.OPERATORS]
    unknown += [flag for flag in profile.flags if flag not in seccomp.FILTER_FLAGS]
    unknown += [name for name in profile.architectures if name not in seccomp.ARCHITECTURES]
    if unknown:
        raise InvalidArgument(f"seccomp profile: {unknown[0]} is not supported")


class SeccompCache:
    """Compiled filters, in memory by key and as files <directory>/<key>.bpf, which exec reads again after a restart."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._known: set[str] = set()

    def path(self, profile: Seccomp) -> str:
        """The file with the compiled filter; compiled at the first call (17 ms for the default profile)."""
        document = msgspec.json.encode(profile)
        key = hashlib.sha256(_FORMAT + number.MACHINE.encode() + document).hexdigest()[:32]
        path = f"{self._directory}/{key}.bpf"
        if key in self._known and os.path.exists(path):
            return path
        if not os.path.exists(path):
            self._write(path, compile_profile(profile))
        self._known.add(key)
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
