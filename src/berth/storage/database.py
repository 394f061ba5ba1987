"""The engine's state: one SQLite file, `berth.db`, in WAL mode.

One transaction per change of state. A commit survives a kill of the process at once; it survives a power cut when the
transaction was `durable` (the log is flushed before the commit returns) or a `flush` came after it, which is what
everything needs that was acknowledged to a user: images, volumes, networks, containers without --rm. Schema changes are
numbered in MIGRATIONS and run in order; a database of a newer schema is refused.

Rows hold a document (JSON) and only those columns that are searched or unique. Each service owns its tables.

A full disk must not keep anybody from removing things: `<path>.reserve` holds some space, which is given up when a commit
finds none, piece by piece, and is taken again later.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from berth.errors import BerthError, DataLoss, ResourceExhausted, Unavailable
from berth.kernel.fs import fsync_directory

T = TypeVar("T")
_RESERVE = 1 << 20
_STEP = _RESERVE // 8
# SQLite folds its log into the database when it has 1000 pages, and begins to write it anew from the start.
_LOG_SIZE = 1000 * (4096 + 24) + 32
_ROOMY = 16

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE containers (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, created REAL NOT NULL, document BLOB NOT NULL);
    CREATE TABLE images (id TEXT PRIMARY KEY, chain_id TEXT, created REAL NOT NULL, parent TEXT, size INTEGER NOT NULL);
    CREATE TABLE tags (reference TEXT PRIMARY KEY, image_id TEXT NOT NULL REFERENCES images(id));
    CREATE TABLE repo_digests (reference TEXT PRIMARY KEY, image_id TEXT NOT NULL REFERENCES images(id));
    CREATE TABLE layers (chain_id TEXT PRIMARY KEY, diff_id TEXT NOT NULL, parent TEXT, size INTEGER NOT NULL, blob BLOB);
    CREATE INDEX layers_parent ON layers(parent);
    CREATE TABLE snapshots (key TEXT PRIMARY KEY, parent TEXT);
    CREATE TABLE volumes (name TEXT PRIMARY KEY, created REAL NOT NULL, document BLOB NOT NULL);
    CREATE TABLE networks (id TEXT PRIMARY KEY, name TEXT NOT NULL, created REAL NOT NULL, document BLOB NOT NULL);
    CREATE UNIQUE INDEX networks_name ON networks(name);
    CREATE TABLE endpoints (container_id TEXT NOT NULL, network_id TEXT NOT NULL, document BLOB NOT NULL,
                            PRIMARY KEY (container_id, network_id));
    CREATE TABLE ports (protocol TEXT NOT NULL, address TEXT NOT NULL, port INTEGER NOT NULL, container_id TEXT NOT NULL,
                        document BLOB NOT NULL, PRIMARY KEY (protocol, address, port));
    CREATE TABLE build_cache (key TEXT PRIMARY KEY, created REAL NOT NULL, used REAL NOT NULL, document BLOB NOT NULL);
    CREATE TABLE leases (id TEXT PRIMARY KEY, created REAL NOT NULL, resource TEXT NOT NULL);
    CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL);
    """,
    """
    ALTER TABLE layers ADD COLUMN large_ids TEXT NOT NULL DEFAULT '';
    """,
    """
    CREATE TABLE compressed (diff_id TEXT PRIMARY KEY, digest TEXT NOT NULL, size INTEGER NOT NULL);
    """,
    # Until here the engine's own runtime was recorded as "runc", which now names the binary.
    """
    UPDATE containers SET document = CAST(json_set(CAST(document AS TEXT), '$.host_config.Runtime', 'berth') AS BLOB)
    WHERE json_extract(CAST(document AS TEXT), '$.host_config.Runtime') = 'runc';
    """,
    # Whole indexes (engine/images/index.py). Those that are here already are found when the engine next starts.
    """
    CREATE TABLE indexes (digest TEXT PRIMARY KEY, image_id TEXT NOT NULL REFERENCES images(id));
    CREATE INDEX indexes_image ON indexes(image_id);
    CREATE TABLE index_content (index_digest TEXT NOT NULL REFERENCES indexes(digest), digest TEXT NOT NULL,
                                image_id TEXT REFERENCES images(id), PRIMARY KEY (index_digest, digest));
    CREATE INDEX index_content_digest ON index_content(digest);
    CREATE INDEX index_content_image ON index_content(image_id);
    ALTER TABLE tags ADD COLUMN index_digest TEXT REFERENCES indexes(digest);
    ALTER TABLE repo_digests ADD COLUMN index_digest TEXT REFERENCES indexes(digest);
    CREATE INDEX tags_image ON tags(image_id);
    CREATE INDEX tags_index ON tags(index_digest);
    CREATE INDEX repo_digests_image ON repo_digests(image_id);
    CREATE INDEX repo_digests_index ON repo_digests(index_digest);
    INSERT INTO settings (key, value) VALUES ('images.adopt-indexes', '1');
    """,
    # When an image was last given a name here; 0 for those that have not been since.
    """
    ALTER TABLE images ADD COLUMN tagged REAL NOT NULL DEFAULT 0;
    """,
)


_READ_ERRORS = (sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ)


@contextmanager
def _opening(path: str) -> Iterator[None]:
    """What SQLite says when it cannot use a file, in the words of somebody who wants to know what to do now."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise ResourceExhausted(f"no space left on device while opening {path}: make room and start again") from error
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_IOERR and (lost := _lost(path)):
            raise _unreadable(path, lost) from error
        raise DataLoss(f"cannot open {path} ({error}): see that it is a file which can be written to") from error
    except sqlite3.DatabaseError as error:
        raise _damaged(path, str(error)) from error


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """What SQLite says when it cannot read a page that it needs, and has read once."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        number = getattr(error, "sqlite_errorcode", 0)
        if number & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise _damaged(path, str(error)) from error
        if number in _READ_ERRORS:
            raise _unreadable(path, str(error)) from error
        raise


def _unreadable(path: str, why: str) -> DataLoss:
    return DataLoss(
        f"the database {path} cannot be read ({why}): see what the kernel says of the disk (dmesg); when the disk is well again, "
        "restart the engine, and put back a copy of the database if it is lost (containers go on meanwhile)"
    )


def _refused(path: str, error: sqlite3.OperationalError) -> BerthError:
    """What SQLite says when it cannot write any more, and not for want of room."""
    if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL:
        return ResourceExhausted(
            f"no space left on device while writing the database ({error}): make room (docker system prune) and try again"
        )
    return Unavailable(
        f"the database {path} cannot be written ({error}): see whether its disk has failed or is read-only (dmesg), "
        "and restart the engine when it is back"
    )


def _lost(path: str) -> str:
    """Which of the database's files cannot be read, and why; empty when both can."""
    for name in path, f"{path}-wal":
        try:
            with open(name, "rb") as file:
                while file.read(_RESERVE):
                    pass
        except FileNotFoundError:
            pass
        except OSError as error:
            return f"{name}: {(error.strerror or str(error)).lower()}"
    return ""


def _damaged(path: str, why: str) -> DataLoss:
    # SQLite has one word for a page that is wrong and for one that the disk does not give.
    lost = _lost(path)
    if lost:
        return _unreadable(path, lost)
    return DataLoss(
        f"the database {path} is damaged ({why}); it was left as it is: put back a copy of it, or move the whole directory "
        "away to begin with an empty engine"
    )


# The wal-index (sqlite.org/walformat.html): two copies of a header, then what of the log is in the database file already.
_INDEX_HEADER = struct.Struct("=III BBH I")
_INDEX_COPY = 48
_INDEX_VERSION = 3007000


def _in_log(path: str) -> int:
    """How many pages the database's log holds that are nowhere else, by its index; 0 without one that is whole."""
    try:
        with open(f"{path}-shm", "rb") as file:
            index = file.read(2 * _INDEX_COPY + 4)
    except OSError:
        return 0
    if len(index) < 2 * _INDEX_COPY + 4 or index[:_INDEX_COPY] != index[_INDEX_COPY : 2 * _INDEX_COPY]:
        return 0
    version, _, _, filled, _, _, pages = _INDEX_HEADER.unpack_from(index)
    (copied,) = struct.unpack_from("=I", index, 2 * _INDEX_COPY)
    return pages if version == _INDEX_VERSION and filled and copied < pages else 0


class Database:
    """A connection for one thread, the engine's event loop. Statements take microseconds; only durable commits touch the disk."""

    def __init__(self, path: str, *, same_boot: bool = False) -> None:
        """`same_boot`: the host has not gone down since an engine last wrote it, so that its log has to be whole."""
        expected = _in_log(path) if same_boot else 0
        self._depth = 0
        # Whether commits are flushed by themselves at present; None: not set yet.
        self._durable: bool | None = None
        self._said: list[tuple[str, tuple[Any, ...]]] = []
        self._path = path
        self._reserve = f"{path}.reserve"
        self._reserved = os.path.getsize(self._reserve) if os.path.exists(self._reserve) else 0
        with _opening(path):
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            try:
                self._refuse_newer(path)
                # Reading has recovered the log as far as it is whole.
                self._recovered = _in_log(path)
                self._connection.execute("PRAGMA journal_mode=WAL")
                self._connection.execute("PRAGMA synchronous=NORMAL")
                self._connection.execute("PRAGMA foreign_keys=ON")
                self.check()
                self._migrate()
                self._fill_log()
            except BaseException:
                self._connection.close()
                raise
        # Whether the disk is being waited for, and who waits for the next time.
        self._flushing = False
        self._unflushed: list[tuple[asyncio.Future[None], tuple[str, ...]]] = []
        self._take_reserve()
        if expected and self._recovered < expected:
            self._mark_incomplete(expected)
        self.incomplete = os.path.exists(self.mark)

    @property
    def mark(self) -> str:
        """The file that says that changes are lost. While it is there, nothing is removed for want of a row."""
        return f"{self._path}.incomplete"

    def _mark_incomplete(self, expected: int) -> None:
        try:
            with open(self.mark, "w") as file:
                file.write(f"{expected - self._recovered} of {expected} pages of {self._path}-wal were lost or damaged\n")
        except OSError:
            # The next engine takes the database for whole. There is no other place.
            pass

    def _fill_log(self) -> None:
        """Have the log be as long from the beginning as it becomes: a flush of what is written over takes half as long as one of
        a file that grows, which waits for all else that has been done to the filesystem. SQLite does not read what it has not
        written."""
        if self._path.startswith(":"):
            return
        try:
            fd = os.open(f"{self._path}-wal", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            missing, room = _LOG_SIZE - os.fstat(fd).st_size, os.fstatvfs(fd)
            # A disk that is nearly full has better uses for it.
            if missing > 0 and room.f_bavail * room.f_frsize > _ROOMY * _LOG_SIZE:
                os.pwrite(fd, bytes(missing), _LOG_SIZE - missing)
        except OSError:
            # It grows as it can.
            pass
        finally:
            os.close(fd)

    def _refuse_newer(self, path: str) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise DataLoss(
                f"{path} was written by a newer berth (schema {version}, this one knows {len(MIGRATIONS)}): upgrade berth"
            )

    def _migrate(self) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        for number, script in enumerate(MIGRATIONS[version:], version + 1):
            self._connection.executescript(f"BEGIN; {script} PRAGMA user_version={number}; COMMIT;")

    def rows(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with _reading(self._path):
            return self._connection.execute(sql, parameters).fetchall()

    def row(self, sql: str, parameters: tuple[Any, ...] = ()) -> tuple[Any, ...] | None:
        """The first row, or None."""
        with _reading(self._path):
            found: tuple[Any, ...] | None = self._connection.execute(sql, parameters).fetchone()
        return found

    def execute(self, sql: str, parameters: tuple[Any, ...] = ()) -> int:
        """One statement, in the open transaction or in one of its own; the number of rows changed."""
        with _reading(self._path):
            if self._depth:
                count = self._connection.execute(sql, parameters).rowcount
                self._said.append((sql, parameters))
                return count
            return self._with_reserve(lambda: self._connection.execute(sql, parameters).rowcount)

    def _take_reserve(self) -> None:
        """Set space aside. Whether there is any does not matter here."""
        if self._reserved >= _RESERVE or self._reserve.startswith(":"):
            return
        try:
            fd = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        try:
            os.posix_fallocate(fd, 0, _RESERVE)
            self._reserved = _RESERVE
        except OSError:
            os.ftruncate(fd, self._reserved)
        finally:
            os.close(fd)

    def _give_reserve(self) -> None:
        """Give up a part of it: whoever else writes to the disk takes what is free, so the rest is kept for the next commit."""
        self._reserved = max(0, self._reserved - _STEP)
        try:
            if self._reserved:
                os.truncate(self._reserve, self._reserved)
            else:
                os.unlink(self._reserve)
        except OSError:
            self._reserved = 0

    def _with_reserve(self, statement: Callable[[], T]) -> T:
        """Run a statement that may be tried again; on a full disk again and again, with parts of the reserve given up."""
        while True:
            try:
                found = statement()
                break
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_FULL or not self._reserved:
                    raise _refused(self._path, error) from error
            self._give_reserve()
        self._take_reserve()
        return found

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[None]:
        """Everything inside commits together, or not at all. Nested ones join the outermost. Never await inside."""
        if self._depth:
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
            return
        try:
            if durable is not self._durable:
                self._connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                self._durable = durable
            self._connection.execute("BEGIN IMMEDIATE")
            self._depth = 1
            yield
            with _reading(self._path):
                self._with_reserve(self._commit)
        except sqlite3.OperationalError as error:
            self._roll_back()
            raise _refused(self._path, error) from error
        except BaseException:
            self._roll_back()
            raise
        finally:
            self._depth = 0
            self._said.clear()

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.OperationalError:
                # SQLite has done so by itself: what failed was telling the disk.
                pass

    def _commit(self) -> None:
        if not self._connection.in_transaction:
            # On a full disk SQLite rolls back by itself: say it all again.
            self._connection.execute("BEGIN IMMEDIATE")
            for sql, parameters in self._said:
                self._connection.execute(sql, parameters)
        self._connection.execute("COMMIT")

    def flush(self, *directories: str) -> asyncio.Future[None]:
        """What has been committed survives a power cut when the future ends, and `directories` (what was made in them and of
        them) do before it. The disk is waited for beside everything else, and those who come while it is busy share the next
        flush. Unavailable when the disk fails."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._unflushed.append((future, directories))
        if not self._flushing:
            self._begin_flush(loop)
        return future

    def _begin_flush(self, loop: asyncio.AbstractEventLoop) -> None:
        self._flushing, served, self._unflushed = True, self._unflushed, []
        directories = [directory for _, given in served for directory in given]
        work = loop.run_in_executor(None, self._flush_now, directories)
        work.add_done_callback(lambda done: self._flushed(loop, [future for future, _ in served], done.exception()))

    def _flushed(self, loop: asyncio.AbstractEventLoop, served: list[asyncio.Future[None]], error: BaseException | None) -> None:
        self._flushing = False
        for future in served:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(
                    Unavailable(
                        f"the database {self._path} cannot be flushed ({error}): see whether its disk has failed (dmesg), "
                        "and restart the engine when it is back"
                    )
                )
        if self._unflushed:
            self._begin_flush(loop)

    def _flush_now(self, directories: list[str]) -> None:
        """A log that has been folded into the database since was flushed for that."""
        if self._path.startswith(":"):
            return
        for directory in directories:
            # Who removes it meanwhile needs no flush of it.
            with suppress(FileNotFoundError):
                fsync_directory(directory)
        fd = os.open(f"{self._path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def check(self) -> None:
        """DataLoss when the file is damaged."""
        (answer,) = self._connection.execute("PRAGMA quick_check").fetchone()
        if answer != "ok":
            raise _damaged(self._path, str(answer).splitlines()[-1])

    def close(self) -> None:
        """Fold the log into the database and close it."""
        self._connection.close()
