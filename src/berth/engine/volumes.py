"""Volumes: data that outlives containers.

    volumes/<name>/_data      the content, with the ids that containers see
    volumes/.trash-<random>   on its way out

A volume counts when its row is in the database; the directory is made and flushed before, and goes after it.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping

import msgspec

from berth import failpoint
from berth.contract.usage import Usage
from berth.contract.volume import Held, Volume
from berth.engine import volume_options
from berth.engine.events import Events
from berth.engine.idmap import can_idmap, kernel_version
from berth.engine.memory_volumes import MemoryVolumes
from berth.errors import Conflict, InvalidArgument, NotFound
from berth.kernel.fs import fsync_directory
from berth.kernel.paths import open_in_root
from berth.model.filters import Filters
from berth.model.identifier import new_id
from berth.model.mount_type import FILESYSTEM_MOUNT
from berth.model.oci import Mount
from berth.storage.database import Database
from berth.storage.quota import Quotas
from berth.storage.snapshot import size_of
from berth.storage.space import translated
from berth.wire import volume as wire

ANONYMOUS = "com.docker.volume.anonymous"
LIST_FILTERS = ("dangling", "driver", "label", "name")
PRUNE_FILTERS = ("all", "label", "label!")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")
_PINNED = 64
Names = list[str]


class VolumeService:
    """Implements contract.volume.Volumes. `usage` is set when the engine is put together."""

    usage: Usage

    def __init__(self, root: str, database: Database, events: Events, memory: MemoryVolumes, quotas: Quotas) -> None:
        self._volumes = f"{root}/volumes"
        self._database = database
        self._events = events
        self._memory = memory
        self._quotas = quotas
        self._pinned: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._removing: set[asyncio.Future[None]] = set()
        os.makedirs(self._volumes, mode=0o700, exist_ok=True)

    # Looking up

    def get(self, name: str) -> Volume:
        """NotFound: `get NAME: no such volume`."""
        row = self._database.row("SELECT document FROM volumes WHERE name = ?", (name,))
        if row is None:
            raise NotFound(f"get {name}: no such volume")
        return msgspec.json.decode(row[0], type=Volume)

    def list(self, filters: Filters) -> list[Volume]:
        """The volumes that match dangling, driver, label and name (a part of it, or a pattern), by name."""
        rows = self._database.rows("SELECT document FROM volumes ORDER BY name")
        found = [msgspec.json.decode(document, type=Volume) for (document,) in rows]
        users = self.usage.by_volume() if "dangling" in filters else Counter()
        return [volume for volume in found if self._matches(volume, filters, users)]

    @staticmethod
    def _matches(volume: Volume, filters: Filters, users: Counter[str]) -> bool:
        if "name" in filters and not any(_part_of(pattern, volume.name) for pattern in filters.get("name")):
            return False
        if "driver" in filters and volume.driver not in filters.get("driver"):
            return False
        if "dangling" in filters and bool(users[volume.name]) == filters.flag("dangling"):
            return False
        return filters.match_labels(volume.labels)

    def describe(self, volume: Volume) -> wire.Volume:
        """As the API shows it."""
        return wire.Volume(
            name=volume.name,
            driver=volume.driver,
            mountpoint=self._data(volume.name),
            created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(volume.created)),
            labels=volume.labels,
            scope="local",
            options=volume.options,
        )

    def _data(self, name: str) -> str:
        return f"{self._volumes}/{name}/_data"

    def is_empty(self, volume: Volume) -> bool:
        """Whether image content should be copied up into it."""
        if volume.options.keys() - {"size"}:
            return False
        with os.scandir(volume.mountpoint) as entries:
            return next(iter(entries), None) is None

    async def size(self, volume: Volume) -> int:
        """Bytes of its files; 0 when it holds none of its own."""
        return await asyncio.to_thread(_size, self._data(volume.name))

    # Making and removing

    def create(
        self,
        name: str = "",
        *,
        driver: str = "local",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        owner: str = "",
    ) -> Volume:
        """Idempotent for the same driver and options. Durable when this returns. `owner`: whose an anonymous one is."""
        anonymous = not name
        if anonymous:
            name = new_id()
        wanted = dict(options or {})
        if driver not in ("local", ""):
            raise NotFound(f'create {name}: error looking up volume plugin {driver}: plugin "{driver}" not found')
        existing = self._existing(name, wanted)
        if existing is not None:
            return existing
        _check_name(name)
        try:
            volume_options.check(wanted)
            size = volume_options.size(wanted)
        except InvalidArgument as error:
            raise InvalidArgument(f"create {name}: {error.message}") from error
        if size:
            self._quotas.check(f"create {name}: quota size requested but no quota support")
        volume = Volume(
            name=name,
            mountpoint=wanted["device"] if volume_options.is_bind(wanted) else self._data(name),
            created=time.time(),
            labels={**(labels or {}), **({ANONYMOUS: ""} if anonymous else {})},
            options=wanted,
            anonymous=anonymous,
            owner=owner if anonymous else "",
        )
        failpoint.hit("volume.create.before-directory")
        self._make_directory(name, size)
        failpoint.hit("volume.create.after-directory")
        with self._database.transaction(durable=True):
            self._database.execute(
                "INSERT INTO volumes (name, created, document) VALUES (?, ?, ?)",
                (name, volume.created, msgspec.json.encode(volume)),
            )
        failpoint.hit("volume.create.after-row")
        self._events.publish("volume", "create", name, {"driver": "local"})
        return volume

    def keep(self, names: Iterable[str]) -> None:
        """These anonymous volumes outlive their container. Idempotent; what is missing is passed over."""
        for name in names:
            try:
                volume = self.get(name)
            except NotFound:
                continue
            if volume.owner and not volume.kept:
                document = msgspec.json.encode(msgspec.structs.replace(volume, kept=True))
                self._database.execute("UPDATE volumes SET document = ? WHERE name = ?", (document, name))

    def _existing(self, name: str, options: dict[str, str]) -> Volume | None:
        try:
            volume = self.get(name)
        except NotFound:
            return None
        if options and options != volume.options:
            raise Conflict(f"a volume named {name} exists already with other options: remove it first, or choose another name")
        return volume

    def _make_directory(self, name: str, size: int) -> None:
        place = f"{self._volumes}/{name}"
        with translated(f"creating volume {name}"):
            if os.path.lexists(place):
                # What a crash left: the row would be there if it counted.
                os.rename(place, self._trash())
            os.mkdir(place, 0o701)
            os.mkdir(f"{place}/_data", 0o755)
            os.chmod(f"{place}/_data", 0o755)
            if size:
                self._limit(place, size)
            fsync_directory(place)
            fsync_directory(self._volumes)

    def _limit(self, place: str, size: int) -> None:
        try:
            self._quotas.limit(size, f"{place}/_data")
            fsync_directory(f"{place}/_data")
        except BaseException:
            self._quotas.remove_tree(place)
            raise

    def _trash(self) -> str:
        return f"{self._volumes}/.trash-{os.urandom(8).hex()}"

    async def remove(self, name: str, *, force: bool = False) -> None:
        """Conflict while used, whatever `force` says. With `force`, a missing one is fine."""
        try:
            volume = self.get(name)
        except NotFound:
            if force:
                return
            raise
        users = self.usage.of_volume(name)
        if users:
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(user.id for user in users)}]")
        await self._remove(volume)

    async def _remove(self, volume: Volume) -> None:
        name = volume.name
        failpoint.hit("volume.remove.before-row")
        with self._database.transaction(durable=True):
            self._database.execute("DELETE FROM volumes WHERE name = ?", (name,))
        failpoint.hit("volume.remove.after-row")
        self._memory.forget(volume)
        for key in [key for key in self._pinned if key[0] == name]:
            os.close(self._pinned.pop(key))
        trash = self._trash()
        try:
            os.rename(f"{self._volumes}/{name}", trash)
        except FileNotFoundError:
            trash = ""
        failpoint.hit("volume.remove.after-rename")
        self._events.publish("volume", "destroy", name, {"driver": "local"})
        if trash:
            with translated(f"removing volume {name}"):
                await asyncio.shield(asyncio.to_thread(self._quotas.remove_tree, trash))

    async def prune(self, filters: Filters, *, anonymous_only: bool = True) -> tuple[tuple[str, ...], int]:
        """Remove what no container uses: names, and bytes set free. The filter `all` includes volumes that have a name."""
        everything = filters.flag("all") or not anonymous_only
        names: Names = []
        freed = 0
        for volume in self.list(Filters()):
            if not (everything or volume.anonymous) or self.usage.of_volume(volume.name):
                continue
            excluded = "label!" in filters and _any_label(filters.get("label!"), volume.labels)
            if excluded or not filters.match_labels(volume.labels):
                continue
            size = await self.size(volume)
            if self.usage.of_volume(volume.name):
                # A container took it while its size was counted.
                continue
            await self._remove(volume)
            names.append(volume.name)
            freed += size
        self._events.publish("volume", "prune", "", {"reclaimed": str(freed)})
        return tuple(names), freed

    async def sweep(self) -> int:
        """At engine start, when the containers are known: remove anonymous volumes whose container was never recorded, or was
        removed with them by an engine that did not come to it; and directories that no row speaks for. Returns how many."""
        for volume in self.list(Filters()):
            if volume.owner and not volume.kept:
                users = {user.id for user in self.usage.of_volume(volume.name)}
                if not users:
                    await self._remove(volume)
                elif volume.owner not in users:
                    self.keep([volume.name])
        known = {name for (name,) in self._database.rows("SELECT name FROM volumes")}
        found = [name for name in os.listdir(self._volumes) if name not in known]
        for name in found:
            await asyncio.to_thread(self._quotas.remove_tree, f"{self._volumes}/{name}")
        return len(found)

    # Mounting

    async def hold(self, volume: Volume) -> Held | None:
        """The filesystem of a volume in memory while it is used, shared by those who use it at the same time."""
        if volume.options.get("type") != "tmpfs" or not can_idmap("tmpfs", kernel_version()):
            return None
        return await self._memory.hold(volume)

    def mount(self, volume: Volume, destination: str, *, read_only: bool, subpath: str = "", held: Held | None = None) -> Mount:
        """The OCI mount that shows the volume at `destination`."""
        options = volume_options.mount_options(volume.options)
        # A volume that is read-only by its own options stays so, whatever the container asks for.
        frozen = "ro" in options
        access = "ro" if read_only or frozen else "rw"
        if volume.options.get("type") == "tmpfs":
            if subpath:
                raise InvalidArgument(f"volume {volume.name} is a tmpfs: it has no subpath {subpath!r}")
            if held is not None:
                options = ["rbind", "rprivate", *options, access]
                return Mount(destination=destination, type="bind", source=held.source, options=options)
            return Mount(destination=destination, type="tmpfs", source="tmpfs", options=[*options, access])
        if volume.options.get("type") in volume_options.NETWORK | volume_options.DISK:
            if subpath:
                raise InvalidArgument(f"volume {volume.name} is a filesystem of its own: it has no subpath {subpath!r}")
            options = [f"type={volume.options['type']}", *(["frozen"] if frozen else []), *options, access]
            return Mount(destination=destination, type=FILESYSTEM_MOUNT, source=volume.options["device"], options=options)
        if not os.path.lexists(volume.mountpoint):
            raise NotFound(
                f"failed to mount local volume: mount {volume.mountpoint}:{self._data(volume.name)}: no such file or directory"
            )
        size = volume_options.size(volume.options)
        if size:
            self._quotas.keep(size, f"volume {volume.name}", volume.mountpoint)
        source = self._pin(volume, subpath) if subpath else volume.mountpoint
        return Mount(destination=destination, type="bind", source=source, options=["rbind", "rprivate", *options, access])

    def _pin(self, volume: Volume, subpath: str) -> str:
        """A path that leads to exactly the directory that was looked up, whatever containers swap in the volume meanwhile.

        Links are resolved inside the volume. The descriptor is kept until many others came after it.
        """
        root = os.open(volume.mountpoint, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = open_in_root(root, subpath, os.O_PATH)
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise InvalidArgument(f"cannot access path {volume.mountpoint}/{subpath}: {reason}") from error
        finally:
            os.close(root)
        key = (volume.name, subpath)
        if key in self._pinned:
            os.close(self._pinned.pop(key))
        while len(self._pinned) >= _PINNED:
            os.close(self._pinned.popitem(last=False)[1])
        self._pinned[key] = fd
        return f"/proc/{os.getpid()}/fd/{fd}"


def _check_name(name: str) -> None:
    if len(name) == 1:
        raise InvalidArgument(f"create {name}: volume name is too short, names should be at least two alphanumeric characters")
    if not _NAME.match(name) or len(name) > 255:
        raise InvalidArgument(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
        )


def _part_of(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:
        return pattern in name


def _any_label(wanted: Iterable[str], labels: Mapping[str, str]) -> bool:
    for text in wanted:
        key, equals, value = text.partition("=")
        if key in labels and (not equals or labels[key] == value):
            return True
    return False


def _size(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        return size_of(fd)
    finally:
        os.close(fd)
