from __future__ import annotations

import asyncio
import bz2
import gzip
import io
import json
import tarfile
from collections.abc import Callable
from typing import Any

import pytest
from backports import zstd

from berth.errors import BerthError, DataLoss, InvalidArgument, NotFound
from berth.model.descriptor import OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from berth.model.digest import digest_of, hex_of
from unit.images.conftest import World
from unit.images.twins import chain_of, collect, stream_of, tar_of

A, B, C = tar_of(a="1"), tar_of(b="22"), tar_of(c="333")


async def load(world: World, data: bytes, **options: Any) -> tuple[list[str], list[dict[str, Any]]]:
    messages: list[dict[str, Any]] = []

    async def progress(message: dict[str, Any]) -> None:
        messages.append(message)

    images = await world.service.load(stream_of(data), progress=progress, **options)
    return [image.id for image in images], messages


def archive_of(members: dict[str, bytes | str]) -> bytes:
    """A tar; a text is a symbolic link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def config_of(*tars: bytes, **changes: Any) -> bytes:
    rootfs = {"type": "layers", "diff_ids": [digest_of(data) for data in tars]}
    return json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs, **changes}).encode()


def docker_archive(config: bytes, layers: dict[str, bytes | str], tags: list[str] | None) -> bytes:
    entry = {"Config": "config.json", "RepoTags": tags, "Layers": list(layers)}
    return archive_of({**layers, "config.json": config, "manifest.json": json.dumps([entry]).encode()})


def layout(document: bytes, layers: list[bytes], annotations: dict[str, str], **changes: Any) -> dict[str, bytes | str]:
    members: dict[str, bytes | str] = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}

    def put(data: bytes, kind: str) -> dict[str, Any]:
        members[f"blobs/sha256/{hex_of(digest_of(data))}"] = data
        return {"mediaType": kind, "digest": digest_of(data), "size": len(data)}

    manifest = {
        "schemaVersion": 2,
        "config": put(document, "application/vnd.oci.image.config.v1+json"),
        "layers": [put(data, OCI_LAYER) for data in layers],
        **changes,
    }
    entry = {**put(json.dumps(manifest).encode(), OCI_MANIFEST), "annotations": annotations}
    members["index.json"] = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
    return members


def test_layers_of_an_index_stay_as_the_index_says(world: World) -> None:
    """Layers that come uncompressed are compressed when they are kept; not those of an index, which names them."""
    members = layout(CONFIG, [A], {})
    (entry,) = json.loads(members["index.json"])["manifests"]
    inner = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
    members[f"blobs/sha256/{hex_of(digest_of(inner))}"] = inner
    outer = {"mediaType": OCI_INDEX, "digest": digest_of(inner), "size": len(inner)}
    outer["annotations"] = {"io.containerd.image.name": "docker.io/library/x:1"}
    members["index.json"] = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [outer]}).encode()
    asyncio.run(load(world, archive_of(members)))
    assert world.service.get("x:1").index == digest_of(inner)
    (layer,) = world.layers.layers.values()
    assert layer.blob is not None and layer.blob.digest == digest_of(A) and world.blobs.has(digest_of(A))


def test_saved_images_come_back_the_same(world: World) -> None:
    async def work() -> None:
        first = await world.make(A, B, tags=("one:1", "one:2"))
        second = await world.make(A, C, tags=("host:5000/two",))
        data = await collect(world.service.save(["one", second.id[7:19]]))
        names = tarfile.open(fileobj=io.BytesIO(data)).getnames()
        assert {"manifest.json", "index.json", "oci-layout", "repositories"} < set(names) and len(names) == len(set(names))
        await world.service.remove(first.id, force=True)
        await world.service.remove(second.id, force=True)
        assert world.layers.layers == {}
        ids, messages = await load(world, data)
        assert ids == [first.id, second.id]
        assert world.service.get("one:1").id == world.service.get("one:2").id == first.id
        assert world.service.get(second.id).tags == ()
        streams = [m["stream"] for m in messages if "stream" in m]
        assert streams == ["Loaded image: one:1\n", "Loaded image: one:2\n", f"Loaded image ID: {second.id}\n"]
        assert {m["status"] for m in messages if "status" in m} == {"Loading layer"}
        # What came in as a blob goes out as it came; the result is the same archive again when nothing is our own.
        again = await collect(world.service.save(["one:1"]))
        assert await collect(world.service.save(["one:1"])) == again

    asyncio.run(work())
    assert world.database.rows("SELECT * FROM leases") == []


def test_the_oci_side_of_a_saved_archive_loads_too(world: World) -> None:
    async def work() -> None:
        image = await world.make(A, B, tags=("one:1", "x.example.com/two:2"))
        data = await collect(world.service.save(["one:1", "x.example.com/two:2"]))
        await world.service.remove(image.id, force=True)
        members = tarfile.open(fileobj=io.BytesIO(data))
        kept = {m.name: members.extractfile(m).read() for m in members if m.isfile() and m.name != "manifest.json"}  # type: ignore[union-attr]
        ids, _ = await load(world, archive_of(kept))
        assert ids == [image.id] and world.service.get(image.id).tags == ("one:1", "x.example.com/two:2")

    asyncio.run(work())


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd.compress, bz2.compress])
def test_archives_and_layers_may_be_compressed(world: World, pack: Callable[[bytes], bytes]) -> None:
    data = docker_archive(config_of(A, B), {"1/layer.tar": pack(A), "2/layer.tar": pack(B)}, ["x:1"])
    ids, _ = asyncio.run(load(world, pack(data), quiet=True))
    assert ids == [digest_of(config_of(A, B))] and world.service.get("x:1").chain_id == chain_of(A, B)


def test_old_archives_link_equal_layers(world: World) -> None:
    layers: dict[str, bytes | str] = {"1/layer.tar": A, "2/layer.tar": "../1/layer.tar"}
    asyncio.run(load(world, docker_archive(config_of(A, A), layers, ["x:1"])))
    assert world.service.get("x:1").chain_id == chain_of(A, A)


def test_a_tag_that_moves_is_told(world: World) -> None:
    async def work() -> None:
        before = await world.make(A, tags=("x:1",))
        _, messages = await load(world, docker_archive(config_of(B), {"l": B}, ["x:1"]))
        text = f"The image x:1 already exists, renaming the old one with ID {before.id} to empty string\n"
        assert [m["stream"] for m in messages if "stream" in m] == [text, "Loaded image: x:1\n"]

    asyncio.run(work())


CONFIG = config_of(A)
HOSTILE = {
    "no archive at all": b"hello" * 300,
    "empty": b"",
    "neither kind": archive_of({"x": b""}),
    "link out": docker_archive(CONFIG, {"l": "../../../../etc/passwd"}, None),
    "link in a circle": docker_archive(CONFIG, {"l": "l"}, None),
    "missing layer": archive_of({"c": CONFIG, "manifest.json": b'[{"Config": "c", "Layers": ["/etc/passwd"]}]'}),
    "wrong layer": docker_archive(CONFIG, {"l": B}, None),
    "too few layers": docker_archive(CONFIG, {}, None),
    "bad tag": docker_archive(CONFIG, {"l": A}, ["../x"]),
    "digest as tag": docker_archive(CONFIG, {"l": A}, ["x@" + digest_of(A)]),
    "bad diff id": docker_archive(config_of(A, rootfs={"diff_ids": ["sha256:../x"]}), {"l": A}, None),
    "null manifest": archive_of({"manifest.json": b"null"}),
    "deep manifest": archive_of({"manifest.json": b"[" * 200_000}),
    "config is a list": docker_archive(b"[]", {"l": A}, None),
    "bad digest in index": archive_of(
        {
            **layout(CONFIG, [A], {}),
            "index.json": json.dumps(
                {"schemaVersion": 2, "manifests": [{"mediaType": OCI_MANIFEST, "digest": "sha256:../../x", "size": 1}]}
            ).encode(),
        }
    ),
    "blob of another digest": archive_of(
        {k: (v if k.endswith("json") or k == "oci-layout" else b"{}") for k, v in layout(CONFIG, [A], {}).items()}
    ),
    "ambiguous manifest": archive_of(layout(CONFIG, [A], {}, manifests=[])),
    "artifact": archive_of(layout(CONFIG, [A], {}, config={"mediaType": "x/y", "digest": digest_of(b"{}"), "size": 2})),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused_and_leave_nothing(world: World, name: str) -> None:
    with pytest.raises((InvalidArgument, DataLoss, NotFound)) as refused:
        asyncio.run(load(world, HOSTILE[name]))
    assert isinstance(refused.value, BerthError) and refused.value.message
    assert world.service.list() == [] and world.database.rows("SELECT * FROM leases") == []


def test_saving_what_is_not_here(world: World) -> None:
    with pytest.raises(NotFound, match=r"^No such image: x:latest$"):
        world.service.save(["x"])
