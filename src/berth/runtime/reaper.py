"""`--init`: a process 1 that passes signals on to the program and reaps orphans. Lean.

Why not Python for it: a forked interpreter would keep a megabyte of copied pages for as long as the container lives. Why
not a program file: it would have to exist in, or be mounted into, every image. So it is 156 bytes of machine code in an
ELF file of one page, built in memory and executed from there. On other machines than x86-64 the interpreter stays and
does the same (`_serve`).

Signals arrive blocked (the caller blocks all), so that none is lost or kills process 1. The exit code is the program's,
or 128 + signal.
"""

from __future__ import annotations

import os
from struct import pack

from berth.kernel import number

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import NoReturn
else:
    import _signal

_SIGCHLD = 17
_MFD_EXEC = 0x10
_BASE = 0x400000
_X86_64 = 62
_HEADERS = 64 + 56
# As who lists the processes of a container knows it from Docker.
_NAME = b"docker-init"
_PROGRAM = "/sbin/docker-init"

# fmt: off
_CODE = (
    #             mov ebx, CHILD (follows)
    #             mov esi, NAME (follows)
    "bf0f000000"      # mov edi, PR_SET_NAME
    "b89d000000"      # mov eax, 157
    "0f05"            # syscall
    "4881ec00010000"  # sub rsp, 256
    "6aff"            # push -1            the set of all signals
    "4889e5"          # mov rbp, rsp
    # wait:       rt_sigtimedwait(all, info, NULL, 8)
    "4889ef"          # mov rdi, rbp
    "488d7510"        # lea rsi, [rbp+16]
    "31d2"            # xor edx, edx
    "41ba08000000"    # mov r10d, 8
    "b880000000"      # mov eax, 128
    "0f05"            # syscall
    "85c0"            # test eax, eax
    "78e6"            # js wait
    "83f811"          # cmp eax, SIGCHLD
    "740d"            # je reap
    #             kill(child, signal)
    "89df"            # mov edi, ebx
    "89c6"            # mov esi, eax
    "b83e000000"      # mov eax, 62
    "0f05"            # syscall
    "ebd4"            # jmp wait
    # reap:       wait4(-1, status, WNOHANG, NULL)
    "bfffffffff"      # mov edi, -1
    "488d7510"        # lea rsi, [rbp+16]
    "ba01000000"      # mov edx, 1
    "4531d2"          # xor r10d, r10d
    "b83d000000"      # mov eax, 61
    "0f05"            # syscall
    "85c0"            # test eax, eax
    "7eb8"            # jle wait
    "39d8"            # cmp eax, ebx
    "75e0"            # jne reap
    #             exit_group(code, or 128 + signal)
    "8b7d10"          # mov edi, [rbp+16]
    "89f8"            # mov eax, edi
    "83e07f"          # and eax, 127
    "7408"            # jz exited
    "8db880000000"    # lea edi, [rax+128]
    "eb03"            # jmp exit
    "c1ef08"          # exited: shr edi, 8
    "81e7ff000000"    # exit: and edi, 255
    "b8e7000000"      # mov eax, 231
    "0f05"            # syscall
)
# fmt: on


def image(child: int) -> bytes:
    """The ELF file for a child's pid."""
    code = bytes.fromhex(_CODE)
    size = 2 * 5 + len(code)
    return elf(b"\xbb" + pack("<i", child) + b"\xbe" + pack("<i", _BASE + _HEADERS + size) + code + _NAME + b"\0")


def elf(code: bytes) -> bytes:
    """An ELF file of one header, one segment and the code, which begins at its first byte."""
    size = _HEADERS + len(code)
    identity = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header = identity + pack("<HHIQQQIHHHHHH", 2, _X86_64, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 4096)
    return header + segment + code


def reserve() -> int:
    """A file in memory for the image, made before a filter may forbid it; -1 where it is not used."""
    if number.MACHINE != "x86_64":
        return -1
    try:
        return os.memfd_create("docker-init", os.MFD_CLOEXEC | _MFD_EXEC)
    except OSError:
        # before Linux 6.3 the flag is unknown, and every such file may be executed
        return os.memfd_create("docker-init", os.MFD_CLOEXEC)


def serve(child: int, memory: int, args: list[str]) -> NoReturn:
    """Be process 1 for `child`, which runs `args`. Signals are blocked."""
    if memory >= 0:
        try:
            os.write(memory, image(child))
            # only a file that nobody has open for writing can be executed
            fd = os.open(f"/proc/self/fd/{memory}", os.O_RDONLY | os.O_CLOEXEC)
            os.close(memory)
            os.execve(fd, [_PROGRAM, "--", *args], {})
        except OSError:
            # no /proc, or memory may not be executed here
            pass
    _serve(child)


def _serve(child: int) -> NoReturn:
    everything = _signal.valid_signals()
    os.closerange(3, 1024)
    while True:
        signal = _signal.sigwait(everything)
        if signal != _SIGCHLD:
            os.kill(child, signal)
            continue
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                os._exit(code if code >= 0 else 128 - code)
            if pid == 0:
                break
