"""Capabilities: names, masks, and giving them up."""

from __future__ import annotations

import ctypes
from struct import pack

from berth.kernel.file import read_text
from berth.kernel.libc import check, libc
from berth.kernel.process import PR_CAP_AMBIENT, PR_CAPBSET_DROP, prctl

_ALL = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
NAMES = _ALL.split()
"""By number, without CAP_."""

NUMBERS = {"CAP_" + name: index for index, name in enumerate(NAMES)}

_VERSION_3 = 0x20080522
_AMBIENT_RAISE, _AMBIENT_CLEAR = 2, 4


def mask(names: list[str] | tuple[str, ...] | frozenset[str]) -> int:
    """The bit mask of CAP_* names. KeyError for an unknown one."""
    bits = 0
    for name in names:
        bits |= 1 << NUMBERS[name]
    return bits


def last() -> int:
    """The highest capability that this kernel knows."""
    return int(read_text("/proc/sys/kernel/cap_last_cap"))


def effective() -> int:
    """The effective set of this process."""
    header = ctypes.create_string_buffer(pack("Ii", _VERSION_3, 0))
    data = (ctypes.c_uint32 * 6)()
    check(libc.capget(header, data), "capget")
    return int(data[0] | data[3] << 32)


def drop_bounding(keep: int, highest: int) -> None:
    """Remove everything from the bounding set but the bits of `keep`."""
    for index in range(highest + 1):
        if not keep >> index & 1:
            prctl(PR_CAPBSET_DROP, index)


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) of this process, from masks."""
    low, high = 0xFFFFFFFF, 32
    header = ctypes.create_string_buffer(pack("Ii", _VERSION_3, 0))
    words = [effective & low, permitted & low, inheritable & low, effective >> high, permitted >> high, inheritable >> high]
    check(libc.capset(header, ctypes.create_string_buffer(pack("6I", *words))), "capset")


def set_ambient(bits: int) -> None:
    """Exactly these are ambient; each must be permitted and inheritable."""
    prctl(PR_CAP_AMBIENT, _AMBIENT_CLEAR)
    for index in range(64):
        if bits >> index & 1:
            prctl(PR_CAP_AMBIENT, _AMBIENT_RAISE, index)
