"""Images as the API shows them: inspect, list, history."""

from __future__ import annotations

import logging
import re
from collections import Counter
from typing import Any

import msgspec

from berth.contract.image import Image
from berth.contract.store import Layers
from berth.contract.usage import Usage
from berth.engine.images.manifests import Manifests
from berth.engine.images.store import ImageStore
from berth.errors import DataLoss, InvalidArgument, NotFound
from berth.model.digest import Digest
from berth.model.filters import Filters
from berth.model.instant import ZERO, document_time, parse_moment, rfc3339
from berth.model.reference import Reference, parse
from berth.wire.container import ContainerConfig
from berth.wire.document import ImageDocument
from berth.wire.image import (
    DriverData,
    ImageHistoryResponseItem,
    ImageInspect,
    ImageInspectMetadata,
    ImageInspectRootFS,
    ImageSummary,
    OCIDescriptor,
)

log = logging.getLogger(__name__)
LIST_FILTERS = ("before", "dangling", "label", "reference", "since", "until")
# Clients and templates read these keys without asking whether they are there.
_CONFIG_ZERO: dict[str, Any] = {
    "Hostname": "",
    "Domainname": "",
    "User": "",
    "AttachStdin": False,
    "AttachStdout": False,
    "AttachStderr": False,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "Env": None,
    "Cmd": None,
    "Image": "",
    "Volumes": None,
    "WorkingDir": "",
    "Entrypoint": None,
    "OnBuild": None,
    "Labels": None,
}


def config_object(config: ContainerConfig | None) -> dict[str, Any]:
    """A configuration with every key that Docker always writes."""
    known: dict[str, Any] = msgspec.to_builtins(config) if config is not None else {}
    return {**_CONFIG_ZERO, **known}


def inspect(
    image: Image,
    root: str,
    stack: tuple[str, ...],
    descriptor: OCIDescriptor | None = None,
    manifests: list[dict[str, Any]] | None = None,
) -> ImageInspect:
    """GET /images/{name}/json. `stack` are the layers' directories relative to `root`, top first."""
    document = image.document
    last = document.history[-1] if document.history else None
    return ImageInspect(
        id=image.id,
        descriptor=descriptor,
        manifests=manifests,
        repo_tags=list(image.tags),
        repo_digests=list(image.digests),
        comment=(last.comment if last else None) or "",
        created=document.created or ZERO,
        author=document.author or "",
        config=config_object(document.config),
        architecture=document.architecture,
        variant=document.variant or None,
        os=document.os,
        os_version=document.os_version or None,
        size=image.size,
        graph_driver=_driver(root, stack),
        root_fs=ImageInspectRootFS(type="layers", layers=[str(diff_id) for diff_id in document.rootfs.diff_ids]),
        metadata=ImageInspectMetadata(last_tag_time=rfc3339(image.tagged)),
        virtual_size=image.size,
        container=document.container or "",
        container_config=config_object(document.container_config or document.config),
        parent=image.parent or "",
        docker_version=document.docker_version or "",
    )


def _driver(root: str, stack: tuple[str, ...]) -> DriverData:
    paths = [f"{root}/{part}" for part in stack]
    data = {"UpperDir": paths[0]} if paths else {}
    if len(paths) > 1:
        data["LowerDir"] = ":".join(paths[1:])
    return DriverData(name="overlay2", data=data)


def history(image: Image, store: ImageStore) -> list[ImageHistoryResponseItem]:
    """GET /images/{name}/history, newest first. Only steps that are images here have an id."""
    sizes = [layer.size for layer in store.stack(image)]
    items: list[ImageHistoryResponseItem] = []
    position = 0
    for step in image.document.history or []:
        size = 0
        if not step.empty_layer and position < len(sizes):
            size, position = sizes[position], position + 1
        items.append(
            ImageHistoryResponseItem(
                id="<missing>",
                created=int(document_time(step.created)),
                created_by=step.created_by or "",
                tags=None,
                size=size,
                comment=step.comment or "",
            )
        )
    # A document without history still has layers.
    for size in sizes[position:]:
        items.append(_unwritten_step(image, size))
    items.reverse()
    if items:
        items[0].id, items[0].tags = image.id, list(image.tags) or None
        _name_parents(items, image, store)
    return items


def _unwritten_step(image: Image, size: int) -> ImageHistoryResponseItem:
    return ImageHistoryResponseItem(id="<missing>", created=int(image.created), created_by="", tags=None, size=size, comment="")


def _name_parents(items: list[ImageHistoryResponseItem], image: Image, store: ImageStore) -> None:
    current = image
    while current.parent is not None:
        parent = store.by_id(current.parent)
        if parent is None:
            return
        position = len(items) - max(len(parent.document.history or []), 1)
        if 0 <= position < len(items):
            items[position].id, items[position].tags = parent.id, list(parent.tags) or None
        current = parent


class Listing:
    """GET /images/json."""

    def __init__(self, store: ImageStore, layers: Layers, usage: Usage | None, manifests: Manifests) -> None:
        self._store = store
        self._layers = layers
        self._usage = usage
        self._manifests = manifests
        self._chains: dict[Digest, list[Digest]] = {}

    def summaries(
        self,
        filters: Filters,
        now: float,
        *,
        all_images: bool = False,
        shared_size: bool = False,
        count_containers: bool = False,
        manifests: bool = False,
    ) -> list[ImageSummary]:
        """The images that match, newest first. `now` is Unix seconds."""
        images = self._store.all()
        every = self._store.all(members=True) if shared_size else []
        parents = {image.parent for image in images if image.parent}
        chosen = [image for image in images if self._shown(image, filters, parents, all_images)]
        before, since = (self._bound(filters, key) for key in ("before", "since"))
        until = min((parse_moment(value, now) for value in filters.get("until")), default=None)
        shared = self._shared_sizes(every) if shared_size else None
        users = self._usage.by_image() if count_containers and self._usage else None
        summaries = []
        for image in chosen:
            if (before is not None and image.created >= before) or (since is not None and image.created <= since):
                continue
            if until is not None and image.created > until:
                continue
            summaries.append(self._summary(image, filters, shared, users, manifests))
        return summaries

    def _shown(self, image: Image, filters: Filters, parents: set[Digest], all_images: bool) -> bool:
        if "dangling" in filters:
            dangling = filters.flag("dangling")
            if dangling and (image.tags or image.id in parents):
                return False
            if not dangling and not image.tags and not image.digests:
                return False
        elif not image.tags and not image.digests and not all_images and image.id in parents:
            return False
        labels = image.document.config.labels if image.document.config else None
        if not filters.match_labels(labels):
            return False
        return "reference" not in filters or bool(_matching(image.tags + image.digests, filters.get("reference")))

    def _bound(self, filters: Filters, key: str) -> float | None:
        if key not in filters:
            return None
        return self._store.get(filters.get(key)[0]).created

    def _summary(
        self, image: Image, filters: Filters, shared: dict[Digest, int] | None, users: Counter[str] | None, manifests: bool
    ) -> ImageSummary:
        tags, digests = image.tags, image.digests
        if "reference" in filters:
            patterns = filters.get("reference")
            tags, digests = _matching(tags, patterns), _matching(digests, patterns) or digests
        labels = image.document.config.labels if image.document.config else None
        platforms = self._store.platforms(image)
        descriptor, found = self.documents(image, manifests=manifests)
        size = image.size if len(platforms) == 1 else self._size_of(platforms)
        return ImageSummary(
            id=image.id,
            parent_id=image.parent or "",
            repo_tags=list(tags),
            repo_digests=list(digests),
            created=int(image.created),
            size=size,
            shared_size=-1 if shared is None else sum(shared.get(layer, 0) for layer in self._chains_of(platforms)),
            virtual_size=size,
            labels=labels or {},
            containers=-1 if users is None else sum(users[one.id] for one in platforms),
            descriptor=descriptor,
            manifests=found,
        )

    def documents(self, image: Image, *, manifests: bool) -> tuple[OCIDescriptor | None, list[dict[str, Any]] | None]:
        """Descriptor and, if they are asked for, manifests. A list does not fail for one damaged document."""
        try:
            descriptor = self._manifests.descriptor(image)
            found = self._manifests.summaries(image) if manifests else None
        except (NotFound, DataLoss) as error:
            log.warning("the manifests of the image %s are left out: %s", image.id, error.message)
            return None, None
        return msgspec.convert(descriptor, OCIDescriptor) if descriptor is not None else None, found

    def _chains_of(self, images: list[Image]) -> set[Digest]:
        return {layer for image in images for layer in self._chain(image)}

    def _size_of(self, images: list[Image]) -> int:
        """Bytes of the layers of several platforms, each counted once."""
        return sum(layer.size for layer in map(self._layers.get, self._chains_of(images)) if layer is not None)

    def _chain(self, image: Image) -> list[Digest]:
        """None of an image that has lost a layer: whoever uses it is told, and the others are counted."""
        if image.id not in self._chains:
            try:
                self._chains[image.id] = [layer.chain_id for layer in self._store.stack(image)]
            except NotFound:
                self._chains[image.id] = []
        return self._chains[image.id]

    def _shared_sizes(self, images: list[Image]) -> dict[Digest, int]:
        used = Counter(layer for image in images for layer in self._chain(image))
        found = ((chain, self._layers.get(chain)) for chain, users in used.items() if users > 1)
        return {chain: layer.size for chain, layer in found if layer is not None}

    def total_size(self) -> int:
        """Bytes of all layers that images use, each once."""
        return self._size_of(self._store.all(members=True))


def _matching(names: tuple[str, ...], patterns: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if any(match_reference(name, pattern) for pattern in patterns))


def match_reference(familiar: str, pattern: str) -> bool:
    """Whether a familiar reference, or its repository, matches a pattern in which * does not cross a slash."""
    expression = _glob(pattern)
    return bool(expression.match(familiar) or expression.match(_repository(familiar)))


def _repository(familiar: str) -> str:
    reference: Reference = parse(familiar)
    return reference.familiar_name


def _glob(pattern: str) -> re.Pattern[str]:
    """Go's path.Match: *, ?, [class] and backslash escapes; * and ? do not match a slash."""
    parts: list[str] = []
    position = 0
    while position < len(pattern):
        character = pattern[position]
        end = pattern.find("]", position + 2) if character == "[" else -1
        if end > 0:
            body = pattern[position + 1 : end]
            negated = body.startswith("^")
            parts.append(f"[{'^' if negated else ''}{re.escape(body.lstrip('^')).replace(chr(92) + '-', '-')}]")
            position = end
        elif character == "\\" and position + 1 < len(pattern):
            position += 1
            parts.append(re.escape(pattern[position]))
        else:
            parts.append({"*": "[^/]*", "?": "[^/]"}.get(character) or re.escape(character))
        position += 1
    try:
        return re.compile("".join(parts) + r"\Z")
    except re.error as error:
        raise InvalidArgument(f"invalid filter 'reference={pattern}': {error}") from error


def labels_of(document: ImageDocument) -> dict[str, str]:
    """An image's labels."""
    return dict(document.config.labels or {}) if document.config else {}
