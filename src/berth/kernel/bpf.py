"""The device program of a control group (cgroup v2): which device nodes may be opened or made."""

from __future__ import annotations

import ctypes
import os
from struct import pack

from berth.kernel import number
from berth.kernel.libc import syscall

_PROG_LOAD, _PROG_ATTACH = 5, 8
_TYPE_CGROUP_DEVICE, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI = 15, 6, 2
_KINDS = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}

_LDX_W, _MOV64, _MOV64_IMM, _AND_IMM, _RSH_IMM, _JNE_IMM, _EXIT = 0x61, 0xBF, 0xB7, 0x57, 0x77, 0x55, 0x95


def _instruction(op: int, dst: int = 0, src: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return pack("BBhi", op, dst | src << 4, offset, value)


def device_program(rules: list[tuple[bool, str, int | None, int | None, str]]) -> bytes:
    """Code for (allow, type a|b|c, major, minor, access) rules. The last one that matches decides; none: refused.

    Registers: r2 type, r3 access asked for, r4 major, r5 minor. A rule matches when the access is part of its own.
    """
    code = _instruction(_LDX_W, 2, 1, 0) + _instruction(_MOV64, 3, 2) + _instruction(_AND_IMM, 2, value=0xFFFF)
    code += _instruction(_RSH_IMM, 3, value=16) + _instruction(_LDX_W, 4, 1, 4) + _instruction(_LDX_W, 5, 1, 8)
    for rule in reversed(rules):
        code += _rule(*rule)
        if rule[1:4] == ("a", None, None) and set(rule[4]) == set(_ACCESS):
            # it matches always, and the verifier refuses code that is never reached
            return code
    return code + _instruction(_MOV64_IMM, 0, value=0) + _instruction(_EXIT)


def _rule(allow: bool, kind: str, major: int | None, minor: int | None, access: str) -> bytes:
    bits = sum(_ACCESS[letter] for letter in set(access))
    conditions: list[tuple[int, int]] = []
    if kind in _KINDS:
        conditions.append((2, _KINDS[kind]))
    if major is not None:
        conditions.append((4, major))
    if minor is not None:
        conditions.append((5, minor))
    tail = _instruction(_MOV64_IMM, 0, value=int(allow)) + _instruction(_EXIT)
    if bits != 7:
        # r1 = asked & ~ours: anything left over means that the rule does not cover the access
        tail = (
            _instruction(_MOV64, 1, 3)
            + _instruction(_AND_IMM, 1, value=~bits & 7)
            + _instruction(_JNE_IMM, 1, offset=2, value=0)
            + tail
        )
    code = b""
    for register, value in reversed(conditions):
        code = _instruction(_JNE_IMM, register, offset=(len(code) + len(tail)) // 8, value=value) + code
    return code + tail


def load_device_program(code: bytes) -> int:
    """A descriptor of the loaded program."""
    body = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"GPL")
    addresses = ctypes.addressof(body), ctypes.addressof(licence)
    values = pack("IIQQIIQII", _TYPE_CGROUP_DEVICE, len(code) // 8, *addresses, 0, 0, 0, 0, 0)
    return syscall(number.BPF, _PROG_LOAD, values + bytes(128 - len(values)), 128, what="device program")


def attach_device_program(cgroup: str, code: bytes) -> None:
    """Load and attach: the group keeps the program alive."""
    program = load_device_program(code)
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        values = pack("IIII", directory, program, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI)
        syscall(number.BPF, _PROG_ATTACH, values + bytes(112), 128, what=cgroup)
    finally:
        os.close(directory)
        os.close(program)
