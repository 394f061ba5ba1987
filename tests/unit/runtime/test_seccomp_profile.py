"""Docker's profile, resolved and compiled."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from berth.errors import InvalidArgument
from berth.kernel import seccomp
from berth.model.oci import Seccomp, SeccompArg, SeccompRule
from berth.runtime import seccomp_filter, seccomp_profile

USUAL = frozenset("CAP_" + name for name in ["CHOWN", "SYS_CHROOT", "KILL"])
ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x50001, 0x50026
X86_64 = 0xC000003E


def allowed(profile: Seccomp) -> set[str]:
    return {name for rule in profile.syscalls for name in rule.names if rule.action == "SCMP_ACT_ALLOW" and not rule.args}


def test_capabilities_open_system_calls() -> None:
    usual = allowed(seccomp_profile.default(USUAL))
    assert {"openat2", "clone3", "chroot"} - {"clone3"} <= usual
    assert not {"mount", "bpf", "setns", "keyctl"} & usual
    admin = allowed(seccomp_profile.default(USUAL | {"CAP_SYS_ADMIN"}))
    assert {"mount", "setns", "bpf"} <= admin
    assert "chroot" not in allowed(seccomp_profile.default(frozenset()))


def test_clone3_is_unknown_rather_than_refused() -> None:
    rules = [rule for rule in seccomp_profile.default(USUAL).syscalls if "clone3" in rule.names]
    assert [rule.errno_ret for rule in rules] == [38]


@pytest.mark.parametrize(("kernel", "open"), [("4.7.0", False), ("4.8", True), ("6.1.0-18-amd64", True)])
def test_minimum_kernel(kernel: str, open: bool) -> None:
    assert ("ptrace" in allowed(seccomp_profile.default(USUAL, kernel))) == open


def run(program: bytes, number: int, architecture: int = X86_64, arguments: tuple[int, ...] = ()) -> int:
    """A classic BPF interpreter, as far as filters go."""
    data = number.to_bytes(4, "little") + architecture.to_bytes(4, "little") + bytes(8)
    data += b"".join(value.to_bytes(8, "little") for value in (*arguments, 0, 0, 0, 0, 0, 0)[:6])
    accumulator, position = 0, 0
    while True:
        raw = program[position * 8 : position * 8 + 8]
        code, true, false = int.from_bytes(raw[:2], "little"), raw[2], raw[3]
        value = int.from_bytes(raw[4:], "little")
        position += 1
        if code == 0x20:
            accumulator = int.from_bytes(data[value : value + 4], "little")
        elif code == 0x06:
            return value
        elif code == 0x05:
            position += value
        elif code == 0x54:
            accumulator &= value
        else:
            holds = {0x15: accumulator == value, 0x25: accumulator > value, 0x35: accumulator >= value}[code]
            position += true if holds else false


@pytest.fixture(scope="module")
def program() -> bytes:
    return seccomp_filter.compile_profile(seccomp_profile.default(USUAL))


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86-64")
def test_compiled_filter_decides(program: bytes) -> None:
    read, mount, socket, personality, clone3 = 0, 165, 41, 135, 435
    assert run(program, read) == ALLOW
    assert run(program, mount) == EPERM
    assert run(program, clone3) == ENOSYS
    assert run(program, socket, arguments=(2,)) == ALLOW
    assert run(program, socket, arguments=(38,)) == EPERM, "AF_ALG"
    assert run(program, socket, arguments=(40,)) == EPERM, "AF_VSOCK"
    assert run(program, personality, arguments=(0,)) == ALLOW
    assert run(program, personality, arguments=(0x40000,)) == EPERM


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86-64")
def test_newer_calls_do_not_exist(program: bytes) -> None:
    highest = seccomp.newest(seccomp.library(), X86_64)
    assert 440 < highest < 1024
    assert run(program, highest + 1) == ENOSYS
    assert run(program, 5000) == ENOSYS
    assert run(program, 5000, architecture=0x40000003) == ENOSYS, "32-bit too"
    assert run(program, 0x40000000 + 165) == EPERM, "x32 is left to the filter"
    assert run(program, 0, architecture=0x1234) in (0x80000000, 0x00000000), "an unknown architecture is killed"


def test_custom_profile() -> None:
    document = b'{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"mkdir","action":"SCMP_ACT_ERRNO"}]}'
    profile = seccomp_profile.custom(document, USUAL)
    compiled = seccomp_filter.compile_profile(profile)
    if os.uname().machine == "x86_64":
        assert run(compiled, 83) == EPERM
        assert run(compiled, 9999) == ALLOW, "a profile that allows by default is not made stricter"


@pytest.mark.parametrize(
    "document",
    [
        b"nonsense",
        b"[]",
        b'{"defaultAction":"SCMP_ACT_NONE"}',
        b'{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":1,"op":"X"}]}]}',
    ],
)
def test_bad_profiles(document: bytes) -> None:
    with pytest.raises(InvalidArgument):
        seccomp_profile.custom(document, USUAL)


def test_cache_compiles_once(tmp_path: Path) -> None:
    profile = Seccomp(
        default_action="SCMP_ACT_ALLOW",
        syscalls=[SeccompRule(names=["mkdir"], action="SCMP_ACT_ERRNO", args=[SeccompArg(index=1, value=7, op="SCMP_CMP_EQ")])],
    )
    cache = seccomp_filter.SeccompCache(str(tmp_path / "filters"))
    path = cache.path(profile)
    first = os.stat(path)
    assert first.st_mode & 0o777 == 0o600
    assert cache.path(profile) == path and seccomp_filter.SeccompCache(str(tmp_path / "filters")).path(profile) == path
    assert os.stat(path).st_ino == first.st_ino
    os.unlink(path)
    assert cache.path(profile) == path and os.path.exists(path), "made again when the run directory was emptied"


def test_an_argument_that_is_compared_twice_may_be_either() -> None:
    """As runc and crun read `personality is 8 or 0x20008`, which is how people write it in bundles."""
    args = [SeccompArg(index=0, value=value, op="SCMP_CMP_EQ") for value in (8, 0x20008)]
    rule = SeccompRule(names=["personality"], action="SCMP_ACT_ERRNO", args=args)
    program = seccomp_filter.compile_profile(Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=[rule]))
    child = os.fork()
    if child == 0:
        libc = ctypes.CDLL(None)
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        seccomp.load(program)
        os._exit([libc.personality(value) == -1 for value in (8, 0x20008, 0xFFFFFFFF)] != [True, True, False])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
