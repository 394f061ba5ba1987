"""Writable snapshots: a pair upper/work on top of a stack of layers.

    containers/<key>/upper    what was changed, in overlay form
    containers/<key>/work     overlayfs's own

Nothing is mounted here: `prepare` and `mounts` say what to mount. Overlays that come from here can always be mounted: the
layer `base` lies below all images of containers, and empty directories stand in where a view has not enough layers.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial

from berth import failpoint
from berth.contract.store import Layer
from berth.errors import AlreadyExists, BerthError, DataLoss, InvalidArgument, NotFound
from berth.kernel.fs import remove_tree
from berth.model.digest import Digest
from berth.model.rootfs import Change, Overlay
from berth.storage.copy import Treatment, copy_tree
from berth.storage.database import Database
from berth.storage.diff import changes
from berth.storage.layer import THREADS, LayerStore, make_like
from berth.storage.pack import look
from berth.storage.quota import Quotas
from berth.storage.space import translated
from berth.storage.stream import run_stoppable
from berth.storage.walk import walk

_KEY = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}\Z")
_BUILD = "build-"


class SnapshotStore:
    """Implements contract.store.Snapshots below the data root."""

    def __init__(self, root: str, database: Database, layers: LayerStore, quotas: Quotas) -> None:
        self._root = root
        self._database = database
        self._layers = layers
        self._quotas = quotas
        os.makedirs(f"{root}/containers", mode=0o700, exist_ok=True)

    def _directory(self, key: str) -> str:
        if not _KEY.match(key):
            raise InvalidArgument(f"invalid snapshot name {key!r}")
        return f"containers/{key}"

    def _parent(self, key: str) -> Digest | None:
        row = self._database.row("SELECT parent FROM snapshots WHERE key = ?", (key,))
        if row is None:
            raise NotFound(f"no snapshot of {key}")
        return Digest(row[0]) if row[0] is not None else None

    def check_sizes(self, what: str) -> None:
        """InvalidArgument, beginning with `what`, where snapshots cannot have a size."""
        self._quotas.check(what)

    async def prepare(self, key: str, parent: Digest | None, size: int = 0) -> Overlay:
        """Make upper and work on top of the parent. With a size, what is written there can be so many bytes. AlreadyExists;
        NotFound without the parent."""
        directory = self._directory(key)
        if self._database.row("SELECT 1 FROM snapshots WHERE key = ?", (key,)) is not None:
            raise AlreadyExists(f"there is a snapshot of {key} already")
        layers = self._layers.stack(parent)
        self._check_present(layers)
        top = next(iter(layers), None)
        with translated(f"making the filesystem of {key}"):
            failpoint.hit("snapshot.prepare.before-directories")
            os.makedirs(f"{self._root}/{directory}", mode=0o700, exist_ok=True)
            for name in ("upper", "work"):
                path = f"{self._root}/{directory}/{name}"
                if os.path.lexists(path):
                    # What a crash left; the row would be there if it counted.
                    self._discard(path)
                os.mkdir(path, 0o700)
            make_like(f"{self._root}/{top}" if top is not None else None, f"{self._root}/{directory}/upper")
            if size:
                self._quotas.limit(size, f"{self._root}/{directory}/upper", f"{self._root}/{directory}/work")
        failpoint.hit("snapshot.prepare.before-row")
        with self._database.transaction():
            self._database.execute("INSERT INTO snapshots (key, parent) VALUES (?, ?)", (key, parent))
        failpoint.hit("snapshot.prepare.after-row")
        return self.mounts(key)

    def _check_present(self, layers: Sequence[str]) -> None:
        """DataLoss when somebody took away what the database knows: not a missing image, which a client would pull."""
        for directory in layers:
            if not os.path.isdir(f"{self._root}/{directory}"):
                raise DataLoss(
                    f"layer {directory.split('/')[1]} of the image is missing in {self._root}: remove the image (docker rmi -f) "
                    "and everything that shares the layer, then pull, load or build it again"
                )

    def check(self, key: str, size: int = 0) -> None:
        """DataLoss when somebody took away what is to be mounted. The work directory holds nothing between mounts, and is made
        again. A size that has got lost is set again."""
        self._check_present(self._layers.stack(self._parent(key)))
        directory = self._directory(key)
        upper, work = (f"{self._root}/{directory}/{name}" for name in ("upper", "work"))
        if not os.path.isdir(upper):
            raise DataLoss(
                f"the writable layer {upper} is missing, or is no directory: put it back, or remove the container (docker rm) "
                "and create it again; what it had written is lost then"
            )
        if not os.path.isdir(work):
            with translated(f"making {work}"):
                remove_tree(work)
                os.mkdir(work, 0o700)
        if size:
            self._quotas.keep(size, f"container {key[:12]}", upper, work)

    def mounting(self, key: str, size: int) -> AbstractContextManager[None]:
        """What it is mounted within: a full snapshot could only be mounted read-only otherwise."""
        return self._quotas.with_room(size, f"{self._root}/{self._directory(key)}/upper") if size else nullcontext()

    def mounts(self, key: str) -> Overlay:
        """What to mount. NotFound without the snapshot."""
        directory = self._directory(key)
        return Overlay(
            store=self._root,
            layers=(*self._layers.stack(self._parent(key)), LayerStore.base),
            upper=f"{directory}/upper",
            work=f"{directory}/work",
        )

    def view(self, parent: Digest | None) -> Overlay:
        """The read-only view of a stack of layers. A read-only overlay needs two of them at least."""
        layers = self._layers.stack(parent)
        return Overlay(store=self._root, layers=layers + LayerStore.empty[: max(0, 2 - len(layers))])

    def keys(self) -> list[str]:
        """All snapshots."""
        return [key for (key,) in self._database.rows("SELECT key FROM snapshots ORDER BY key")]

    async def changes(self, key: str) -> list[Change]:
        """What differs from the parent, sorted by path."""

        def work(stop: Callable[[], bool]) -> list[Change]:
            with translated(f"comparing the filesystem of {key}"), _opened(upper, lower) as (top, below):
                return changes(top, below)

        self.check(key)
        upper, lower = self._paths(key)
        return await run_stoppable(self._layers.executor, work)

    def _paths(self, key: str) -> tuple[str, list[str]]:
        lower = (*self._layers.stack(self._parent(key)), LayerStore.base)
        return f"{self._root}/{self._directory(key)}/upper", [f"{self._root}/{layer}" for layer in lower]

    async def commit(self, key: str, *, keep: bool) -> Layer | None:
        """The upper directory as a new layer. Without `keep` it is moved, and the snapshot is gone afterwards."""
        parent = self._parent(key)
        upper, lower = self._paths(key)
        async with self._layers.staging(parent) as staging:

            def take(stop: Callable[[], bool]) -> bool:
                failpoint.hit("snapshot.commit.before-take")
                with translated(f"committing {key}"):
                    if keep:
                        _copy(upper, f"{staging}/fs", stop)
                    else:
                        os.rmdir(f"{staging}/fs")
                        os.rename(upper, f"{staging}/fs")
                    failpoint.hit("snapshot.commit.after-take")
                    with _opened(f"{staging}/fs", lower) as (top, below):
                        return not os.listdir(top) and look(os.fstat(top)) == self._look_below(below)

            try:
                unchanged = await run_stoppable(self._layers.executor, take)
                layer = None if unchanged else await self._layers.adopt(parent, staging)
            except BaseException:
                if not keep and not os.path.lexists(upper) and os.path.lexists(f"{staging}/fs"):
                    os.rename(f"{staging}/fs", upper)
                raise
        failpoint.hit("snapshot.commit.after-layer")
        if not keep:
            await self.remove(key)
        return layer

    @staticmethod
    def _look_below(below: list[int]) -> tuple[int, int, int]:
        return look(os.fstat(below[0])) if below else (0o755, 0, 0)

    async def usage(self, key: str) -> int:
        """Bytes in the upper directory: the sizes of its files, each inode once."""
        self._parent(key)
        upper = f"{self._root}/{self._directory(key)}/upper"

        def work(stop: Callable[[], bool]) -> int:
            with translated(f"measuring {key}"), _opened(upper, []) as (top, _):
                return size_of(top)

        return await run_stoppable(self._layers.executor, work)

    async def usages(self, keys: Sequence[str]) -> list[int]:
        """`usage` of many; 0 for one that is not there. In a few jobs, since one for each costs more than the measuring."""
        uppers = [f"{self._root}/{self._directory(key)}/upper" for key in keys]

        def work(part: Sequence[str], stop: Callable[[], bool]) -> list[int]:
            return [_size_if_there(upper) for upper in part if not stop()]

        parts = [uppers[start::THREADS] for start in range(THREADS)]
        jobs = (run_stoppable(self._layers.executor, partial(work, part)) for part in parts if part)
        found = [0] * len(uppers)
        for start, sizes in enumerate(await asyncio.gather(*jobs)):
            found[start::THREADS] = sizes
        return found

    async def remove(self, key: str) -> None:
        """Idempotent. The files are gone, too, when this returns; on a full disk the database may need their room."""
        emptying = self.put_aside(key)
        try:
            self.forget(key)
        except BerthError:
            await asyncio.shield(emptying)
            self.forget(key)
        else:
            await asyncio.shield(emptying)

    def put_aside(self, key: str) -> asyncio.Future[None]:
        """The first half of `remove`: the directory is not there any more, with all that the container service has in it. The
        future ends when its files are gone."""
        failpoint.hit("snapshot.remove.before-rename")
        trash = self._put_aside(f"{self._root}/{self._directory(key)}")
        failpoint.hit("snapshot.remove.after-rename")
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._layers.executor, self._quotas.remove_tree, trash) if trash is not None else _done(loop)

    def forget(self, key: str) -> None:
        """The second half: the row. Idempotent."""
        with self._database.transaction():
            self._database.execute("DELETE FROM snapshots WHERE key = ?", (key,))

    def _put_aside(self, path: str) -> str | None:
        trash = f"{self._root}/layers/.trash-{os.urandom(8).hex()}"
        try:
            os.rename(path, trash)
        except FileNotFoundError:
            return None
        return trash

    def _discard(self, path: str) -> None:
        trash = self._put_aside(path)
        if trash is not None:
            self._layers.executor.submit(self._quotas.remove_tree, trash)

    def sweep(self, running: frozenset[str] = frozenset()) -> int:
        """At engine start: builds that nobody waits for any more, and directories without a row. Returns how many go.

        A container whose upper directory is lost keeps its row: it is not forgotten, and told when it is used.
        """
        removed = 0
        containers = {key for (key,) in self._database.rows("SELECT id FROM containers")}
        for key in self.keys():
            lost = key not in containers and not os.path.lexists(f"{self._root}/containers/{key}/upper")
            if lost or (key.startswith(_BUILD) and key not in running):
                self._database.execute("DELETE FROM snapshots WHERE key = ?", (key,))
        known = set(self.keys())
        for key in os.listdir(f"{self._root}/containers"):
            if key in known:
                continue
            for name in ("upper", "work"):
                if os.path.lexists(f"{self._root}/containers/{key}/{name}"):
                    self._discard(f"{self._root}/containers/{key}/{name}")
                    removed += 1
            if key.startswith(_BUILD):
                try:
                    os.rmdir(f"{self._root}/containers/{key}")
                except OSError:
                    pass
        return removed


def _done(loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
    future: asyncio.Future[None] = loop.create_future()
    future.set_result(None)
    return future


def _size_if_there(upper: str) -> int:
    with translated(f"measuring {upper}"):
        try:
            with _opened(upper, []) as (top, _):
                return size_of(top)
        except FileNotFoundError:
            return 0


def size_of(root: int) -> int:
    """Bytes of the regular files below an open directory, each inode once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for entry in walk(root):
        status = entry.status
        if not stat.S_ISREG(status.st_mode):
            continue
        if status.st_nlink > 1:
            inode = (status.st_dev, status.st_ino)
            if inode in seen:
                continue
            seen.add(inode)
        total += status.st_size
    return total


def _copy(source: str, destination: str, stop: Callable[[], bool]) -> None:
    with _opened(source, [destination]) as (upper, (target,)):
        copy_tree(upper, b"", target, Treatment(layer=True, stop=stop))


@contextmanager
def _opened(first: str, others: list[str]) -> Iterator[tuple[int, list[int]]]:
    """Descriptors of directories."""
    with ExitStack() as stack:
        opened = []
        for path in (first, *others):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            opened.append(fd)
        yield opened[0], opened[1:]
