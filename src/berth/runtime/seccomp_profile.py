"""Docker's default seccomp profile and those of users, resolved for a container.

The profile is the file data/seccomp.json (its source and licence: data/seccomp.LICENSE.txt). Its conditions are
resolved here (`default`); what comes out is plain OCI, which `runtime.seccomp_filter` compiles.
"""

from __future__ import annotations

import os
from functools import cache, lru_cache
from importlib.resources import files

import msgspec

from berth.errors import InvalidArgument
from berth.kernel import number, seccomp
from berth.model.malformed import MALFORMED
from berth.model.oci import Seccomp, SeccompArg, SeccompRule
from berth.runtime.seccomp_filter import check

_ARCHITECTURES = {
    "x86_64": ("amd64", ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]),
    "aarch64": ("arm64", ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]),
}


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
    except MALFORMED as error:
        raise InvalidArgument(f"Decoding seccomp profile failed: {error}") from None


@lru_cache(maxsize=8)
def default(capabilities: frozenset[str], kernel: str | None = None) -> Seccomp:
    """Docker's default profile for a container with these capabilities (its bounding set), on a kernel ("6.1.0-18", this one).

    Not to be changed: whoever asks for the same gets the same object.
    """
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
