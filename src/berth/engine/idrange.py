"""Host ids for user namespaces: a range of 65,536 per running task, and single ids for what lies outside of it.

The host ids 1,879,048,192 to 2,147,352,575, which nothing else assigns, are cut into slots of 66,048: 65,536 for the
container's ids 0 to 65,535, and 512 for single large ones (a large --user, owners of bind sources, large ids in image
layers). 64 slots are a block. An engine claims whole blocks through /run/berth-idranges/<block>, a file that holds the
engine's root; the directory's lock file /run/berth-idranges.lock is held while claims change. A claim lasts as long as
the file: containers outlive their engine. Claims of engines whose root is gone are free. Slots that /etc/subuid or
/etc/subgid gave to a user are skipped.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from berth import failpoint
from berth.errors import ResourceExhausted
from berth.model.oci import IdMapping

log = logging.getLogger("berth.containers")
FIRST = 1_879_048_192
LAST = 2_147_352_575
RANGE = 65_536
EXTRA = 512
SLOT = RANGE + EXTRA
SLOTS_PER_BLOCK = 64
BLOCKS = (LAST + 1 - FIRST) // (SLOT * SLOTS_PER_BLOCK)
LARGEST_ID = 2**32 - 2
# The kernel takes 340 lines in an id map.
MAX_EXTENTS = 339
CLAIMS = "/run/berth-idranges"


def mapping(base: int, large: Iterable[int] = ()) -> list[IdMapping]:
    """The id map of a slot: the range, and one line per id above it (what does not fit in 340 lines is left out)."""
    lines = [IdMapping(container_id=0, host_id=base, size=RANGE)]
    wanted = sorted({i for i in large if RANGE <= i <= LARGEST_ID})[:MAX_EXTENTS]
    return lines + [IdMapping(container_id=i, host_id=base + RANGE + n, size=1) for n, i in enumerate(wanted)]


def subordinate_ranges(text: str) -> list[tuple[int, int]]:
    """(first, last) of each line name:first:count of /etc/subuid."""
    found = []
    for line in text.splitlines():
        parts = line.strip().split(":")
        if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit():
            found.append((int(parts[1]), int(parts[1]) + int(parts[2]) - 1))
    return found


class IdRanges:
    """The slots of one engine. Not for several threads."""

    def __init__(self, root: str, run: str = CLAIMS, subordinate: tuple[str, ...] = ("/etc/subuid", "/etc/subgid")) -> None:
        self._root = os.path.realpath(root)
        self._run = run
        self._subordinate = subordinate
        self._used: dict[int, int] = {}
        self._free: list[int] = []
        self._blocks: set[int] = set()
        self._loaded = False

    def adopt(self, base: int) -> None:
        """One more task has this range: it ran before this engine did, or it joins the one that took it."""
        self._load()
        self._used[base] = self._used.get(base, 0) + 1
        block = (base - FIRST) // (SLOT * SLOTS_PER_BLOCK)
        if block not in self._blocks and 0 <= block < BLOCKS:
            self._claim_again(block)
        if base in self._free:
            self._free.remove(base)

    def take(self) -> int:
        """The first host id of a free slot."""
        self._load()
        if not self._free:
            self._claim()
        base = self._free.pop()
        self._used[base] = 1
        return base

    def give_back(self, base: int) -> None:
        """Once for each take and adopt. The range is free when its last task has ended."""
        left = self._used.get(base, 0) - 1
        if left > 0:
            self._used[base] = left
        elif left == 0:
            del self._used[base]
            self._free.append(base)

    def close(self) -> None:
        """Give up the blocks in which nothing runs."""
        with self._locked():
            for block in list(self._blocks):
                if not any(base in self._used for base in _bases(block)):
                    os.unlink(f"{self._run}/{block}")
                    self._blocks.discard(block)
        self._free, self._loaded = [], False

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        with self._locked():
            for block, owner in self._claims():
                if owner == self._root:
                    self._add(block)

    def _claim(self) -> None:
        with self._locked():
            taken = {block for block, owner in self._claims() if os.path.isdir(owner)}
            for block in range(BLOCKS):
                if block in taken:
                    continue
                if os.path.isdir(f"{self._run}/{block}"):
                    continue
                failpoint.hit("ids.claim.before-file")
                with open(f"{self._run}/{block}", "w", encoding="utf-8") as file:
                    file.write(self._root)
                failpoint.hit("ids.claim.after-file")
                self._add(block)
                if self._free:
                    return
        raise ResourceExhausted("no free range of host ids for another container: stop some, or run it with --userns=host")

    def _claim_again(self, block: int) -> None:
        """Something runs with ids of a block whose claim is damaged or gone: nobody else may take it for free."""
        path = f"{self._run}/{block}"
        with self._locked():
            owner = dict(self._claims()).get(block, "")
            if os.path.isdir(owner):
                log.error("%s says that its host ids are those of %s, but containers here have them: restart these", path, owner)
                return
            log.warning("the claim of host ids in %s was damaged or missing, and is written again", path)
            if os.path.isdir(path):
                os.rmdir(path)
            with open(path, "w", encoding="utf-8") as file:
                file.write(self._root)
        self._add(block)

    def _add(self, block: int) -> None:
        avoided = self._avoided()
        self._blocks.add(block)
        for base in reversed(_bases(block)):
            inside = any(first <= base + SLOT - 1 and base <= last for first, last in avoided)
            if base not in self._used and not inside:
                self._free.append(base)

    def _avoided(self) -> list[tuple[int, int]]:
        found = []
        for path in self._subordinate:
            try:
                with open(path, encoding="utf-8", errors="replace") as file:
                    found += subordinate_ranges(file.read())
            except FileNotFoundError:
                continue
        return found

    def _claims(self) -> Iterator[tuple[int, str]]:
        for name in os.listdir(self._run):
            if name.isdigit():
                # Other engines' files, too: what cannot be read is nobody's.
                try:
                    with open(f"{self._run}/{name}", encoding="utf-8", errors="replace") as file:
                        owner = file.read().replace("\0", "?")
                except OSError:
                    owner = ""
                yield int(name), owner

    @contextmanager
    def _locked(self) -> Iterator[None]:
        os.makedirs(self._run, mode=0o700, exist_ok=True)
        fd = os.open(self._run + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _bases(block: int) -> range:
    first = FIRST + block * SLOT * SLOTS_PER_BLOCK
    return range(first, first + SLOT * SLOTS_PER_BLOCK, SLOT)
