"""Image configurations that berth writes itself: what commit, build and import record."""

from __future__ import annotations

import copy
import time

import msgspec

from berth.model.digest import Digest
from berth.model.instant import rfc3339_ns
from berth.registry.manifest import host_platform
from berth.wire.container import ContainerConfig
from berth.wire.document import History, ImageDocument, RootFS


def encode(document: ImageDocument) -> bytes:
    """The bytes whose digest is the image's id."""
    return msgspec.json.encode(document)


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
    """The document of an image that adds one step to `parent` (None: starts from nothing). `diff_id` is the step's layer,
    None for a step that changed metadata only. `created` is RFC 3339, by default now. The parent is left as it is."""
    moment = created or rfc3339_ns(time.time_ns())
    step = History(
        created=moment, created_by=created_by or None, author=author or None, comment=comment or None, empty_layer=diff_id is None
    )
    platform = host_platform()
    diff_ids = [*(parent.rootfs.diff_ids if parent else []), *([diff_id] if diff_id else [])]
    return ImageDocument(
        architecture=parent.architecture if parent else platform.architecture,
        os=parent.os if parent else platform.os,
        variant=parent.variant if parent else None,
        created=moment,
        author=author or (parent.author if parent else None),
        config=copy.deepcopy(config),
        container=container,
        rootfs=RootFS(diff_ids=diff_ids),
        history=[*((parent.history or []) if parent else []), step],
    )
