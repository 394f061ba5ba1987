"""Mounts as the Docker API describes them (API definitions Mount and MountPoint).

Field names on the wire are Docker's; attributes are their snake_case. Every field is optional, as a client may leave
out or null any of them; a field that is None is not written. Source: Engine API 1.55.
"""

from __future__ import annotations

from msgspec import Struct, field


class MountBindOptions(Struct, kw_only=True, omit_defaults=True):
    """Optional configuration for the `bind` type."""

    propagation: str | None = field(name="Propagation", default=None)
    non_recursive: bool | None = field(name="NonRecursive", default=None)
    create_mountpoint: bool | None = field(name="CreateMountpoint", default=None)
    read_only_non_recursive: bool | None = field(name="ReadOnlyNonRecursive", default=None)
    read_only_force_recursive: bool | None = field(name="ReadOnlyForceRecursive", default=None)


class MountVolumeOptionsDriverConfig(Struct, kw_only=True, omit_defaults=True):
    """Map of driver specific options."""

    name: str | None = field(name="Name", default=None)
    options: dict[str, str] | None = field(name="Options", default=None)


class MountVolumeOptions(Struct, kw_only=True, omit_defaults=True):
    """Optional configuration for the `volume` type."""

    no_copy: bool | None = field(name="NoCopy", default=None)
    labels: dict[str, str] | None = field(name="Labels", default=None)
    driver_config: MountVolumeOptionsDriverConfig | None = field(name="DriverConfig", default=None)
    subpath: str | None = field(name="Subpath", default=None)


class MountImageOptions(Struct, kw_only=True, omit_defaults=True):
    """Optional configuration for the `image` type."""

    subpath: str | None = field(name="Subpath", default=None)


class MountTmpfsOptions(Struct, kw_only=True, omit_defaults=True):
    """Optional configuration for the `tmpfs` type."""

    size_bytes: int | None = field(name="SizeBytes", default=None)
    mode: int | None = field(name="Mode", default=None)
    options: list[list[str]] | None = field(name="Options", default=None)


class Mount(Struct, kw_only=True, omit_defaults=True):
    """Mount."""

    target: str | None = field(name="Target", default=None)
    source: str | None = field(name="Source", default=None)
    type: str | None = field(name="Type", default=None)
    read_only: bool | None = field(name="ReadOnly", default=None)
    consistency: str | None = field(name="Consistency", default=None)
    bind_options: MountBindOptions | None = field(name="BindOptions", default=None)
    volume_options: MountVolumeOptions | None = field(name="VolumeOptions", default=None)
    image_options: MountImageOptions | None = field(name="ImageOptions", default=None)
    tmpfs_options: MountTmpfsOptions | None = field(name="TmpfsOptions", default=None)


class MountPoint(Struct, kw_only=True, omit_defaults=True):
    """MountPoint represents a mount point configuration inside the container. This is used for reporting the mo."""

    type: str | None = field(name="Type", default=None)
    name: str | None = field(name="Name", default=None)
    source: str | None = field(name="Source", default=None)
    destination: str | None = field(name="Destination", default=None)
    driver: str | None = field(name="Driver", default=None)
    mode: str | None = field(name="Mode", default=None)
    rw: bool | None = field(name="RW", default=None)
    propagation: str | None = field(name="Propagation", default=None)
