"""The last program before a container's own: 91 bytes of machine code in an ELF file in memory. Lean.

A process that enters a container is the interpreter until execve. A program called /proc/self/exe, or a script that names
it as its interpreter, would run the host's interpreter inside, where a root without a user namespace could write to its
file (CVE-2019-5736). The launcher runs from a read-only mount of itself for that reason (`runtime.guard`); a command that
lives for one launch would pay for a second start of the interpreter. So it executes this first: what /proc/self/exe is
then, nobody can write to.

It is called with the path in front of the program's arguments, makes the descriptor `report` close-on-exec, and executes
the path. Should that fail it writes the error number to `report`, as `runtime.init` does.
"""

from __future__ import annotations

import os
from struct import pack

from berth.kernel import number
from berth.runtime.reaper import elf

_MFD_EXEC = 0x10

# fmt: off
_BEGIN = (
    "4889e3"        # mov rbx, rsp
    #               mov edi, REPORT (follows)
)
_EXECUTE = (
    # fcntl(report, F_SETFD, FD_CLOEXEC)
    "be02000000"    # mov esi, 2
    "ba01000000"    # mov edx, 1
    "b848000000"    # mov eax, 72
    "0f05"          # syscall
    "85c0"          # test eax, eax
    "7817"          # js failed
    # execve(argv[0], argv + 1, envp)
    "488b7b08"      # mov rdi, [rbx+8]
    "488d7310"      # lea rsi, [rbx+16]
    "488b03"        # mov rax, [rbx]
    "488d54c310"    # lea rdx, [rbx+rax*8+16]
    "b83b000000"    # mov eax, 59
    "0f05"          # syscall
    # failed: write(report, &errno, 4)
    "f7d8"          # neg eax
    "50"            # push rax
    "4889e6"        # mov rsi, rsp
    #               mov edi, REPORT (follows)
)
_END = (
    "ba04000000"    # mov edx, 4
    "b801000000"    # mov eax, 1
    "0f05"          # syscall
    "bf7f000000"    # mov edi, 127
    "b8e7000000"    # mov eax, 231
    "0f05"          # syscall
)
# fmt: on


def available() -> bool:
    """Whether it exists for this machine; elsewhere the command has to run from a read-only mount."""
    return number.MACHINE == "x86_64"


def prepare(report: int) -> int:
    """The program as a descriptor, close-on-exec, not open for writing anywhere: only such a file can be executed."""
    register = b"\xbf" + pack("<i", report)
    code = bytes.fromhex(_BEGIN) + register + bytes.fromhex(_EXECUTE) + register + bytes.fromhex(_END)
    try:
        memory = os.memfd_create("start", os.MFD_CLOEXEC | _MFD_EXEC)
    except OSError:
        # before Linux 6.3 the flag is unknown, and every such file may be executed
        memory = os.memfd_create("start", os.MFD_CLOEXEC)
    try:
        os.write(memory, elf(code))
        os.fchmod(memory, 0o555)
        return os.open(f"/proc/self/fd/{memory}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(memory)
