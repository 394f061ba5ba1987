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

OPEN_TREE = 428
MOVE_MOUNT = 429
FSOPEN = 430
FSCONFIG = 431
FSMOUNT = 432
PIDFD_OPEN = 434
CLONE3 = 435
CLOSE_RANGE = 436
MOUNT_SETATTR = 442
