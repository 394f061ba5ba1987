"""The volume service, and its routes as clients see them."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp.test_utils import TestClient, TestServer

from berth.api.routes import volumes as routes
from berth.api.server import application
from berth.contract.usage import User
from berth.contract.volume import Held
from berth.engine.events import Events
from berth.engine.volumes import VolumeService
from berth.errors import BerthError, Conflict, InvalidArgument, NotFound, NotImplementedKind
from berth.model.filters import Filters
from berth.model.mount_type import FILESYSTEM_MOUNT
from berth.storage import quota
from berth.storage.database import Database
from support.quota_twin import Kernel
from support.stores import volume_service


@dataclass
class Users:
    """Who uses which volume."""

    volumes: dict[str, list[User]] = field(default_factory=dict)

    def of_volume(self, name: str) -> list[User]:
        return self.volumes.get(name, [])

    def by_volume(self) -> Counter[str]:
        return Counter({name: len(users) for name, users in self.volumes.items()})


@dataclass
class World:
    """A service and what is around it."""

    root: Path
    service: VolumeService
    users: Users
    events: Events

    def use(self, name: str) -> None:
        self.users.volumes[name] = [User(id="c1", name="web", running=True)]

    def happened(self) -> list[str]:
        return [f"{m.action} {m.actor.id}" for m in self.events._kept if m.actor]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    database = Database(str(tmp_path / "berth.db"))
    events, users = Events(), Users()
    service = volume_service(tmp_path, database, events)
    service.usage = users  # type: ignore[assignment]
    yield World(tmp_path, service, users, events)
    database.close()


def test_only_a_tmpfs_is_held_and_only_where_the_kernel_can_show_it_with_ids(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}
    volumes = world.service.create("memory", options=memory), world.service.create("disk")
    monkeypatch.setattr("berth.engine.idmap.platform.release", lambda: "6.1.0-13-amd64")
    assert [asyncio.run(world.service.hold(volume)) for volume in volumes] == [None, None]
    fresh = world.service.mount(volumes[0], "/m", read_only=False)
    assert (fresh.type, fresh.options) == ("tmpfs", ["size=1m", "rw"])
    monkeypatch.setattr("berth.engine.idmap.platform.release", lambda: "6.3.1")
    with pytest.raises(AssertionError, match="memory_holder was started"):
        asyncio.run(world.service.hold(volumes[0]))
    assert asyncio.run(world.service.hold(volumes[1])) is None
    shared = world.service.mount(volumes[0], "/m", read_only=True, held=Held("/proc/1/root/x", 3))
    assert (shared.type, shared.source, shared.options[-1]) == ("bind", "/proc/1/root/x", "ro")


def test_a_volume_is_made_once(world: World) -> None:
    volume = world.service.create("data", labels={"a": "b"})
    assert volume.mountpoint == f"{world.root}/volumes/data/_data"
    assert os.path.isdir(volume.mountpoint)
    assert world.service.is_empty(volume)
    assert world.service.create("data") == volume == world.service.get("data")
    with pytest.raises(Conflict, match="other options"):
        world.service.create("data", options={"type": "tmpfs", "device": "tmpfs"})
    (world.root / "volumes/data/_data/x").touch()
    assert not world.service.is_empty(volume)
    assert world.happened() == ["create data"]


def test_names_and_drivers_are_checked(world: World) -> None:
    with pytest.raises(InvalidArgument, match="If you intended to pass a host directory, use absolute path"):
        world.service.create("../x")
    with pytest.raises(InvalidArgument, match="too short"):
        world.service.create("x")
    with pytest.raises(NotFound, match='plugin "nfs" not found'):
        world.service.create("xx", driver="nfs")
    with pytest.raises(NotFound, match=r"^get xx: no such volume$"):
        world.service.get("xx")
    assert os.listdir(world.root / "volumes") == []


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"foo": "1"}, InvalidArgument, 'invalid option: "foo"'),
        ({"type": "tmpfs"}, InvalidArgument, 'missing required option: "device"'),
        ({"o": "bind"}, InvalidArgument, 'missing required option: "device"'),
        ({"type": "nfs", "device": ":/x", "o": "rw"}, InvalidArgument, "needs the server's address"),
        ({"type": "nfs", "device": ":/x", "o": "addr=nas"}, InvalidArgument, "names are not looked up"),
        ({"type": "ext4", "device": "sda1"}, InvalidArgument, "absolute path"),
        ({"type": "proc", "device": "proc"}, NotImplementedKind, "volumes of type proc are not mounted"),
        ({"type": "none", "device": "x", "o": "bind"}, InvalidArgument, "absolute path"),
        ({"size": "much"}, InvalidArgument, "create vol: invalid size: 'much'"),
        ({"size": "1g", "type": "tmpfs", "device": "tmpfs"}, InvalidArgument, "takes its size with o=size=64m"),
    ],
)
def test_options_that_cannot_be_had(world: World, options: dict[str, str], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        world.service.create("vol", options=options)
    assert world.service.list(Filters()) == []


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    twin = Kernel()
    monkeypatch.setattr(quota, "quota", twin)
    return twin


def test_a_volume_with_a_size(world: World, kernel: Kernel) -> None:
    service = world.service
    volume = service.create("data", options={"size": "10m"})
    assert list(kernel.limits.values()) == [10 << 20]
    assert service.describe(volume).options == {"size": "10m"}
    assert service.is_empty(volume), "what the image has there is copied into it"
    kernel.limits.clear()
    mount = service.mount(volume, "/data", read_only=False)
    assert (mount.type, mount.source, list(kernel.limits.values())) == ("bind", volume.mountpoint, [10 << 20])
    assert service.create("any", options={"size": "0"}).options == {"size": "0"} and len(kernel.limits) == 1
    asyncio.run(service.remove("data"))
    assert kernel.limits == {}


def test_a_size_that_cannot_be_held_makes_no_volume(world: World, kernel: Kernel) -> None:
    kernel.flags = (False, False)
    with pytest.raises(InvalidArgument, match=r"create data: quota size requested but no quota support: .* project quota"):
        world.service.create("data", options={"size": "10m"})
    kernel.flags, kernel.refuses = (True, True), True
    with pytest.raises(BerthError, match="creating volume data"):
        world.service.create("data", options={"size": "10m"})
    assert kernel.limits == {} and os.listdir(world.root / "volumes") == []


def test_mounts(world: World) -> None:
    service = world.service
    plain = service.mount(service.create("plain"), "/data", read_only=True)
    assert (plain.type, plain.source, plain.options) == ("bind", f"{world.root}/volumes/plain/_data", ["rbind", "rprivate", "ro"])
    tmpfs = service.create("tmp", options={"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=5"})
    mount = service.mount(tmpfs, "/t", read_only=False)
    assert (mount.type, mount.options) == ("tmpfs", ["size=1m", "uid=5", "rw"])
    assert not service.is_empty(tmpfs)
    bound = service.create("bound", options={"type": "none", "device": str(world.root / "host"), "o": "bind,nosuid"})
    with pytest.raises(NotFound, match="failed to mount local volume: mount"):
        service.mount(bound, "/b", read_only=False)
    (world.root / "host").mkdir()
    mount = service.mount(bound, "/b", read_only=False)
    assert (mount.source, mount.options) == (str(world.root / "host"), ["rbind", "rprivate", "nosuid", "rw"])
    frozen = service.create("frozen", options={"type": "none", "device": str(world.root / "host"), "o": "bind,ro"})
    assert service.mount(frozen, "/b", read_only=False).options == ["rbind", "rprivate", "ro", "ro"]
    nfs = service.create("nas", options={"type": "nfs4", "device": ":/share", "o": "addr=192.0.2.1,soft,ro"})
    mount = service.mount(nfs, "/n", read_only=False)
    assert (mount.type, mount.source) == (FILESYSTEM_MOUNT, ":/share")
    assert mount.options == ["type=nfs4", "frozen", "addr=192.0.2.1", "soft", "ro", "ro"]


def test_a_subpath_stays_in_its_volume(world: World) -> None:
    volume = world.service.create("data")
    data = Path(volume.mountpoint)
    (data / "sub").mkdir()
    (data / "sub/inside").touch()
    (data / "out").symlink_to("/etc")
    mount = world.service.mount(volume, "/s", read_only=False, subpath="sub")
    # A container that has the volume swaps the directory for a link: the path still leads to what was looked up.
    os.rename(data / "sub", data / "moved")
    (data / "sub").symlink_to("/etc")
    assert mount.source is not None and os.listdir(mount.source) == ["inside"]
    for path in ("out", "../../..", "none"):
        try:
            found = world.service.mount(volume, "/s", read_only=False, subpath=path)
        except InvalidArgument as error:
            assert "cannot access path" in error.message
        else:
            assert os.path.samefile(str(found.source), data)


def test_removal(world: World) -> None:
    world.service.create("data")
    world.use("data")
    for force in (False, True):
        with pytest.raises(Conflict, match=r"^remove data: volume is in use - \[c1\]$"):
            asyncio.run(world.service.remove("data", force=force))
    world.users.volumes.clear()
    asyncio.run(world.service.remove("data"))
    assert os.listdir(world.root / "volumes") == []
    asyncio.run(world.service.remove("data", force=True))
    with pytest.raises(NotFound, match="no such volume"):
        asyncio.run(world.service.remove("data"))
    assert world.happened() == ["create data", "destroy data"]


def test_prune_takes_anonymous_ones_only(world: World) -> None:
    service = world.service
    used, unused, named = service.create(), service.create(labels={"keep": "yes"}), service.create("named")
    (Path(unused.mountpoint) / "f").write_bytes(b"12345")
    world.use(used.name)
    prune = lambda text, **more: asyncio.run(service.prune(Filters.parse(text, ("all", "label", "label!")), **more))  # noqa: E731
    assert prune('{"label!": ["keep=yes"]}') == ((), 0)
    assert prune('{"label": ["other"]}') == ((), 0)
    assert prune("") == ((unused.name,), 5)
    assert prune('{"all": ["true"]}') == ((named.name,), 0)
    assert [v.name for v in service.list(Filters())] == [used.name]
    world.users.volumes.clear()
    service.create("other")
    assert prune("", anonymous_only=False)[0] == tuple(sorted((used.name, "other")))


def test_a_directory_without_a_row_is_no_volume(world: World) -> None:
    (world.root / "volumes/lost/_data/secret").mkdir(parents=True)
    assert world.service.is_empty(world.service.create("lost"))
    (world.root / "volumes/other").mkdir()
    assert asyncio.run(world.service.sweep()) == 2
    assert os.listdir(world.root / "volumes") == ["lost"]


Call = Callable[..., Awaitable[tuple[int, object]]]


def calling(world: World, test: Callable[[Call], Awaitable[None]]) -> None:
    """Run a coroutine with a function that asks the API."""

    async def run() -> None:
        engine = SimpleNamespace(volumes=world.service)
        async with TestClient(TestServer(application(routes.routes(engine)))) as client:  # type: ignore[arg-type]

            async def call(method: str, path: str, **options: object) -> tuple[int, object]:
                async with client.request(method, path, **options) as response:  # type: ignore[arg-type]
                    text = await response.text()
                    return response.status, json.loads(text) if text else None

            await test(call)

    asyncio.run(run())


def test_the_api(world: World) -> None:
    async def test(call: Call) -> None:
        status, made = await call("POST", "/v1.41/volumes/create", json={"Name": "web", "Labels": {"a": "1"}})
        assert status == 201 and isinstance(made, dict)
        assert made["Name"] == "web" and made["Scope"] == "local" and made["Options"] is None and made["Labels"] == {"a": "1"}
        assert made["CreatedAt"].endswith("Z")
        status, made = await call("POST", "/volumes/create", data=b"")
        assert isinstance(made, dict) and len(made["Name"]) == 64
        anonymous = made["Name"]
        assert made["Labels"] == {"com.docker.volume.anonymous": ""}
        world.use("web")

        async def names(filters: object) -> list[str]:
            status, found = await call("GET", "/volumes", params={"filters": json.dumps(filters)})
            assert status == 200 and isinstance(found, dict) and found["Warnings"] is None
            return [volume["Name"] for volume in found["Volumes"]]

        assert await names({}) == sorted(["web", anonymous])
        assert await names({"dangling": ["true"]}) == [anonymous]
        assert await names({"dangling": ["false"]}) == ["web"]
        assert await names({"name": {"we": True}}) == ["web"]
        assert await names({"label": ["a=1"]}) == ["web"]
        assert await names({"driver": ["other"]}) == []
        assert (await call("GET", "/volumes", params={"filters": '{"x":["y"]}'}))[0] == 400
        assert await call("GET", "/volumes/none") == (404, {"message": "get none: no such volume"})
        assert (await call("DELETE", "/volumes/web?force=1"))[0] == 409
        assert (await call("DELETE", "/volumes/none"))[0] == 404
        assert await call("DELETE", "/volumes/none?force=true") == (204, None)
        assert (await call("PUT", "/volumes/web", json={}))[0] == 501
        await call("POST", "/volumes/create", json={"Name": "unused"})
        status, answer = await call("POST", "/v1.42/volumes/prune")
        assert answer == {"VolumesDeleted": [anonymous], "SpaceReclaimed": 0}
        status, answer = await call("POST", "/v1.41/volumes/prune")
        assert answer == {"VolumesDeleted": ["unused"], "SpaceReclaimed": 0}

    calling(world, test)
