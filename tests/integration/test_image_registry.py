"""Images against what others wrote: Debian's docker-registry on loopback, and skopeo."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from berth.contract.image import Image
from berth.engine.config import EngineConfig
from berth.engine.events import Events
from berth.engine.images.service import ImageService
from berth.errors import NotFound, Unauthenticated
from berth.model.reference import parse
from berth.storage.blob import BlobStore
from berth.storage.compression import expand
from berth.storage.database import Database
from berth.storage.layer import LayerStore
from berth.storage.quota import Quotas
from berth.wire.container import ContainerConfig
from berth.wire.image import AuthConfig
from support.registry import registry

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="layers keep owners: needs root"),
    pytest.mark.skipif(shutil.which("docker-registry") is None, reason="needs Debian's docker-registry"),
]
T = TypeVar("T")


def tar_of(*names: str, size: int = 100_000) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime, info.uid = size, 0o4755, 1_600_000_000, 1000
            archive.addfile(info, io.BytesIO((name * size).encode()[:size]))
    return buffer.getvalue()


async def stream_of(data: bytes) -> Any:
    for position in range(0, len(data), 50_000):
        yield data[position : position + 50_000]


class Host:
    """A data root with an image service."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("blobs/sha256", "ingest", "layers"):
            (root / name).mkdir(parents=True)
        self.database = Database(str(root / "berth.db"))
        self.blobs = BlobStore(str(root))
        self.layers = LayerStore(str(root), self.database, self.blobs, expand, Quotas(str(root)))
        self.service = ImageService(EngineConfig(root=str(root)), self.database, Events(), self.blobs, self.layers, expand)

    async def make(self, *tags: str) -> Image:
        """Two layers of our own, the second with a change of the first."""
        below = await self.layers.apply_tar(None, stream_of(tar_of("bin/a", "etc/b")))
        document = self.service.commit_document(None, ContainerConfig(cmd=["/bin/a"]), diff_id=below.diff_id, created_by="import")
        above = await self.layers.apply_tar(below.chain_id, stream_of(tar_of("etc/b", "etc/.wh.c", size=70_000)))
        document = self.service.commit_document(
            document, ContainerConfig(cmd=["/bin/a"]), diff_id=above.diff_id, created_by="run"
        )
        return await self.service.create(document, above.chain_id, tags=tuple(parse(tag) for tag in tags))

    def close(self) -> None:
        self.layers.close()
        self.database.close()

    def content(self) -> set[str]:
        """What is left on disk."""
        found = {f"{kind}/{name}" for kind in ("layers", "blobs/sha256", "ingest") for name in os.listdir(self.root / kind)}
        return {name for name in found if name not in LayerStore.fixed and "/.trash-" not in name}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path / "root")
    yield made
    made.close()


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 60))


def skopeo(*arguments: str) -> str:
    done = subprocess.run(["skopeo", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def push(host: Host, name: str, auth: AuthConfig | None = None) -> list[str]:
    statuses: list[str] = []

    async def progress(message: dict[str, Any]) -> None:
        statuses.append(message.get("status", ""))

    reference = parse(name, default_tag=False)
    await host.service.push(reference, reference.tag, auth=auth, progress=progress)
    return statuses


def test_push_remove_pull_by_tag_and_digest(host: Host, tmp_path: Path) -> None:
    with registry(tmp_path / "registry") as address:

        async def work() -> None:
            image = await host.make(f"{address}/team/app:1")
            statuses = await push(host, f"{address}/team/app:1")
            assert statuses.count("Pushed") == 2
            digest = host.service.get(image.id).digests[0]
            seen = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{address}/team/app:1"))
            assert digest.endswith(seen["Digest"]) and len(seen["Layers"]) == 2
            assert (await push(host, f"{address}/team/app:1")).count("Layer already exists") == 2
            host.service.tag(image, parse(f"{address}/other:2"))
            assert (await push(host, f"{address}/other:2")).count("Mounted from team/app") == 2
            for name in (f"{address}/team/app:1", f"{address}/other:2"):
                await host.service.remove(name)
            assert host.content() == set()
            pulled = await host.service.pull(parse(f"{address}/team/app:1"))
            assert pulled.id == image.id and pulled.size == image.size
            stack = host.layers.stack(pulled.chain_id)
            status = os.stat(host.root / stack[0] / "etc/b")
            assert (status.st_size, status.st_uid, status.st_mode & 0o7777) == (70_000, 1000, 0o4755)
            await host.service.remove(pulled.id)
            assert host.content() == set()
            assert (await host.service.pull(parse(digest))).id == image.id
            with pytest.raises(NotFound, match=rf"^manifest for {address}/team/app:nope not found: manifest unknown"):
                await host.service.pull(parse(f"{address}/team/app:nope"))
            with pytest.raises(NotFound, match=r"manifest unknown|pull access denied"):
                await host.service.pull(parse(f"{address}/nope"))

        run(work())


def test_a_registry_with_a_password(host: Host, tmp_path: Path) -> None:
    with registry(tmp_path / "registry", password="secret") as address:
        good = AuthConfig(username="me", password="secret", serveraddress=address)

        async def work() -> None:
            await host.make(f"{address}/app:1")
            assert (await host.service.login(good)).status == "Login Succeeded"
            with pytest.raises(Unauthenticated):
                await host.service.login(AuthConfig(username="me", password="wrong", serveraddress=address))
            with pytest.raises(Unauthenticated):
                await push(host, f"{address}/app:1")
            assert (await push(host, f"{address}/app:1", good)).count("Pushed") == 2
            with pytest.raises(NotFound, match="pull access denied"):
                await host.service.pull(parse(f"{address}/app:1"))

        run(work())


def test_skopeo_reads_what_we_save_and_we_load_what_skopeo_writes(host: Host, tmp_path: Path) -> None:
    async def work() -> None:
        image = await host.make("app:1", "app:2")
        path = tmp_path / "saved.tar"
        with open(path, "wb") as file:
            async for piece in host.service.save(["app"]):
                file.write(piece)
        seen = json.loads(skopeo("inspect", f"docker-archive:{path}:app:1"))
        assert seen["Layers"] == [str(diff_id) for diff_id in image.document.rootfs.diff_ids]
        skopeo("copy", f"docker-archive:{path}:app:2", f"oci-archive:{tmp_path}/oci.tar:x.example.com/app:3")
        skopeo("copy", f"docker-archive:{path}:app:2", f"docker-archive:{tmp_path}/docker.tar:app:4")
        layout = tmp_path / "layout"
        with tarfile.open(path) as archive:
            archive.extractall(layout)
        assert json.loads(skopeo("inspect", "--config", "--raw", f"oci:{layout}:1"))["os"] == "linux"
        await host.service.remove(image.id, force=True)
        assert host.content() == set()
        for name, tag in (("oci.tar", "x.example.com/app:3"), ("docker.tar", "app:4"), ("saved.tar", "app:2")):
            (loaded,) = await host.service.load(stream_of((tmp_path / name).read_bytes()))
            assert loaded.document.rootfs.diff_ids == image.document.rootfs.diff_ids
            assert host.service.get(tag).id == loaded.id
        # What was loaded has blobs now, and is written in them.
        with open(path, "wb") as file:
            async for piece in host.service.save(["app:2"]):
                file.write(piece)
        assert json.loads(skopeo("inspect", "--config", "--raw", f"docker-archive:{path}"))["rootfs"]["diff_ids"]
        assert list((host.root / "ingest").iterdir()) == []

    run(work())


def test_pulls_and_removals_at_the_same_time(host: Host, tmp_path: Path) -> None:
    with registry(tmp_path / "registry") as address:
        name = f"{address}/app:1"

        async def remove() -> None:
            for _ in range(20):
                with contextlib.suppress(NotFound):
                    await host.service.remove(name, force=True)
                await asyncio.sleep(0.002)

        async def work() -> None:
            image = await host.make(name)
            await push(host, name)
            for _ in range(3):
                await asyncio.gather(*(host.service.pull(parse(name)) for _ in range(4)), remove())
                found = await host.service.pull(parse(name))
                assert found.id == image.id
                for directory in host.layers.stack(found.chain_id):
                    assert (host.root / directory).is_dir()
                assert len([piece async for piece in host.service.save([name])]) > 5
            await host.service.remove(name)
            assert host.content() == set()

        run(work())
