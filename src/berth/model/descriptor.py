"""Descriptors and the media types of images (OCI image-spec, descriptor.md; Docker image manifest v2 schema 2)."""

from __future__ import annotations

from msgspec import Struct, field

from berth.model.digest import Digest

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})


class Platform(Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A platform: Go's names for the operating system and the architecture."""

    architecture: str
    os: str
    variant: str = ""
    os_version: str = field(name="os.version", default="")
    os_features: list[str] | None = field(name="os.features", default=None)


class Descriptor(Struct, frozen=True, omit_defaults=True, rename="camel"):
    """What a manifest or index points at. `size` is in bytes."""

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: dict[str, str] | None = None
    urls: list[str] | None = None
    artifact_type: str | None = None
