"""A builder on in-memory twins."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import os
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from berth.build.options import BuildOptions
from berth.build.service import BuildService
from berth.contract.image import Image
from berth.engine.config import EngineConfig
from berth.engine.events import Events
from berth.storage.compression import expand
from berth.storage.database import Database

_spec = importlib.util.spec_from_file_location("build_twins", Path(__file__).with_name("twins.py"))
assert _spec is not None and _spec.loader is not None
twins = importlib.util.module_from_spec(_spec)
sys.modules["build_twins"] = twins
_spec.loader.exec_module(twins)


class Bench:
    """A world, and a builder in it. `build` gives the image and all output."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.world = twins.World()
        self.database = Database(f"{root}/berth.db")
        self.images = twins.Images(self.world)
        self.steps = twins.Steps(self.world)
        self.messages: list[dict[str, Any]] = []
        Node = twins.Node
        self.world.add_image("base", {"/etc": Node("d", mode=0o755), "/etc/passwd": Node("f", b"app:x:1000:1001::/:/bin/sh\n")})
        self.service = self.restart()

    def restart(self) -> BuildService:
        self.service = BuildService(
            config=EngineConfig(root=self.root, build_host_network_settings="off"),
            database=self.database,
            events=Events(),
            images=self.images,
            layers=twins.Layers(self.world),
            snapshots=twins.Snapshots(self.world),
            trees=twins.Trees(self.world),
            steps=self.steps,
            expand=expand,
        )
        return self.service

    def build(self, dockerfile: str, files: Mapping[str, str | bytes] | None = None, **options: Any) -> Image:
        return asyncio.run(self.abuild(dockerfile, files, **options))

    async def abuild(self, dockerfile: str, files: Mapping[str, str | bytes] | None = None, **options: Any) -> Image:
        self.messages.clear()
        self.world.log.clear()
        wanted = BuildOptions(**options)

        async def body() -> Any:
            yield make_context({"Dockerfile": dockerfile, **(files or {})})

        async def send(message: dict[str, Any]) -> None:
            self.messages.append(message)

        async with self.service.context(body()) as context:
            return await self.service.build(context, wanted, self.service.plan(context, wanted), send)

    @property
    def output(self) -> str:
        return "".join(message.get("stream", "") for message in self.messages)

    def files(self, image: Image) -> dict[str, Any]:
        return self.world.files(image.chain_id)


def make_context(files: Mapping[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            if isinstance(text, str) and text.startswith("-> "):
                info.type, info.linkname = tarfile.SYMTYPE, text[3:]
                archive.addfile(info)
                continue
            data = text.encode() if isinstance(text, str) else text
            info.size, info.mode, info.mtime = len(data), 0o644, 1_600_000_000
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(str(tmp_path))
    yield made
    assert made.world.snapshots == {}
    left = os.listdir(tmp_path / "build") if (tmp_path / "build").is_dir() else []
    assert [name for name in left if name.startswith("context-")] == []
    assert made.database.rows("SELECT id FROM leases WHERE id LIKE 'build:%'") == []
    made.database.close()


@pytest.fixture
def context_tar() -> Any:
    return make_context
