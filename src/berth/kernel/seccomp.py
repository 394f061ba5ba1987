"""seccomp: loading a filter, and compiling one by libseccomp (loaded only when something is compiled)."""

from __future__ import annotations

import ctypes
import os
from struct import pack

from berth.kernel import number
from berth.kernel.libc import syscall

TYPE_CHECKING = False
if TYPE_CHECKING:
    # Argument, operator, value, second value.
    Comparison = tuple[int, str, int, int]

_SET_MODE_FILTER = 1
FILTER_FLAGS = {
    # Threads to synchronise with there are none: filters are loaded before execve.
    "SECCOMP_FILTER_FLAG_TSYNC": 0,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}
NEW_LISTENER = 8

ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
OPERATORS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
ARCHITECTURES = {
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X32": 0x4000003E,
    "SCMP_ARCH_ARM": 0x40000028,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
}
NATIVE = "SCMP_ARCH_AARCH64" if number.MACHINE == "aarch64" else "SCMP_ARCH_X86_64"

_ATTR_NO_NEW_PRIVS, _ATTR_OPTIMIZE = 3, 8
_EPERM, _ENOSYS = 1, 38
_PROT_EXEC = 4
_NEWEST_SCAN = 1024
_X32_BIT = 0x40000000


class _Comparison(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def load(program: bytes, flags: int = 0) -> int:
    """Put the filter on this process for good; with NEW_LISTENER the descriptor that hears of calls.

    Needs CAP_SYS_ADMIN in its user namespace, or no_new_privs.
    """
    body = ctypes.create_string_buffer(program, len(program))
    values = pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(body))
    return syscall(number.SECCOMP, _SET_MODE_FILTER, flags, values, what="seccomp")


def library() -> ctypes.CDLL:
    """libseccomp. OSError when it is not installed."""
    lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    lib.seccomp_init.restype = ctypes.c_void_p
    lib.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
    return lib


def action(name: str, errno_ret: int | None) -> int:
    """The kernel's number of an action. KeyError for an unknown name."""
    value = ACTIONS[name]
    if name in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        value |= (1 if errno_ret is None else errno_ret) & 0xFFFF
    return value


def newest(lib: ctypes.CDLL, architecture: int) -> int:
    """The highest system call number that the library knows on an architecture."""
    for candidate in range(_NEWEST_SCAN, 0, -1):
        if lib.seccomp_syscall_resolve_num_arch(ctypes.c_uint32(architecture), candidate):
            return candidate
    return 0


def compile_filter(
    default: int, architectures: list[str], rules: list[tuple[list[str], int, list[Comparison]]], lib: ctypes.CDLL
) -> bytes:
    """BPF for (names, action, comparisons) rules; unknown names are left out.

    System calls above the newest one that the library knows give ENOSYS when the default refuses: programs then fall back
    to older calls, which EPERM would not make them do.
    """
    context = ctypes.c_void_p(lib.seccomp_init(ctypes.c_uint32(default)))
    try:
        for name in architectures:
            if name != NATIVE:
                lib.seccomp_arch_add(context, ctypes.c_uint32(ARCHITECTURES[name]))
        lib.seccomp_attr_set(context, _ATTR_NO_NEW_PRIVS, ctypes.c_uint32(0))
        lib.seccomp_attr_set(context, _ATTR_OPTIMIZE, ctypes.c_uint32(2))
        for names, act, comparisons in rules:
            for together in _conjunctions(comparisons) if act != default else ():
                _add_rule(lib, context, names, act, together)
        program = _export(lib, context)
    finally:
        lib.seccomp_release(context)
    refuses = default not in (ACTIONS["SCMP_ACT_ALLOW"], ACTIONS["SCMP_ACT_LOG"])
    return (unknown_calls(lib, architectures) if refuses else b"") + program


def _conjunctions(comparisons: list[Comparison]) -> list[list[Comparison]]:
    """All of them hold together, unless an argument is compared twice: a filter cannot say that, and as with other runtimes any
    one of them is enough then (the value is this, or that)."""
    arguments = [argument for argument, *_ in comparisons]
    if len(set(arguments)) == len(arguments):
        return [comparisons]
    return [[comparison] for comparison in comparisons]


def _add_rule(lib: ctypes.CDLL, context: ctypes.c_void_p, names: list[str], act: int, comparisons: list[Comparison]) -> None:
    array = (_Comparison * max(1, len(comparisons)))()
    for index, (argument, operator, value, second) in enumerate(comparisons):
        array[index] = _Comparison(argument, OPERATORS[operator], value, second)
    for name in names:
        call = lib.seccomp_syscall_resolve_name(name.encode())
        if call == -1:
            continue
        result = lib.seccomp_rule_add_array(context, ctypes.c_uint32(act), call, len(comparisons), array)
        if result < 0:
            raise OSError(-result, os.strerror(-result), f"seccomp rule for {name}")


def _export(lib: ctypes.CDLL, context: ctypes.c_void_p) -> bytes:
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        result = lib.seccomp_export_bpf(context, fd)
        if result < 0:
            raise OSError(-result, os.strerror(-result), "seccomp program")
        return os.pread(fd, 1 << 20, 0)
    finally:
        os.close(fd)


def unknown_calls(lib: ctypes.CDLL, architectures: list[str]) -> bytes:
    """Instructions that go before a filter: ENOSYS for numbers above the newest known, by architecture."""
    code = b""
    tests: list[tuple[int, int]] = []
    for name in sorted({NATIVE, *architectures}):
        if name != "SCMP_ARCH_X32":
            tests.append((ARCHITECTURES[name], newest(lib, ARCHITECTURES[name])))
    for architecture, highest in reversed(tests):
        # ld arch; jne -> next; ld nr; (x32 numbers have bit 30: leave them to the filter) ; jgt highest -> ENOSYS
        code = (
            _classic(0x20, 4)
            + _classic(0x15, architecture, 0, 4)
            + _classic(0x20, 0)
            + _classic(0x35, _X32_BIT, 2, 0)
            + _classic(0x25, highest, 0, 1)
            + _classic(0x06, ACTIONS["SCMP_ACT_ERRNO"] | _ENOSYS)
            + code
        )
    return code


def compute_only() -> bytes:
    """A filter for a process that reads, writes and computes, on descriptors that it has: everything else is EPERM, executable
    memory included. Another architecture's calls end it. Written by hand: no library has to be there."""
    allow, refuse = _classic(0x06, ACTIONS["SCMP_ACT_ALLOW"]), _classic(0x06, ACTIONS["SCMP_ACT_ERRNO"] | _EPERM)
    # ld arch; jeq native; else kill; ld nr
    code = _classic(0x20, 4) + _classic(0x15, ARCHITECTURES[NATIVE], 1, 0)
    code += _classic(0x06, ACTIONS["SCMP_ACT_KILL_PROCESS"]) + _classic(0x20, 0)
    for call in number.COMPUTING:
        code += _classic(0x15, call, 0, 1) + allow
    # mmap: ld the low half of the third argument; jset PROT_EXEC
    code += _classic(0x15, number.MMAP, 0, 4) + _classic(0x20, 32) + _classic(0x45, _PROT_EXEC, 0, 1) + refuse + allow
    return code + refuse


def _classic(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
    return pack("HBBI", code, true, false, value)
