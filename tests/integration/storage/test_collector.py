"""Garbage collection on real stores, with the tables as the services fill them."""

from __future__ import annotations

import gzip
import os
import time

from berth.model.descriptor import Descriptor
from berth.model.digest import Digest, digest_of
from berth.storage.gc import Collector
from support.stores import Stores, archive, stream


async def pulled(stores: Stores, name: str, parent: Digest | None = None) -> tuple[Digest, Descriptor]:
    """A layer that came from elsewhere."""
    data = archive((name, "file", name))
    blob = stores.blob(gzip.compress(data))
    return (await stores.layers.apply_blob(parent, digest_of(data), blob)).chain_id, blob


async def test_only_what_nothing_leads_to_goes(stores: Stores) -> None:
    base, base_blob = await pulled(stores, "base")
    top, _ = await pulled(stores, "top", base)
    lost, _ = await pulled(stores, "lost", base)
    lost_child = (await stores.layers.apply_tar(lost, stream(archive(("x", "file", ""))))).chain_id
    running, _ = await pulled(stores, "running")
    leased, leased_blob = await pulled(stores, "leased")
    config, orphan = stores.blobs.write(b"{}"), stores.blobs.write(b"orphan")
    manifest = stores.blobs.write(b'{"config": {"digest": "%s"}, "layers": []}' % config.encode())
    index = stores.blobs.write(b'{"manifests": [{"digest": "%s"}]}' % manifest.encode())
    execute = stores.database.execute
    execute("INSERT INTO images (id, chain_id, created, size) VALUES (?, ?, 0, 0)", (config, top))
    execute("INSERT INTO repo_digests (reference, image_id) VALUES (?, ?)", (f"docker.io/library/x@{index}", config))
    execute("INSERT INTO leases (id, created, resource) VALUES ('l', 0, ?)", (leased,))
    await stores.snapshots.prepare("c1", running)

    collector = Collector(stores.database, stores.blobs, stores.layers, stores.snapshots)
    assert await collector.collect(before=time.time() - 60) == 0
    assert await collector.collect() == 4
    assert {layer.chain_id for layer in stores.layers.all()} == {base, top, running, leased}
    assert not any(stores.layers.get(chain) for chain in (lost, lost_child))
    for digest in (config, manifest, index, base_blob.digest, leased_blob.digest):
        assert stores.blobs.has(digest)
    assert not stores.blobs.has(orphan)
    assert await collector.collect() == 0


async def test_the_start_takes_what_a_crash_left(stores: Stores) -> None:
    chain, _ = await pulled(stores, "young")
    (stores.root / "ingest/x.tmp").touch()
    (stores.root / "ingest" / ("a" * 64 + ".part")).touch()
    (stores.root / "layers/.staging-x/fs").mkdir(parents=True)
    document, large = stores.blobs.write(b'{"architecture": "amd64"}'), stores.blobs.write(b"x" * 100_000)
    await stores.snapshots.prepare("build-x", None)
    await stores.snapshots.prepare("build-running", None)
    collector = Collector(stores.database, stores.blobs, stores.layers, stores.snapshots)
    assert await collector.start(frozenset(["build-running"])) >= 3
    assert stores.layers.get(chain) is not None
    assert os.listdir(stores.root / "ingest") == ["a" * 64 + ".part"]
    assert stores.blobs.has(large) and not stores.blobs.has(document)
    assert stores.snapshots.keys() == ["build-running"]
    assert await collector.start(frozenset(["build-running"]), now=time.time() + 2 * 24 * 3600) >= 3
    assert stores.layers.all() == [] and os.listdir(stores.root / "ingest") == []
