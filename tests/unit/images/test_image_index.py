"""Whole indexes: several platforms under one name, their attestations, and what goes when something is removed."""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from berth.contract.usage import User
from berth.engine.images.service import ImageService
from berth.errors import Conflict, NotFound
from berth.model.descriptor import DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST
from berth.model.digest import Digest, digest_of
from berth.model.filters import Filters
from berth.model.reference import parse
from berth.registry.access import Registries
from unit.images.conftest import World
from unit.images.twins import collect, stream_of, tar_of
from unit.registry.fake import FakeRegistry

A, B, SHARED = tar_of(a="1"), tar_of(b="22"), tar_of(shared="333")
STATEMENT = json.dumps(
    {"_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://slsa.dev/provenance/v0.2"}
).encode()
T = TypeVar("T")
Messages = list[dict[str, Any]]


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 30))


@pytest.fixture(autouse=True)
def quick_retries(world: World) -> None:
    for part in (world.service._puller, world.service._pusher):
        part._registries = Registries(delay=0.001)


class Multi:
    """`x:latest` in a registry: amd64 and arm64, an attestation of each, and an artifact."""

    def __init__(self, registry: FakeRegistry, repository: str = "x") -> None:
        self.registry, self.repository = registry, repository
        self.name = f"{registry.host}/{repository}:latest"
        configs = {}
        manifests = {}
        for architecture, tar in (("amd64", A), ("arm64", B)):
            configs[architecture], manifests[architecture] = registry.put_image(
                repository, architecture, [SHARED, tar], architecture=architecture
            )
        self.amd64, self.arm64 = digest_of(configs["amd64"]), digest_of(configs["arm64"])
        self.manifests = manifests
        # The host's is not the first.
        entries = [self._entry(manifests[name], {"os": "linux", "architecture": name}) for name in ("arm64", "amd64")]
        self.attestations = {name: self._attestation(name) for name in ("amd64", "arm64")}
        unknown = {"os": "unknown", "architecture": "unknown"}
        for name, digest in self.attestations.items():
            notes = {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": manifests[name]}
            entries.append({**self._entry(digest, unknown), "annotations": notes})
        # Written as nobody here would write it, so that it has to be kept to be the same.
        self.data = json.dumps({"manifests": entries, "schemaVersion": 2, "mediaType": OCI_INDEX, "x": 1}, indent=3).encode()
        self.index = registry.put_manifest(repository, "latest", self.data, OCI_INDEX)

    def _entry(self, digest: Digest, platform: dict[str, str]) -> dict[str, Any]:
        data, media_type = self.registry.manifests[self.repository, digest]
        return {"mediaType": media_type, "digest": digest, "size": len(data), "platform": platform}

    def _attestation(self, name: str) -> Digest:
        put = self.registry._descriptor
        statement = put(self.repository, STATEMENT.replace(b"v0.1", f"v0.1-{name}".encode()), "application/vnd.in-toto+json")
        statement["annotations"] = {"in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2"}
        config = put(self.repository, b"{}", OCI_CONFIG)
        document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [statement]}
        return self.registry.put_manifest(self.repository, f"att-{name}", document, OCI_MANIFEST)


async def pull(world: World, name: str, platform: str = "") -> Any:
    return await world.service.pull(parse(name), platform=platform)


async def push(world: World, name: str, **options: Any) -> Messages:
    messages: Messages = []

    async def progress(message: dict[str, Any]) -> None:
        messages.append(message)

    reference = parse(name, default_tag=False)
    await world.service.push(reference, reference.tag, progress=progress, **options)
    return messages


def nothing_left(world: World) -> None:
    """No row, blob or layer."""
    for table in ("images", "tags", "repo_digests", "indexes", "index_content", "leases"):
        assert world.database.rows(f"SELECT * FROM {table}") == [], table
    assert world.layers.layers == {} and world.blobs.content == {}


def manifests_of(world: World, name: str) -> dict[str, dict[str, Any]]:
    return {one["ID"]: one for one in world.service.inspect(name, manifests=True).manifests or []}


def test_a_second_platform_of_a_tag_joins_the_first_and_the_index_stays_as_it_is(world: World) -> None:
    async def work() -> None:
        async with FakeRegistry().serve() as registry:
            multi = Multi(registry)
            first = await pull(world, multi.name)
            assert first.id == multi.amd64 and first.index == multi.index
            second = await pull(world, multi.name, "linux/arm64")
            assert second.id == multi.arm64 and second.tags == (multi.name,)
            assert world.service.get(multi.name).id == multi.amd64
            assert world.service.get_for(multi.name, "linux/arm64/v8").id == multi.arm64
            assert world.service.inspect(multi.name, '{"os":"linux","architecture":"arm64"}').architecture == "arm64"
            assert world.service.inspect(multi.name).repo_digests == [f"{registry.host}/x@{multi.index}"]
            assert world.blobs.read(multi.index) == multi.data
            with pytest.raises(
                NotFound, match=rf"{multi.name} was found but does not provide the specified platform \(linux/s390x\)"
            ):
                world.service.get_for(multi.name, "linux/s390x")
            before = registry.hits.copy()
            for platform in ("", "linux/arm64"):
                await pull(world, multi.name, platform)
            assert {key for key, count in (registry.hits - before).items() if count} == {"HEAD manifests"}
            # By the digests of the index and of a manifest, whole and shortened.
            for digest, image in ((multi.index, multi.amd64), (multi.manifests["arm64"], multi.arm64)):
                assert world.service.get(digest).id == world.service.get(digest[7:19]).id == image

    run(work())
    (summary,) = world.service.summaries(Filters(), manifests=True, shared_size=True)
    assert summary.id == world.service.list()[0].id and world.service.count() == 1
    assert summary.size == len(A) + len(B) + len(SHARED) and summary.shared_size == len(SHARED)
    assert [one["Kind"] for one in summary.manifests or []] == ["image", "image", "attestation", "attestation"]
    assert summary.descriptor is not None and summary.descriptor.media_type == OCI_INDEX
    assert world.database.rows("SELECT * FROM leases") == []


def test_manifests_tell_what_is_here_and_how_much(world: World) -> None:
    async def work() -> None:
        async with FakeRegistry().serve() as registry:
            multi = Multi(registry)
            await pull(world, multi.name, "linux/arm64")
            world.usage.images[multi.arm64] = [User(id="c" * 64, name="c", running=False)]
            found = manifests_of(world, multi.name)
            arm, amd = found[multi.manifests["arm64"]], found[multi.manifests["amd64"]]
            assert arm["Available"] and not amd["Available"]
            assert arm["ImageData"] == {
                "Platform": {"architecture": "arm64", "os": "linux"},
                "Containers": ["c" * 64],
                "Size": {"Unpacked": len(B) + len(SHARED)},
            }
            document = json.loads(registry.manifests["x", multi.manifests["arm64"]][0])
            content = arm["Descriptor"]["size"] + sum(part["size"] for part in (document["config"], *document["layers"]))
            assert arm["Size"] == {"Content": content, "Total": content + len(B) + len(SHARED)}
            assert amd["Size"] == {"Content": 0, "Total": 0} and amd["ImageData"]["Containers"] == []
            here, away = (found[multi.attestations[name]] for name in ("arm64", "amd64"))
            assert (here["Kind"], here["Available"], away["Available"]) == ("attestation", True, False)
            assert here["AttestationData"] == {"For": multi.manifests["arm64"]}
            # The host's platform comes to stand for the index.
            assert world.service.get(multi.name).id == multi.arm64
            await pull(world, multi.name)
            assert world.service.get(multi.name).id == multi.amd64 and world.service.count() == 1
            assert world.service.get(f"{registry.host}/x@{multi.index}").id == multi.amd64
            assert [image.id for image in world.service.platforms(multi.name)] == [multi.amd64, multi.arm64]

    run(work())


def test_attestations_are_told_with_their_statements(world: World) -> None:
    async def work() -> None:
        async with FakeRegistry().serve() as registry:
            multi = Multi(registry)
            await pull(world, multi.name)
            (plain,) = world.service.attestations(multi.name)
            assert plain["PredicateType"] == "https://slsa.dev/provenance/v0.2" and "Statement" not in plain
            (whole,) = world.service.attestations(multi.name, types=frozenset([plain["PredicateType"]]), statement=True)
            assert whole["Statement"]["_type"].endswith("v0.1-amd64")
            assert world.service.attestations(multi.name, types=frozenset(["other"])) == []
            with pytest.raises(NotFound):
                world.service.attestations(multi.name, "linux/arm64")
            # One that cannot be had is no reason to refuse the image.
            registry.manifests.pop(("x", multi.attestations["arm64"]))
            assert (await pull(world, multi.name, "linux/arm64")).id == multi.arm64
            assert world.service.attestations(multi.name, "linux/arm64") == []

    run(work())


def test_a_push_gives_the_same_index_when_all_of_it_is_here(world: World) -> None:
    async def work() -> None:
        async with FakeRegistry().serve() as registry:
            multi = Multi(registry)
            for platform in ("linux/amd64", "linux/arm64"):
                await pull(world, multi.name, platform)
            copy = f"{registry.host}/copy:1"
            world.service.tag(world.service.get(multi.name), parse(copy))
            messages = await push(world, copy)
            assert registry.manifests["copy", "1"] == (multi.data, OCI_INDEX)
            for digest in (*multi.manifests.values(), *multi.attestations.values()):
                assert registry.manifests["copy", digest][0] == registry.manifests["x", digest][0]
            assert messages[-1]["aux"] == {"Tag": "1", "Digest": multi.index, "Size": len(multi.data)}
            assert f"{registry.host}/copy@{multi.index}" in world.service.get(copy).digests
            # One platform alone.
            await push(world, copy, platform="linux/arm64")
            assert registry.manifests["copy", "1"][0] == registry.manifests["x", multi.manifests["arm64"]][0]
            assert f"{registry.host}/copy@{multi.manifests['arm64']}" not in world.service.get(multi.arm64).digests
            with pytest.raises(NotFound, match="does not provide the specified platform"):
                await push(world, copy, platform="linux/s390x")

    run(work())


def test_of_an_index_with_gaps_the_one_platform_that_is_here_is_pushed(world: World) -> None:
    async def work() -> None:
        async with FakeRegistry().serve() as registry:
            multi = Multi(registry)
            image = await pull(world, multi.name)
            world.service.tag(image, parse(f"{registry.host}/copy:1"))
            messages = await push(world, f"{registry.host}/copy:1")
            assert registry.manifests["copy", "1"] == registry.manifests["x", multi.manifests["amd64"]]
            (instead,) = [m["aux"] for m in messages if "manifestPushedInsteadOfIndex" in m.get("aux", {})]
            assert instead["originalIndex"]["digest"] == multi.index
            assert instead["selectedManifest"]["digest"] == multi.manifests["amd64"]
            # Where the others are already, the index goes out whole.
            registry.manifests.pop(("x", "latest"))
            messages = await push(world, multi.name)
            assert registry.manifests["x", "latest"] == (multi.data, OCI_INDEX) and messages[-1]["aux"]["Digest"] == multi.index

    run(work())


def test_of_several_foreign_platforms_none_is_guessed_for_a_push(world: World) -> None:
    async def work() -> None:
        async with FakeRegistry().serve() as registry:
            entries = {}
            for name in ("arm64", "s390x", "ppc64le"):
                _, entries[f"linux/{name}"] = registry.put_image("x", name, [tar_of(n=name)], architecture=name)
            registry.put_index("x", "latest", entries)
            name = f"{registry.host}/x:latest"
            await pull(world, name, "linux/arm64")
            await pull(world, name, "linux/s390x")
            world.service.tag(world.service.get(name), parse(f"{registry.host}/copy:1"))
            with pytest.raises(Conflict, match="multiple matching manifests found but no specific platform requested"):
                await push(world, f"{registry.host}/copy:1")
            assert ("copy", "1") not in registry.manifests

    run(work())


def test_one_platform_is_removed_and_what_others_share_stays(world: World) -> None:
    async def work() -> None:
        async with FakeRegistry().serve() as registry:
            multi = Multi(registry)
            for platform in ("linux/amd64", "linux/arm64"):
                await pull(world, multi.name, platform)
            world.usage.images[multi.amd64] = [User(id="c" * 64, name="c", running=False)]
            with pytest.raises(Conflict, match=r"\(must be forced\) - image is being used by stopped container c{12}"):
                await world.service.remove(multi.name, platforms=["linux/amd64"])
            records = await world.service.remove(multi.name, platforms=['{"os":"linux","architecture":"arm64"}'])
            assert records[0].deleted == multi.manifests["arm64"] and multi.arm64 in {record.deleted for record in records}
            assert world.service.find(multi.arm64) is None and len(world.layers.layers) == 2
            assert not world.blobs.has(multi.manifests["arm64"]) and not world.blobs.has(multi.attestations["arm64"])
            assert world.blobs.read(multi.attestations["amd64"]) and world.blobs.read(digest_of(b"{}"))
            assert not manifests_of(world, multi.name)[multi.manifests["arm64"]]["Available"]
            with pytest.raises(NotFound):
                await world.service.remove(multi.name, platforms=["linux/arm64"])
            # The host's goes too: the other one stands for the index again.
            world.usage.images.clear()
            await pull(world, multi.name, "linux/arm64")
            await world.service.remove(multi.name, platforms=["linux/amd64"])
            assert world.service.get(multi.name).id == multi.arm64
            records = await world.service.remove(multi.name, platforms=["linux/arm64"])
            assert records[0].untagged == multi.name

    run(work())
    nothing_left(world)


@pytest.mark.parametrize("by", ["tag", "id", "index", "forced"])
def test_an_index_goes_with_all_its_platforms(world: World, by: str) -> None:
    async def work() -> None:
        async with FakeRegistry().serve() as registry:
            multi = Multi(registry)
            for platform in ("linux/amd64", "linux/arm64"):
                await pull(world, multi.name, platform)
            name = {"tag": multi.name, "index": multi.index}.get(by, multi.amd64)
            world.usage.images[multi.arm64] = [User(id="c" * 64, name="c", running=False)]
            if by != "forced":
                with pytest.raises(Conflict, match=r"container c{12}"):
                    await world.service.remove(name)
                world.usage.images.clear()
            await world.service.remove(name, force=by == "forced")

    run(work())
    nothing_left(world)


def test_the_id_of_one_platform_removes_that_one(world: World) -> None:
    async def work() -> None:
        async with FakeRegistry().serve() as registry:
            multi = Multi(registry)
            for platform in ("linux/amd64", "linux/arm64"):
                await pull(world, multi.name, platform)
            with pytest.raises(NotFound):
                await world.service.remove("0" * 64)
            await world.service.remove(multi.arm64)
            assert world.service.get(multi.name).id == multi.amd64 and world.service.find(multi.arm64) is None
            await pull(world, multi.name, "linux/arm64")
            await world.service.remove(multi.manifests["amd64"][7:20])
            assert world.service.get(multi.name).id == multi.arm64
            await pull(world, multi.name)
            # An image with a name of its own outlives the index.
            arm = await pull(world, multi.name, "linux/arm64")
            world.service.tag(arm, parse("own:1"))
            assert world.service.count() == 2
            await world.service.remove(multi.name)
            assert world.service.get("own:1").id == multi.arm64 and world.service.get("own:1").index is None
            await world.service.remove("own:1")

    run(work())
    nothing_left(world)


def test_a_tag_that_moves_leaves_the_index_behind_until_it_is_pruned(world: World) -> None:
    async def work() -> None:
        async with FakeRegistry().serve() as registry:
            multi = Multi(registry)
            for platform in ("linux/amd64", "linux/arm64"):
                await pull(world, multi.name, platform)
            world.service.tag(world.service.get(multi.name), parse("kept:1"))
            registry.put_image("x", "latest", [tar_of(new="x")])
            moved = await pull(world, multi.name)
            assert moved.index is None and world.service.get(multi.name).id == moved.id
            assert world.service.get_for("kept:1", "linux/arm64").id == multi.arm64
            await world.service.prune(Filters({"dangling": ("true",)}))
            assert world.service.get_for("kept:1", "linux/arm64").id == multi.arm64
            await world.service.remove("kept:1")
            await world.service.prune(Filters({"dangling": ("true",)}))
            assert world.service.find(multi.amd64) is None and world.service.find(multi.arm64) is None
            await world.service.remove(multi.name)

    run(work())
    nothing_left(world)


def names_in(data: bytes) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return set(archive.getnames())


def test_save_and_load_carry_the_whole_index(world: World) -> None:
    async def work() -> None:
        async with FakeRegistry().serve() as registry:
            multi = Multi(registry)
            for platform in ("linux/amd64", "linux/arm64"):
                await pull(world, multi.name, platform)
            data = await collect(world.service.save([multi.name]))
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                index = json.load(archive.extractfile("index.json") or io.BytesIO())
                (docker,) = json.load(archive.extractfile("manifest.json") or io.BytesIO())
                for name in (name for name in archive.getnames() if name.startswith("blobs/sha256/")):
                    content = archive.extractfile(name)
                    assert content is not None and digest_of(content.read()) == f"sha256:{name.rpartition('/')[2]}"
            assert [(entry["digest"], entry["mediaType"]) for entry in index["manifests"]] == [(multi.index, OCI_INDEX)]
            assert docker["Config"] == f"blobs/sha256/{multi.amd64[7:]}" and docker["RepoTags"] == [multi.name]
            one = await collect(world.service.save([multi.name], ["linux/arm64"]))
            assert f"blobs/sha256/{multi.index[7:]}" not in names_in(one)
            assert {f"blobs/sha256/{digest[7:]}" for digest in (multi.arm64, multi.manifests["arm64"])} <= names_in(one)
            assert f"blobs/sha256/{multi.amd64[7:]}" not in names_in(one)
            before = dict(world.blobs.content)
            await world.service.remove(multi.name)
            nothing_left(world)
            # A manifest of Docker's own media type is told as such.
            (image,) = await world.service.load(stream_of(one))
            assert image.id == multi.arm64 and image.tags == (multi.name,)
            await world.service.remove(multi.name)
            nothing_left(world)
            (image,) = await world.service.load(stream_of(data), platforms=["linux/arm64"])
            assert image.id == multi.arm64 and image.index == multi.index
            with pytest.raises(NotFound, match="the archive has no image for linux/s390x"):
                await world.service.load(stream_of(data), platforms=["linux/s390x"])
            (image,) = await world.service.load(stream_of(data))
            assert image.id == multi.amd64 and world.service.get_for(multi.name, "linux/arm64").id == multi.arm64
            assert dict(world.blobs.content) == before
            assert world.service.attestations(multi.name, "linux/arm64")
            assert await collect(world.service.save([multi.name])) == data
            assert DOCKER_MANIFEST in {m["Descriptor"]["mediaType"] for m in manifests_of(world, multi.name).values()}
            await world.service.remove(multi.name)

    run(work())
    nothing_left(world)


def test_members_are_told_in_the_order_of_the_index_after_the_one_that_stands_for_it(world: World) -> None:
    index = digest_of(b"index")
    images, manifests = ([digest_of(b"%s %d" % (kind, n)) for n in range(5)] for kind in (b"image", b"manifest"))
    for image in images:
        world.database.execute("INSERT INTO images (id, created, size) VALUES (?, 0, 0)", (image,))
    world.database.execute("INSERT INTO indexes VALUES (?, ?)", (index, images[3]))
    for pair in zip(manifests, images, strict=True):
        world.database.execute("INSERT INTO index_content VALUES (?, ?, ?)", (index, *pair))
    found = world.service.store.indexes.members(index)
    assert list(found.values()) == [images[n] for n in (3, 0, 1, 2, 4)] and list(found) == [manifests[n] for n in (3, 0, 1, 2, 4)]


def test_an_index_of_indexes_without_a_name_is_loaded_and_removed(world: World) -> None:
    async def work() -> None:
        async with FakeRegistry().serve() as registry:
            multi = Multi(registry)
            nested = {"schemaVersion": 2, "manifests": [multi._entry(multi.index, {"os": "", "architecture": ""})]}
            del nested["manifests"][0]["platform"]  # type: ignore[index]  # JSON
            outer = registry.put_manifest("x", "outer", nested, OCI_INDEX)
            name = f"{registry.host}/x:outer"
            registry.manifests["x", outer] = registry.manifests["x", "outer"]
            for platform in ("linux/amd64", "linux/arm64"):
                await pull(world, name, platform)
            assert world.service.get(name).index == outer and len(manifests_of(world, name)) == 4
            data = await collect(world.service.save([outer]))
            await world.service.remove(name)
            nothing_left(world)
            (image,) = await world.service.load(stream_of(data))
            assert image.index == outer and image.tags == () and world.service.count() == 1
            await world.service.prune(Filters({"dangling": ("true",)}))

    run(work())
    nothing_left(world)


def test_indexes_of_an_older_store_are_taken_over(world: World) -> None:
    """Schema 4 had the index's document and the chosen platform, but no rows that put them together."""

    async def work() -> None:
        async with FakeRegistry().serve() as registry:
            multi = Multi(registry)
            await pull(world, multi.name)
            for table in ("tags", "repo_digests"):
                world.database.execute(f"UPDATE {table} SET index_digest = NULL")
            world.database.execute("DELETE FROM index_content")
            world.database.execute("DELETE FROM indexes")
            world.database.execute("INSERT INTO settings (key, value) VALUES ('images.adopt-indexes', '1')")
            service = world.service
            world.service = ImageService(
                service._config, world.database, world.events, world.blobs, world.layers, service._loader._expand
            )
            assert world.service.get(multi.name).index == multi.index
            assert manifests_of(world, multi.name)[multi.manifests["amd64"]]["Available"]
            assert world.database.rows("SELECT * FROM settings WHERE key LIKE 'images.%'") == []
            await pull(world, multi.name, "linux/arm64")
            assert world.service.get_for(multi.name, "linux/arm64").id == multi.arm64
            await world.service.remove(multi.name)

    run(work())
    nothing_left(world)


def test_a_damaged_index_keeps_nobody_from_the_image_and_a_pull_mends_it(world: World) -> None:
    async def work() -> None:
        async with FakeRegistry().serve() as registry:
            multi = Multi(registry)
            await pull(world, multi.name)
            world.blobs.delete(multi.index)
            assert world.service.inspect(multi.name).descriptor is None
            (summary,) = world.service.summaries(Filters(), manifests=True)
            assert summary.manifests is None
            with pytest.raises(NotFound, match=multi.index):
                world.service.inspect(multi.name, manifests=True)
            await pull(world, multi.name)
            assert world.blobs.read(multi.index) == multi.data and len(manifests_of(world, multi.name)) == 4
            world.blobs.delete(multi.index)
            await world.service.remove(multi.name)

    run(work())
    nothing_left(world)


def test_two_of_three_platforms_are_saved_with_the_index(world: World) -> None:
    async def work() -> None:
        async with FakeRegistry().serve() as registry:
            entries, configs = {}, {}
            for name in ("arm64", "s390x", "ppc64le"):
                data, entries[f"linux/{name}"] = registry.put_image("x", name, [SHARED, tar_of(n=name)], architecture=name)
                configs[name] = digest_of(data)
            index = registry.put_index("x", "latest", entries)
            name = f"{registry.host}/x:latest"
            for platform in entries:
                await pull(world, name, platform)
            data = await collect(world.service.save([name], ["linux/s390x", "linux/arm64"]))
            assert f"blobs/sha256/{index[7:]}" in names_in(data)
            saved = {platform for platform, digest in configs.items() if f"blobs/sha256/{digest[7:]}" in names_in(data)}
            assert saved == {"arm64", "s390x"}
            await world.service.remove(name)
            nothing_left(world)
            # A layer that is here in another form does not make the manifest untrue, and its blob goes with the index.
            own = await world.make(SHARED, tags=("own:1",))
            await world.service.load(stream_of(data))
            (shared,) = {json.loads(world.blobs.read(entries[f"linux/{n}"]))["layers"][0]["digest"] for n in saved}
            assert world.blobs.has(shared)
            await world.service.remove(name)
            assert not world.blobs.has(shared) and world.service.get("own:1").id == own.id
            await world.service.remove("own:1")

    run(work())
    nothing_left(world)
