"""System call numbers that differ between architectures, and those that are the same everywhere (424 and above)."""

from __future__ import annotations

import os

MACHINE = os.uname().machine
_ARM = MACHINE == "aarch64"

PIVOT_ROOT = 41 if _ARM else 155
SECCOMP = 277 if _ARM else 317
BPF = 280 if _ARM else 321
EXECVEAT = 281 if _ARM else 322
CAPGET = 90 if _ARM else 125
RT_SIGACTION = 134 if _ARM else 13
KEYCTL = 219 if _ARM else 250
IOPRIO_SET = 30 if _ARM else 251
SCHED_SETATTR = 274 if _ARM else 314

OPEN_TREE = 428
MOVE_MOUNT = 429
FSOPEN = 430
FSCONFIG = 431
FSMOUNT = 432
PIDFD_OPEN = 434
CLONE3 = 435
CLOSE_RANGE = 436
MOUNT_SETATTR = 442
QUOTACTL_FD = 443

MMAP = 222 if _ARM else 9
COMPUTING = (
    (63, 64, 57, 62, 215, 214, 139, 216, 233, 98, 93, 94, 113, 278)
    if _ARM
    else (0, 1, 3, 8, 11, 12, 15, 25, 28, 202, 60, 231, 228, 318)
)
"""What a process needs that only computes, besides mmap: read, write, close, lseek, munmap, brk, rt_sigreturn, mremap, madvise,
futex, exit, exit_group, clock_gettime, getrandom."""
