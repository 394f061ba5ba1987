"""The image service: what the API, the container service and the builder call. Each concern is a module of this package.

store     which images there are, by which names         pull, push   from and to a registry
view      inspect, list, history                         archive      save and load
remove    untag, delete, prune                           imports      a root filesystem as an image
"""

from __future__ import annotations

import builtins
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from berth.contract.image import Image, Progress
from berth.contract.store import Blobs, ByteStream, Expand, Layers
from berth.contract.usage import Usage
from berth.engine.config import EngineConfig
from berth.engine.events import Events
from berth.engine.images import view
from berth.engine.images.distribution import distribution, search
from berth.engine.images.document import commit_document
from berth.engine.images.imports import Importer
from berth.engine.images.lease import Leases
from berth.engine.images.load import Loader
from berth.engine.images.manifests import Manifests
from berth.engine.images.pull import Puller
from berth.engine.images.push import Pusher
from berth.engine.images.remove import Remover
from berth.engine.images.save import Saver
from berth.engine.images.store import ImageStore
from berth.model.digest import Digest
from berth.model.filters import Filters
from berth.model.reference import Reference, parse
from berth.registry.access import Registries
from berth.registry.credential import credentials_of
from berth.registry.manifest import parse_platform
from berth.storage.database import Database
from berth.wire.container import ContainerConfig
from berth.wire.document import ImageDocument
from berth.wire.image import (
    AuthConfig,
    AuthResponse,
    DistributionInspect,
    ImageDeleteResponseItem,
    ImageHistoryResponseItem,
    ImageInspect,
    ImageSummary,
)


class ImageService:
    """Implements contract.image.Images. `usage` is set when the engine is put together."""

    def __init__(
        self, config: EngineConfig, database: Database, events: Events, blobs: Blobs, layers: Layers, expand: Expand
    ) -> None:
        self._config = config
        self._events = events
        self._layers = layers
        self._blobs = blobs
        self.usage: Usage | None = None
        self.store = ImageStore(database, blobs, layers)
        self.leases = leases = Leases(database)
        registries = self._registries = Registries(config.registry_mirrors, config.insecure_registries)
        self._puller = Puller(events, blobs, layers, self.store, leases, registries)
        self._pusher = Pusher(database, events, blobs, layers, self.store, leases, registries)
        self._loader = Loader(events, blobs, layers, self.store, leases, expand, f"{config.root}/ingest")
        self._saver = Saver(events, blobs, layers, self.store, leases)
        self._importer = Importer(events, layers, self.store, leases)
        self._remover = Remover(database, events, blobs, layers, self.store, leases, lambda: self.usage)

    # Looking up

    def get(self, reference: str) -> Image:
        """By reference, id or unambiguous id prefix."""
        return self.store.get(reference)

    def find(self, reference: str) -> Image | None:
        """Like get, or None."""
        return self.store.find(reference)

    def platforms(self, reference: str) -> builtins.list[Image]:
        """What the reference means, one for each platform that is here, the one that `find` gives first. Empty without one."""
        image = self.store.find(reference)
        return self.store.platforms(image) if image is not None else []

    def list(self) -> builtins.list[Image]:
        """All images, newest first."""
        return self.store.all()

    def count(self) -> int:
        """How many images there are."""
        return self.store.count()

    def get_for(self, reference: str, platform: str) -> Image:
        """Like get, for a platform: one of those that the reference means. NotFound in Docker's words when none is for it."""
        image = self.store.get(reference)
        return self.store.for_platform(image, reference, platform) if platform else image

    def find_for(self, reference: str, platform: str) -> Image | None:
        """Like get_for, or None."""
        image = self.store.find(reference)
        return self.store.platform(image, parse_platform(platform)) if image is not None and platform else image

    def inspect(self, reference: str, platform: str = "", *, manifests: bool = False) -> ImageInspect:
        """GET /images/{name}/json."""
        image = self.get_for(reference, platform)
        descriptor, _ = self._listing().documents(image, manifests=False)
        found = self._manifests().summaries(image) if manifests else None
        return view.inspect(image, self._config.root, self._layers.stack(image.chain_id), descriptor, found)

    def attestations(
        self, reference: str, platform: str = "", types: frozenset[str] = frozenset(), *, statement: bool = False
    ) -> builtins.list[dict[str, Any]]:
        """GET /images/{name}/attestations."""
        return self._manifests().attestations(self.get_for(reference, platform), types, statement=statement)

    def _manifests(self) -> Manifests:
        return Manifests(self._blobs, self.store, self.usage)

    def _listing(self) -> view.Listing:
        return view.Listing(self.store, self._layers, self.usage, self._manifests())

    def history(self, reference: str, platform: str = "") -> builtins.list[ImageHistoryResponseItem]:
        """GET /images/{name}/history."""
        return view.history(self.get_for(reference, platform), self.store)

    def summaries(
        self,
        filters: Filters,
        *,
        all_images: bool = False,
        shared_size: bool = False,
        count_containers: bool = False,
        manifests: bool = False,
    ) -> builtins.list[ImageSummary]:
        """GET /images/json, and with containers counted what GET /system/df shows."""
        return self._listing().summaries(
            filters,
            time.time(),
            all_images=all_images,
            shared_size=shared_size,
            count_containers=count_containers,
            manifests=manifests,
        )

    def layers_size(self) -> int:
        """Bytes of all layers that images use, each counted once."""
        return self._listing().total_size()

    # Registries

    async def pull(
        self,
        reference: Reference,
        *,
        platform: str = "",
        auth: AuthConfig | None = None,
        progress: Progress | None = None,
    ) -> Image:
        """From its registry, if it is newer there. NotFound and Unavailable in Docker's words."""
        return await self._puller.pull(reference, platform=platform, credentials=credentials_of(auth), listener=progress)

    async def pull_all(
        self, repository: Reference, *, platform: str = "", auth: AuthConfig | None = None, progress: Progress | None = None
    ) -> builtins.list[Image]:
        """Every tag of a repository, one after the other."""
        tags = await self._puller.tags(repository, credentials_of(auth))
        return [await self.pull(tag, platform=platform, auth=auth, progress=progress) for tag in tags]

    async def push(
        self,
        repository: Reference,
        tag: str | None,
        *,
        platform: str = "",
        auth: AuthConfig | None = None,
        progress: Progress | None = None,
    ) -> None:
        """One tag, or with None all tags of the repository, to its registry; with a platform only what is for that."""
        await self._pusher.push(repository, tag, platform=platform, credentials=credentials_of(auth), listener=progress)

    async def login(self, auth: AuthConfig) -> AuthResponse:
        """Check credentials against their registry."""
        token = await self._registries.login(auth)
        return AuthResponse(status="Login Succeeded", identity_token=token)

    async def distribution(self, reference: Reference, auth: AuthConfig | None = None) -> DistributionInspect:
        """What a reference means in its registry: the descriptor and the platforms."""
        return await distribution(self._registries, reference, credentials_of(auth))

    async def search(
        self, term: str, limit: int, filters: Filters, auth: AuthConfig | None = None
    ) -> builtins.list[dict[str, Any]]:
        """Ask a registry's index."""
        return await search(self._registries, term, limit, filters, credentials_of(auth))

    # Archives

    def save(self, names: Sequence[str], platforms: Sequence[str] = ()) -> AsyncGenerator[bytes, None]:
        """Images as one tar, docker-archive and OCI layout at once, for all platforms that are here or for these. NotFound at
        once; the stream is made when it is read."""
        return self._saver.save(self._saver.targets(names, platforms))

    async def load(
        self, stream: ByteStream, *, quiet: bool = False, platforms: Sequence[str] = (), progress: Progress | None = None
    ) -> builtins.list[Image]:
        """Images from an archive, for all platforms that are in it or for these."""
        return await self._loader.load(stream, quiet=quiet, platforms=platforms, listener=progress)

    # Making

    async def create(
        self,
        document: ImageDocument,
        chain_id: Digest | None,
        *,
        tags: tuple[Reference, ...] = (),
        parent: Digest | None = None,
    ) -> Image:
        """Record an image whose layers are in the store."""
        image = self.store.create(document, chain_id, tags=tags, parent=parent)
        for reference in tags:
            self._events.publish("image", "tag", image.id, {"name": reference.familiar, **view.labels_of(document)})
        return image

    @staticmethod
    def commit_document(
        parent: ImageDocument | None,
        config: ContainerConfig,
        *,
        diff_id: Digest | None,
        author: str = "",
        comment: str = "",
        created_by: str = "",
        created: str | None = None,
        container: str | None = None,
    ) -> ImageDocument:
        """The document of an image that adds one step to `parent`; see document.commit_document."""
        return commit_document(
            parent,
            config,
            diff_id=diff_id,
            author=author,
            comment=comment,
            created_by=created_by,
            created=created,
            container=container,
        )

    async def import_tar(
        self,
        stream: ByteStream,
        *,
        reference: Reference | None = None,
        message: str = "",
        changes: Sequence[str] = (),
        platform: str = "",
        source: str = "-",
    ) -> Image:
        """A root filesystem as an image of one layer."""
        return await self._importer.run(
            stream, reference=reference, message=message, changes=changes, platform=platform, source=source
        )

    def tag(self, image: Image, reference: Reference) -> None:
        """Point the tag at the image, with its platforms if it stands for them; an image that had it keeps existing without."""
        index = image.index if image.index in self.store.indexes.represented_by(image.id) else None
        self.store.tag(image.id, reference, index)
        self._events.publish("image", "tag", image.id, {"name": reference.familiar, **view.labels_of(image.document)})

    # Removing

    async def remove(
        self, name: str, *, force: bool = False, prune_parents: bool = True, platforms: Sequence[str] = ()
    ) -> builtins.list[ImageDeleteResponseItem]:
        """Untag or delete, or with `platforms` take only those out."""
        return await self._remover.remove(name, force=force, prune_parents=prune_parents, platforms=platforms)

    async def prune(self, filters: Filters) -> tuple[builtins.list[ImageDeleteResponseItem], int]:
        """Remove unused images. Records, and bytes freed."""
        return await self._remover.prune(filters, time.time())


def reference_from(repository: str, tag: str) -> Reference:
    """A reference from the pair of parameters `repo` and `tag` (or `fromImage` and `tag`, where a tag may be a digest)."""
    if not tag:
        return parse(repository)
    if ":" in tag:
        return parse(f"{repository.partition('@')[0]}@{tag}")
    bare = parse(repository, default_tag=False)
    if bare.digest is not None:
        return bare
    return parse(f"{bare.repository}:{tag}")
