from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from berth.errors import DataLoss, NotFound, ResourceExhausted, Unauthenticated, Unavailable
from berth.model.digest import digest_of
from berth.model.filters import Filters
from berth.model.reference import parse
from berth.registry.access import Registries
from berth.wire.image import AuthConfig
from unit.images.conftest import World
from unit.images.twins import chain_of, tar_of
from unit.registry.fake import FakeRegistry

A, B, C = tar_of(a="1"), tar_of(b="22"), tar_of(c="333")
BIG = tar_of(big=os.urandom(200_000).hex())
T = TypeVar("T")
Messages = list[dict[str, Any]]


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 30))


async def pull(world: World, name: str, messages: Messages, **options: Any) -> Any:
    async def progress(message: dict[str, Any]) -> None:
        messages.append(message)

    return await world.service.pull(parse(name), progress=progress, **options)


async def push(world: World, name: str, messages: Messages, **options: Any) -> None:
    async def progress(message: dict[str, Any]) -> None:
        messages.append(message)

    reference = parse(name, default_tag=False)
    await world.service.push(reference, reference.tag, progress=progress, **options)


def statuses(messages: Messages, identifier: str | None = None) -> list[str]:
    return [m["status"] for m in messages if "status" in m and (identifier is None or m.get("id") == identifier)]


@pytest.fixture(autouse=True)
def quick_retries(world: World) -> None:
    for part in (world.service._puller, world.service._pusher):
        part._registries = Registries(delay=0.001)


def test_pull_reports_as_docker_does_and_records_everything(world: World) -> None:
    messages: Messages = []

    async def work() -> None:
        async with FakeRegistry().serve() as registry:
            config, manifest = registry.put_image("team/app", "1", [A, B, BIG])
            name = f"{registry.host}/team/app"
            image = await pull(world, f"{name}:1", messages)
            assert image.id == digest_of(config) and image.chain_id == chain_of(A, B, BIG)
            assert image.tags == (f"{name}:1",) and image.digests == (f"{name}@{manifest}",)
            assert messages[0] == {"status": "Pulling from team/app", "id": "1"}
            assert statuses(messages)[-2:] == [f"Digest: {manifest}", f"Status: Downloaded newer image for {name}:1"]
            layer = next(m["id"] for m in messages if m["status"] == "Downloading")
            order = list(dict.fromkeys(statuses(messages, layer)))
            assert [s for s in order if s != "Waiting"] == [
                "Pulling fs layer",
                "Downloading",
                "Verifying Checksum",
                "Download complete",
                "Extracting",
                "Pull complete",
            ]
            downloading = next(m for m in messages if m["status"] == "Downloading")
            assert downloading["progressDetail"]["total"] > 0 and "[" in downloading["progress"]
            assert statuses(messages).index("Pull complete") > statuses(messages).index("Pulling fs layer")
            # A second pull asks with HEAD only.
            messages.clear()
            before = registry.hits.copy()
            again = await pull(world, f"{name}:1", messages)
            assert again.id == image.id and statuses(messages)[-1] == f"Status: Image is up to date for {name}:1"
            assert {key for key, count in (registry.hits - before).items() if count} == {"HEAD manifests"}
            # By digest.
            by_digest = await pull(world, f"{name}@{manifest}", messages)
            assert by_digest.id == image.id and world.service.get(f"{name}@{manifest}").id == image.id

    run(work())
    assert world.database.rows("SELECT * FROM leases") == []


def test_layers_that_are_here_are_not_downloaded(world: World) -> None:
    messages: Messages = []

    async def work() -> None:
        async with FakeRegistry().serve() as registry:
            registry.put_image("x", "1", [A, B])
            registry.put_image("x", "2", [A, B, C, C])
            await pull(world, f"{registry.host}/x:1", messages)
            before = registry.hits["GET blobs"]
            messages.clear()
            image = await pull(world, f"{registry.host}/x:2", messages)
            assert statuses(messages).count("Already exists") == 2
            assert registry.hits["GET blobs"] - before == 2  # the configuration and C, once
            assert image.chain_id == chain_of(A, B, C, C)

    run(work())


def test_an_index_gives_the_image_for_the_platform(world: World) -> None:
    async def work() -> None:
        async with FakeRegistry().serve() as registry:
            _, amd = registry.put_image("x", "amd", [A])
            other, arm = registry.put_image("x", "arm", [B], architecture="arm64")
            index = registry.put_index("x", "latest", {"linux/arm64": arm, "linux/amd64": amd})
            image = await pull(world, f"{registry.host}/x", [])
            assert image.document.architecture == "amd64" and image.digests == (f"{registry.host}/x@{index}",)
            image = await pull(world, f"{registry.host}/x", [], platform="linux/arm64/v8")
            assert image.id == digest_of(other) and image.tags == (f"{registry.host}/x:latest",)
            with pytest.raises(NotFound, match="no matching manifest for linux/s390x in the manifest list entries"):
                await pull(world, f"{registry.host}/x", [], platform="linux/s390x")
            with pytest.raises(NotFound, match="wanted linux/amd64, actual: linux/arm64"):
                await pull(world, f"{registry.host}/x:arm", [], platform="linux/amd64")

    run(work())


def test_all_tags(world: World) -> None:
    async def work() -> None:
        async with FakeRegistry().serve() as registry:
            for tag in ("1", "2", "3", "../x", "a b", "@sha256:1", "2@sha256:" + "a" * 64):
                registry.put_image("x", tag, [A], author=tag)
            images = await world.service.pull_all(parse(f"{registry.host}/x", default_tag=False))
            assert sorted(tag for image in images for tag in image.tags) == [f"{registry.host}/x:{n}" for n in (1, 2, 3)]

    run(work())


def test_pulls_of_one_image_at_the_same_time(world: World) -> None:
    async def work() -> None:
        async with FakeRegistry().serve() as registry:
            registry.put_image("x", "1", [A, BIG])
            registry.put_image("x", "2", [A, BIG, C])
            pulls = [pull(world, f"{registry.host}/x:{tag}", []) for tag in ("1", "2", "1", "2")]
            found = await asyncio.gather(*pulls)
            assert found[0].id == found[2].id and found[1].id == found[3].id
            assert len(world.service.list()) == 2 and len(world.layers.layers) == 3

    run(work())


def test_refusals_come_before_the_stream_in_dockers_words(world: World) -> None:
    messages: Messages = []

    async def work() -> None:
        async with FakeRegistry(users={"me": "secret"}).serve() as registry:
            registry.put_image("x", "1", [A])
            name = f"{registry.host}/x"
            with pytest.raises(NotFound) as denied:
                await pull(world, f"{name}:1", messages)
            assert denied.value.message == (
                f"pull access denied for {name}, repository does not exist or may require 'docker login': "
                "denied: requested access to the resource is denied"
            )
            auth = AuthConfig(username="me", password="secret")
            with pytest.raises(NotFound) as missing:
                await pull(world, f"{name}:2", messages, auth=auth)
            assert missing.value.message == f"manifest for {name}:2 not found: manifest unknown: manifest unknown"
            assert messages == []
            assert (await pull(world, f"{name}:1", messages, auth=auth)).tags == (f"{name}:1",)
            with pytest.raises(Unauthenticated, match="incorrect username or password"):
                await world.service.login(AuthConfig(username="me", password="no", serveraddress=registry.host))
            found = await world.service.login(
                AuthConfig(username="me", password="secret", serveraddress=f"http://{registry.host}/v1/")
            )
            assert (found.status, found.identity_token) == ("Login Succeeded", "identity-me")

    run(work())


def test_basic_authentication(world: World) -> None:
    async def work() -> None:
        async with FakeRegistry(users={"me": "secret"}, scheme="basic").serve() as registry:
            registry.put_image("x", "1", [A])
            with pytest.raises(NotFound, match="no basic auth credentials"):
                await pull(world, f"{registry.host}/x:1", [])
            await pull(world, f"{registry.host}/x:1", [], auth=AuthConfig(auth="bWU6c2VjcmV0"))
            # The first requests of a push are made at the same time: all are asked to log in at once.
            await world.make(A, B, C, tags=(f"{registry.host}/y:1",))
            await push(world, f"{registry.host}/y:1", [], auth=AuthConfig(username="me", password="secret"))

    run(work())


def test_an_unreachable_registry_says_what_to_do(world: World) -> None:
    with pytest.raises(
        Unavailable,
        match=r'^Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused: .* reached from this host',
    ):
        run(pull(world, "127.0.0.1:1/x", []))


def test_a_cut_off_download_goes_on_by_range(world: World) -> None:
    async def work() -> None:
        async with FakeRegistry(cut_after=30_000, cuts=4).serve() as registry:
            registry.put_image("x", "1", [BIG])
            await pull(world, f"{registry.host}/x:1", [])
            assert registry.cuts == 0
            registry.ignore_range, registry.cuts = True, 3
            registry.put_image("x", "2", [BIG + b"\0" * 512])
            await pull(world, f"{registry.host}/x:2", [])

    run(work())


def test_a_failed_pull_records_nothing_and_the_next_goes_on(world: World) -> None:
    async def work() -> None:
        async with FakeRegistry(cut_after=0, cuts=100).serve() as registry:
            registry.put_image("x", "1", [BIG])
            registry.cut_after = 50_000
            registry.cuts = 1
            original = registry._cut

            async def cut_for_good(*arguments: Any) -> Any:
                registry.cuts, registry.cut_after = 100, 0
                return await original(*arguments)

            registry._cut = cut_for_good  # type: ignore[method-assign]
            with pytest.raises(Unavailable, match=r"download of sha256:.* failed after 50000 of"):
                await pull(world, f"{registry.host}/x:1", [])
            assert world.service.list() == [] and world.layers.layers == {}
            assert [len(data) for data in world.blobs.partial.values()] == [50_000]
            registry.cuts = 0
            await pull(world, f"{registry.host}/x:1", [])

    run(work())


def test_row_37_a_registry_that_hangs_is_given_up_on(world: World) -> None:
    async def work() -> None:
        async with FakeRegistry(cut_after=1000, cuts=100, hang=True).serve() as registry:
            registry.put_image("x", "1", [BIG])
            registry.put_image("y", "1", [A])
            world.service._puller._registries = Registries(delay=0, read_seconds=0.05)
            registry.cut_after = 0
            with pytest.raises(Unavailable, match=r"download of sha256:.* failed after 0 of"):
                await asyncio.wait_for(pull(world, f"{registry.host}/x:1", []), 5)

    run(work())


def test_wrong_bytes_are_refused(world: World) -> None:
    async def work() -> None:
        async with FakeRegistry().serve() as registry:
            registry.put_image("x", "1", [A])
            layer = next(d for d, data in registry.blobs.items() if data[:2] == b"\x1f\x8b")
            good = registry.blobs[layer]
            for wrong in (good[:-1] + b"x", good + b"more"):
                registry.blobs[layer] = wrong
                with pytest.raises(DataLoss):
                    await pull(world, f"{registry.host}/x:1", [])
            assert world.service.list() == [] and world.layers.layers == {}

    run(work())


def test_a_client_that_is_gone_ends_the_pull(world: World) -> None:
    async def gone(message: dict[str, Any]) -> None:
        raise ConnectionResetError("gone")

    async def work() -> None:
        async with FakeRegistry().serve() as registry:
            registry.put_image("x", "1", [A, BIG])
            with pytest.raises(ConnectionResetError):
                await world.service.pull(parse(f"{registry.host}/x:1"), progress=gone)
            assert world.service.list() == []

    run(work())


def test_push_and_pull_again(world: World) -> None:
    messages: Messages = []

    async def work() -> None:
        async with FakeRegistry(users={"me": "secret"}).serve() as registry:
            name = f"{registry.host}/team/app"
            image = await world.make(A, BIG, tags=(f"{name}:1",))
            auth = AuthConfig(username="me", password="secret")
            with pytest.raises(Unauthenticated):
                await push(world, f"{name}:1", messages)
            messages.clear()
            await push(world, f"{name}:1", messages, auth=auth)
            assert messages[0] == {"status": f"The push refers to repository [{name}]"}
            assert statuses(messages).count("Preparing") == 2 and statuses(messages).count("Pushed") == 2
            digest, size = messages[-1]["aux"]["Digest"], messages[-1]["aux"]["Size"]
            assert messages[-2]["status"] == f"1: digest: {digest} size: {size}"
            assert world.service.get(image.id).digests == (f"{name}@{digest}",)
            # Again: nothing is sent, the digest stays.
            messages.clear()
            before = registry.hits.copy()
            await push(world, f"{name}:1", messages, auth=auth)
            assert statuses(messages).count("Layer already exists") == 2 and messages[-1]["aux"]["Digest"] == digest
            assert (registry.hits - before)["PATCH blobs/uploads"] == 0
            # Another repository of the same registry: mounted.
            world.service.tag(image, parse(f"{registry.host}/other:2"))
            await push(world, f"{registry.host}/other", messages, auth=auth)
            assert statuses(messages).count("Mounted from " + name.partition("/")[2]) == 2
            # The other side.
            await world.service.remove(f"{name}:1")
            await world.service.remove(f"{registry.host}/other:2")
            assert world.service.list() == [] and world.layers.layers == {}
            pulled = await pull(world, f"{name}:1", [], auth=auth)
            assert pulled.id == image.id and pulled.digests == (f"{name}@{digest}",)
            # What was pulled goes out under the manifest it came with.
            world.service.tag(pulled, parse(f"{registry.host}/third:x"))
            registry.repositories.pop("team/app")
            await push(world, f"{registry.host}/third:x", messages, auth=auth)
            assert messages[-1]["aux"]["Digest"] == digest

    run(work())


def test_pushing_what_is_not_here_fails_in_dockers_words(world: World) -> None:
    async def work() -> None:
        await world.make(A, tags=("127.0.0.1:1/x:1",))
        with pytest.raises(NotFound, match=r"^An image does not exist locally with the tag: 127.0.0.1:1/y$"):
            await push(world, "127.0.0.1:1/y", [])
        with pytest.raises(NotFound, match=r"^tag does not exist: 127.0.0.1:1/x:2$"):
            await push(world, "127.0.0.1:1/x:2", [])

    run(work())


def test_row_52_credentials_stay_with_their_origin(world: World) -> None:
    async def work() -> None:
        async with FakeRegistry().serve() as evil, FakeRegistry(users={"me": "secret"}).serve() as registry:
            config, _ = registry.put_image("x", "1", [A, BIG])
            evil.blobs.update(registry.blobs)
            auth = AuthConfig(username="me", password="secret")
            # A redirect to another origin: followed, without the token.
            registry.redirect_blobs_to = f"http://{evil.host}/cdn"
            image = await pull(world, f"{registry.host}/x:1", [], auth=auth)
            assert image.id == digest_of(config) and evil.hits["cdn"] == 3
            # A realm on another host gets no credentials.
            registry.realm = f"http://localhost:{evil.host.partition(':')[2]}/token"
            with pytest.raises(NotFound):
                await pull(world, f"{registry.host}/x:2", [], auth=auth)
            assert evil.hits["token"] == 1
            assert {given for _, given in evil.authorizations} == {""}
            registry.realm = "http://token.example.com/token"
            with pytest.raises(NotFound, match="token server without TLS"):
                await pull(world, f"{registry.host}/x:2", [], auth=auth)

    run(work())


def test_mirrors_are_asked_first_and_passed_over_when_they_fail(world: World) -> None:
    async def work() -> None:
        async with FakeRegistry().serve() as mirror:
            config, _ = mirror.put_image("library/debian", "trixie", [A])
            mirrors = ("http://127.0.0.1:1", f"http://{mirror.host}")
            world.service._puller._registries = Registries(mirrors, delay=0)
            image = await pull(world, "debian:trixie", [], auth=AuthConfig(username="me", password="secret"))
            assert image.id == digest_of(config) and image.tags == ("debian:trixie",)
            assert {given for _, given in mirror.authorizations} == {""}

    run(work())


def test_mirrors_of_any_registry_and_of_none_other(world: World) -> None:
    async def work() -> None:
        async with FakeRegistry().serve() as mirror, FakeRegistry().serve() as registry:
            config, _ = mirror.put_image("team/app", "1", [A])
            registry.put_image("team/app", "2", [B])
            world.service._puller._registries = Registries((f"{registry.host}=http://{mirror.host}",), delay=0)
            image = await pull(world, f"{registry.host}/team/app:1", [])
            assert image.id == digest_of(config) and image.tags == (f"{registry.host}/team/app:1",)
            assert not registry.authorizations
            # What the mirror does not have, the registry gives.
            await pull(world, f"{registry.host}/team/app:2", [])
            other = Registries((f"elsewhere.example.com=http://{mirror.host}",), delay=0)
            world.service._puller._registries = other
            with pytest.raises(NotFound):
                await pull(world, f"{registry.host}/team/app:1", [])

    run(work())


def test_a_mirror_that_loses_its_layers_is_replaced_by_the_registry(world: World) -> None:
    async def work() -> None:
        async with FakeRegistry().serve() as mirror, FakeRegistry().serve() as registry:
            for place in (mirror, registry):
                config, _ = place.put_image("app", "1", [A, B])
            mirror.without_blobs = True
            world.service._puller._registries = Registries((f"{registry.host}=http://{mirror.host}",), delay=0)
            messages: Messages = []
            image = await pull(world, f"{registry.host}/app:1", messages)
            assert image.id == digest_of(config) and mirror.hits["GET blobs"] and registry.hits["GET blobs"] == 3
            assert statuses(messages)[-1].startswith("Status: Downloaded newer image")

    run(work())


def test_limits_are_waited_for_when_they_are_short_and_told_when_they_are_not(world: World) -> None:
    async def work() -> None:
        async with FakeRegistry(limits=2, retry_after="0").serve() as registry:
            config, _ = registry.put_image("app", "1", [A])
            assert (await pull(world, f"{registry.host}/app:1", [])).id == digest_of(config)
            assert registry.hits["limited"] == 2
            registry.limits, registry.retry_after = 9, "3600"
            with pytest.raises(ResourceExhausted) as raised:
                await pull(world, f"{registry.host}/app:2", [])
            assert raised.value.message == (
                "toomanyrequests: You have reached your pull rate limit: "
                "try again in 60 minutes, log in, or set up a registry mirror"
            )
            assert registry.hits["limited"] == 3, "nobody waits for an hour"
            registry.retry_after = ""
            with pytest.raises(ResourceExhausted, match="try again later, log in"):
                await pull(world, f"{registry.host}/app:2", [])

    run(work())


def test_a_registry_without_an_index_is_searched_by_its_catalog(world: World) -> None:
    async def work() -> None:
        async with FakeRegistry().serve() as registry:
            for name in ("team/web", "team/api", "other/web-server"):
                registry.put_image(name, "1", [A])
            world.service._registries = Registries(delay=0)
            found = await world.service.search(f"{registry.host}/WEB", 0, Filters())
            assert [entry["name"] for entry in found] == [f"{registry.host}/other/web-server", f"{registry.host}/team/web"]
            assert len(await world.service.search(f"{registry.host}/web", 1, Filters())) == 1
            registry.catalog = False
            with pytest.raises(Unavailable, match="does not list its repositories"):
                await world.service.search(f"{registry.host}/web", 0, Filters())

    run(work())


def test_distribution_and_all_errors(world: World) -> None:
    async def work() -> None:
        async with FakeRegistry().serve() as registry:
            _, digest = registry.put_image("x", "1", [A])
            registry.put_index("x", "2", {"linux/amd64": digest, "linux/arm64": digest})
            world.service._registries = Registries(delay=0)
            found = await world.service.distribution(parse(f"{registry.host}/x:1"))
            assert found.descriptor is not None and found.descriptor.digest == digest
            assert [(p.os, p.architecture) for p in found.platforms or []] == [("linux", "amd64")]
            found = await world.service.distribution(parse(f"{registry.host}/x:2"))
            assert len(found.platforms or []) == 2

    run(work())


def test_a_damaged_image_is_mended_by_pulling_it_again(world: World) -> None:
    async def work() -> None:
        async with FakeRegistry().serve() as registry:
            registry.put_image("x", "1", [A, B])
            registry.put_image("y", "1", [C])
            image = await pull(world, f"{registry.host}/x:1", [])
            await pull(world, f"{registry.host}/y:1", [])
            world.blobs.content.pop(image.id)
            world.service.store.forget_cached()
            assert [found.tags for found in world.service.list()] == [(f"{registry.host}/y:1",)]
            messages: Messages = []
            await pull(world, f"{registry.host}/x:1", messages)
            assert len(world.service.list()) == 2
            world.layers.layers.pop(chain_of(A, B))
            await pull(world, f"{registry.host}/x:1", messages)
            assert world.layers.get(chain_of(A, B)) is not None

    run(work())
