"""What a client asks of one build."""

from __future__ import annotations

from msgspec import Struct, field

from berth.wire.container import HostConfig
from berth.wire.image import AuthConfig


class BuildOptions(Struct, frozen=True, kw_only=True):
    """The parameters of POST /build. `host_config` has limits, extra hosts and the network mode of RUN steps.
    `credentials` are by registry, as X-Registry-Config gives them. `cache_from`: the images that cached steps are taken from,
    empty for any."""

    dockerfile: str = "Dockerfile"
    tags: tuple[str, ...] = ()
    quiet: bool = False
    no_cache: bool = False
    pull: bool = False
    build_args: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    target: str = ""
    platform: str = ""
    cache_from: tuple[str, ...] = ()
    host_config: HostConfig = field(default_factory=HostConfig)
    credentials: dict[str, AuthConfig] = field(default_factory=dict)
