"""A full disk during load and pull: said in so many words, nothing recorded, nothing left but what a next try can use."""

from __future__ import annotations

import asyncio
import gzip
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from berth.errors import ResourceExhausted
from berth.model.reference import parse
from integration.test_image_registry import Host, stream_of
from unit.images.test_image_archive import config_of, docker_archive
from unit.images.twins import tar_of
from unit.registry.fake import FakeRegistry

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small tmpfs: needs root")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Host]:
    """A data root with 12 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(place)], check=True)
    try:
        host = Host(place / "root")
        yield host
        host.close()
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("megabytes", [8, 20])
def test_load_on_a_full_disk(small: Host, megabytes: int) -> None:
    big = tar_of(big=os.urandom(megabytes * 500_000).hex())
    data = docker_archive(config_of(big), {"layer.tar": big}, ["app:1"])
    with pytest.raises(ResourceExhausted, match="no space left on device"):
        asyncio.run(small.service.load(stream_of(data)))
    assert small.service.list() == []
    assert not {name for name in small.content() if not name.startswith("blobs/")}
    assert small.database.rows("SELECT * FROM leases") == []


def test_pull_on_a_full_disk(small: Host) -> None:
    async def work() -> None:
        async with FakeRegistry().serve() as registry:
            big = tar_of(big="x" * 14_000_000)
            registry.put_image("app", "1", [tar_of(a="b"), big])
            assert len(gzip.compress(big)) < 1_000_000
            with pytest.raises(ResourceExhausted, match="no space left on device"):
                await small.service.pull(parse(f"{registry.host}/app:1"))
            assert small.service.list() == []
            registry.put_image("app", "2", [tar_of(a="b")])
            assert (await small.service.pull(parse(f"{registry.host}/app:2"))).tags == (f"{registry.host}/app:2",)

    asyncio.run(work())
