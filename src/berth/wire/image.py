"""Images, their configuration, and the messages of pull, push and build.

Field names on the wire are Docker's; attributes are their snake_case. Every field is optional, as a client may leave
out or null any of them; a field that is None is not written. Source: Engine API 1.55.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field


class ImageHistoryResponseItem(Struct, kw_only=True, omit_defaults=True):
    """individual image layer information in response to ImageHistory operation."""

    id: str | None = field(name="Id", default=None)
    created: int | None = field(name="Created", default=None)
    created_by: str | None = field(name="CreatedBy", default=None)
    tags: list[str] | None = field(name="Tags")
    size: int | None = field(name="Size", default=None)
    comment: str | None = field(name="Comment", default=None)


class OCIPlatform(Struct, kw_only=True, omit_defaults=True):
    """Describes the platform which the image in the manifest runs on, as defined in the [OCI Image Index Specif."""

    architecture: str | None = field(name="architecture", default=None)
    os: str | None = field(name="os", default=None)
    os_version: str | None = field(name="os.version", default=None)
    os_features: list[str] | None = field(name="os.features", default=None)
    variant: str | None = field(name="variant", default=None)


class OCIDescriptor(Struct, kw_only=True, omit_defaults=True):
    """A descriptor struct containing digest, media type, and size, as defined in the [OCI Content Descriptors S."""

    media_type: str | None = field(name="mediaType", default=None)
    digest: str | None = field(name="digest", default=None)
    size: int | None = field(name="size", default=None)
    urls: list[str] | None = field(name="urls", default=None)
    annotations: dict[str, str] | None = field(name="annotations", default=None)
    data: str | None = field(name="data", default=None)
    platform: OCIPlatform | None = field(name="platform", default=None)
    artifact_type: str | None = field(name="artifactType", default=None)


class DriverData(Struct, kw_only=True, omit_defaults=True):
    """Information about the storage driver used to store the container's and image's filesystem."""

    name: str | None = field(name="Name", default=None)
    data: dict[str, str] | None = field(name="Data", default=None)


class ImageInspectRootFS(Struct, kw_only=True, omit_defaults=True):
    """Information about the image's RootFS, including the layer IDs."""

    type: str | None = field(name="Type", default=None)
    layers: list[str] | None = field(name="Layers", default=None)


class ImageInspectMetadata(Struct, kw_only=True, omit_defaults=True):
    """Additional metadata of the image in the local cache."""

    last_tag_time: str | None = field(name="LastTagTime", default=None)


class ImageInspect(Struct, kw_only=True, omit_defaults=True):
    """Information about an image in the local image cache."""

    id: str | None = field(name="Id", default=None)
    descriptor: OCIDescriptor | None = field(name="Descriptor", default=None)
    manifests: list[dict[str, Any]] | None = field(name="Manifests", default=None)
    identity: dict[str, Any] | None = field(name="Identity", default=None)
    repo_tags: list[str] | None = field(name="RepoTags", default=None)
    repo_digests: list[str] | None = field(name="RepoDigests", default=None)
    comment: str | None = field(name="Comment", default=None)
    created: str | None = field(name="Created", default=None)
    author: str | None = field(name="Author", default=None)
    config: dict[str, Any] | None = field(name="Config", default=None)
    architecture: str | None = field(name="Architecture", default=None)
    variant: str | None = field(name="Variant", default=None)
    os: str | None = field(name="Os", default=None)
    os_version: str | None = field(name="OsVersion", default=None)
    size: int | None = field(name="Size", default=None)
    graph_driver: DriverData | None = field(name="GraphDriver", default=None)
    root_fs: ImageInspectRootFS | None = field(name="RootFS", default=None)
    metadata: ImageInspectMetadata | None = field(name="Metadata", default=None)
    # What API versions before 1.44 (VirtualSize), 1.45 (Container, ContainerConfig) and 1.50 (Parent, DockerVersion) have.
    virtual_size: int | None = field(name="VirtualSize", default=None)
    container: str | None = field(name="Container", default=None)
    container_config: dict[str, Any] | None = field(name="ContainerConfig", default=None)
    parent: str | None = field(name="Parent", default=None)
    docker_version: str | None = field(name="DockerVersion", default=None)


class ImageSummary(Struct, kw_only=True, omit_defaults=True):
    """ImageSummary."""

    id: str | None = field(name="Id", default=None)
    parent_id: str | None = field(name="ParentId", default=None)
    repo_tags: list[str] | None = field(name="RepoTags", default=None)
    repo_digests: list[str] | None = field(name="RepoDigests", default=None)
    created: int | None = field(name="Created", default=None)
    size: int | None = field(name="Size", default=None)
    shared_size: int | None = field(name="SharedSize", default=None)
    labels: dict[str, str] | None = field(name="Labels", default=None)
    containers: int | None = field(name="Containers", default=None)
    manifests: list[dict[str, Any]] | None = field(name="Manifests", default=None)
    descriptor: OCIDescriptor | None = field(name="Descriptor", default=None)
    virtual_size: int | None = field(name="VirtualSize", default=None)


class ImageDeleteResponseItem(Struct, kw_only=True, omit_defaults=True):
    """ImageDeleteResponseItem."""

    untagged: str | None = field(name="Untagged", default=None)
    deleted: str | None = field(name="Deleted", default=None)


class DistributionInspect(Struct, kw_only=True, omit_defaults=True):
    """Describes the result obtained from contacting the registry to retrieve image metadata."""

    descriptor: OCIDescriptor | None = field(name="Descriptor", default=None)
    platforms: list[OCIPlatform] | None = field(name="Platforms", default=None)


class ErrorDetail(Struct, kw_only=True, omit_defaults=True):
    """ErrorDetail."""

    code: int | None = field(name="code", default=None)
    message: str | None = field(name="message", default=None)


class ProgressDetail(Struct, kw_only=True, omit_defaults=True):
    """ProgressDetail."""

    current: int | None = field(name="current", default=None)
    total: int | None = field(name="total", default=None)


class CreateImageInfo(Struct, kw_only=True, omit_defaults=True):
    """CreateImageInfo."""

    id: str | None = field(name="id", default=None)
    error_detail: ErrorDetail | None = field(name="errorDetail", default=None)
    status: str | None = field(name="status", default=None)
    progress_detail: ProgressDetail | None = field(name="progressDetail", default=None)


class PushImageInfo(Struct, kw_only=True, omit_defaults=True):
    """PushImageInfo."""

    error_detail: ErrorDetail | None = field(name="errorDetail", default=None)
    status: str | None = field(name="status", default=None)
    progress_detail: ProgressDetail | None = field(name="progressDetail", default=None)


class ImageID(Struct, kw_only=True, omit_defaults=True):
    """Image ID or Digest."""

    id: str | None = field(name="ID", default=None)


class BuildInfo(Struct, kw_only=True, omit_defaults=True):
    """BuildInfo."""

    id: str | None = field(name="id", default=None)
    stream: str | None = field(name="stream", default=None)
    error_detail: ErrorDetail | None = field(name="errorDetail", default=None)
    status: str | None = field(name="status", default=None)
    progress_detail: ProgressDetail | None = field(name="progressDetail", default=None)
    aux: ImageID | None = field(name="aux", default=None)


class AuthConfig(Struct, kw_only=True, omit_defaults=True):
    """AuthConfig."""

    username: str | None = field(name="username", default=None)
    password: str | None = field(name="password", default=None)
    serveraddress: str | None = field(name="serveraddress", default=None)
    auth: str | None = field(name="auth", default=None)
    identitytoken: str | None = field(name="identitytoken", default=None)
    registrytoken: str | None = field(name="registrytoken", default=None)


class AuthResponse(Struct, kw_only=True, omit_defaults=True):
    """An identity token was generated successfully."""

    status: str | None = field(name="Status", default=None)
    identity_token: str | None = field(name="IdentityToken", default=None)


class BuildCache(Struct, kw_only=True, omit_defaults=True):
    """BuildCache contains information about a build cache record."""

    id: str | None = field(name="ID", default=None)
    parents: list[str] | None = field(name="Parents", default=None)
    type: str | None = field(name="Type", default=None)
    description: str | None = field(name="Description", default=None)
    in_use: bool | None = field(name="InUse", default=None)
    shared: bool | None = field(name="Shared", default=None)
    size: int | None = field(name="Size", default=None)
    created_at: str | None = field(name="CreatedAt", default=None)
    last_used_at: str | None = field(name="LastUsedAt", default=None)
    usage_count: int | None = field(name="UsageCount", default=None)
