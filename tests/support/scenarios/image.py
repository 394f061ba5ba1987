"""Everything that makes images, names them and takes them away."""

from __future__ import annotations

import io
import tarfile
import tempfile
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from berth.client.build import BuildOptions
from berth.client.containers import CreateBody
from berth.client.engine import Engine
from support.platforms import OTHER, layout
from support.scenarios.world import PROGRAM, SUBJECT, Scenario, World
from unit.images.test_image_archive import config_of, docker_archive
from unit.images.twins import tar_of


class ImageScenario(Scenario):
    """Something that makes the image `matrix:1`; `matrix:1` has the file /made."""

    tag: ClassVar[str] = "matrix:1"

    @abstractmethod
    def make(self, client: Engine, world: World) -> None:
        """Make it."""

    def name(self, world: World) -> str:
        """The image's name."""
        return self.tag

    def act(self, client: Engine, world: World) -> None:
        self.make(client, world)

    def verify(self, world: World) -> None:
        if self.name(world) in world.images():
            self.check(world)
        world.call(lambda c: self.make(c, world))
        assert self.name(world) in world.images()
        self.check(world)

    def check(self, world: World) -> None:
        """The image works."""
        made = world.call(lambda c: c.containers.create(CreateBody(image=self.name(world), cmd=["none"]))).id
        try:
            with world.engine.client as client:
                _, response = client.containers.get_archive(made, "/made")
                with tarfile.open(fileobj=io.BytesIO(response.read())) as tar:
                    assert tar.getnames() == ["made"]
        finally:
            world.remove(made)

    def clean(self, world: World) -> None:
        world.call(lambda c: c.images.remove(self.name(world), force=True))
        # What was made before the kill and what was made afterwards may differ in their times.
        world.call(lambda c: c.images.prune(filters={"dangling": ["true"]}))


def _through(messages: Iterator[Any]) -> None:
    """To the end; what goes wrong on the way is raised."""
    for _ in messages:
        pass


class Import(ImageScenario):
    points = ("layer.stage.*", "layer.publish.*", "blob.write.*", "image.add.*", "lease.*")

    def make(self, client: Engine, world: World) -> None:
        _through(client.images.import_tar(tar_of(made="x"), repo="matrix", tag="1"))


class Load(ImageScenario):
    points = ("image.load.*", "blob.ingest.*")

    def make(self, client: Engine, world: World) -> None:
        first, second = tar_of(first="x"), tar_of(made="x")
        data = docker_archive(config_of(first, second), {"1.tar": first, "2.tar": second}, ["matrix:1"])
        _through(client.images.load(data))


class Pull(ImageScenario):
    points = ("image.pull.*", "blob.ingest.*", "blob.write.*", "layer.publish.*")

    def name(self, world: World) -> str:
        return f"{world.registry}/app:1"

    def make(self, client: Engine, world: World) -> None:
        _through(client.images.pull(self.name(world)))


class PullIndex(ImageScenario):
    """Two platforms of one tag, one after the other."""

    points = ("index.add.*",)

    def name(self, world: World) -> str:
        return f"{world.registry}/app:multi"

    def make(self, client: Engine, world: World) -> None:
        for platform in (None, "linux/s390x"):
            _through(client.images.pull(self.name(world), platform=platform))
        assert client.images.inspect_raw(self.name(world), platform="linux/s390x")["Architecture"] == "s390x"


class LoadIndex(ImageScenario):
    points = ("index.load.after-documents",)
    tag = "multi:latest"

    def make(self, client: Engine, world: World) -> None:
        with tempfile.TemporaryDirectory(prefix="berth-test-") as directory:
            _through(client.images.load(layout(Path(directory, "oci"), base=tar_of(made="x")).tar()))


class RemovePlatforms(Scenario):
    """First one platform, then all."""

    points = ("index.drop.*", "index.delete.*")

    def prepare(self, world: World) -> None:
        world.call(lambda c: LoadIndex().make(c, world))

    def act(self, client: Engine, world: World) -> None:
        client.images.remove("multi", platforms=[f"linux/{OTHER}"])
        client.images.remove("multi")

    def verify(self, world: World) -> None:
        world.call(lambda c: LoadIndex().make(c, world))
        LoadIndex().check(world)
        world.call(lambda c: c.images.inspect_raw("multi", platform=f"linux/{OTHER}"))

    def clean(self, world: World) -> None:
        LoadIndex().clean(world)


class Commit(ImageScenario):
    points = ("container.commit.*", "snapshot.commit.*")

    def prepare(self, world: World) -> None:
        world.create(cmd=["sh", "-c", f"touch /made; {PROGRAM}"])
        world.start()

    def make(self, client: Engine, world: World) -> None:
        client.images.commit(SUBJECT, repo="matrix", tag="1")

    def verify(self, world: World) -> None:
        assert world.exec("echo", "awake") == ("awake\n", 0), "frozen for a commit, and never thawed"
        super().verify(world)

    def clean(self, world: World) -> None:
        world.remove()
        super().clean(world)


class Build(ImageScenario):
    points = ("build.*", "snapshot.commit.*", "launch.setup.after-exec", "launch.birth.after-run-file")

    def make(self, client: Engine, world: World) -> None:
        context = tar_of(Dockerfile="FROM busybox\nRUN touch /made\nLABEL a=b\n")
        _through(client.builds.build(context, BuildOptions(tags=("matrix:1",))))

    def clean(self, world: World) -> None:
        super().clean(world)
        world.call(lambda c: c.builds.prune(all=True))


class Tag(Scenario):
    points = ("image.tag.*", "image.untag.*")

    def act(self, client: Engine, world: World) -> None:
        client.images.tag("busybox", "matrix", "2")
        client.images.remove("matrix:2")

    def verify(self, world: World) -> None:
        world.call(lambda c: c.images.tag("busybox", "matrix", "2"))
        assert world.images() == {"busybox:latest", "matrix:2"}

    def clean(self, world: World) -> None:
        world.call(lambda c: c.images.remove("matrix:2"))


class RemoveImage(Scenario):
    points = ("image.untag.*", "image.delete.*", "layer.remove.*", "blob.delete.*")

    def prepare(self, world: World) -> None:
        world.call(lambda c: Load().make(c, world))

    def act(self, client: Engine, world: World) -> None:
        client.images.remove("matrix:1")

    def verify(self, world: World) -> None:
        world.call(lambda c: c.images.prune(filters={"dangling": ["true"]}))
        world.call(lambda c: Load().make(c, world))
        Load().check(world)

    def clean(self, world: World) -> None:
        world.call(lambda c: c.images.remove("matrix:1"))
