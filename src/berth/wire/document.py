"""The JSON documents of an image: its configuration and its manifest (OCI image-spec; Docker image spec v1.3).

The configuration's bytes are the image's identity: their digest is the image id. They are decoded for use and never
re-encoded, so unknown fields survive in what is stored.
"""

from __future__ import annotations

from msgspec import Struct, field

from berth.model.descriptor import Descriptor
from berth.model.digest import Digest
from berth.wire.container import ContainerConfig


class RootFS(Struct, frozen=True, kw_only=True):
    """The stack of layers, base first, by the digests of their uncompressed tars."""

    type: str = "layers"
    diff_ids: list[Digest] = field(default_factory=list)


class History(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step of how the image was made. Without `empty_layer` it stands for the next layer."""

    created: str | None = None
    created_by: str | None = None
    author: str | None = None
    comment: str | None = None
    empty_layer: bool = False


class ImageDocument(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An image's configuration."""

    architecture: str
    os: str
    variant: str | None = None
    os_version: str | None = field(name="os.version", default=None)
    created: str | None = None
    author: str | None = None
    config: ContainerConfig | None = None
    container: str | None = None
    container_config: ContainerConfig | None = None
    docker_version: str | None = None
    rootfs: RootFS = field(default_factory=RootFS)
    history: list[History] | None = None


class ManifestDocument(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """An image manifest."""

    schema_version: int
    media_type: str | None = None
    config: Descriptor
    layers: list[Descriptor]
    annotations: dict[str, str] | None = None


class IndexDocument(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """An image index, or Docker's manifest list."""

    schema_version: int
    media_type: str | None = None
    manifests: list[Descriptor]
    annotations: dict[str, str] | None = None
