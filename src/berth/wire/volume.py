"""Volumes.

Field names on the wire are Docker's; attributes are their snake_case. Every field is optional, as a client may leave
out or null any of them; a field that is None is not written. Source: Engine API 1.55.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field


class VolumeUsageData(Struct, kw_only=True, omit_defaults=True):
    """Usage details about the volume."""

    size: int | None = field(name="Size", default=None)
    ref_count: int | None = field(name="RefCount", default=None)


class Volume(Struct, kw_only=True, omit_defaults=True):
    """Volume."""

    name: str | None = field(name="Name", default=None)
    driver: str | None = field(name="Driver", default=None)
    mountpoint: str | None = field(name="Mountpoint", default=None)
    created_at: str | None = field(name="CreatedAt", default=None)
    status: dict[str, Any] | None = field(name="Status", default=None)
    labels: dict[str, str] | None = field(name="Labels", default=None)
    scope: str | None = field(name="Scope", default=None)
    cluster_volume: dict[str, Any] | None = field(name="ClusterVolume", default=None)
    options: dict[str, str] | None = field(name="Options", default=None)
    usage_data: VolumeUsageData | None = field(name="UsageData", default=None)


class VolumeCreateRequest(Struct, kw_only=True, omit_defaults=True):
    """Volume configuration."""

    name: str | None = field(name="Name", default=None)
    driver: str | None = field(name="Driver", default=None)
    driver_opts: dict[str, str] | None = field(name="DriverOpts", default=None)
    labels: dict[str, str] | None = field(name="Labels", default=None)
    cluster_volume_spec: dict[str, Any] | None = field(name="ClusterVolumeSpec", default=None)


class VolumeListResponse(Struct, kw_only=True, omit_defaults=True):
    """Volume list response."""

    volumes: list[Volume] | None = field(name="Volumes", default=None)
    warnings: list[str] | None = field(name="Warnings", default=None)
