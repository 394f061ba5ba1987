"""What an engine is told when it starts, and the places on disk that follow from it.

    root/            0700  berth.db  blobs/  ingest/  layers/  containers/  volumes/  build/
    run/             0711  shims/ (0700)  resolver.sock  launcher state
                     /run/berth for the default root, /run/berth-<engine id> for any other

The engine id is 8 hex digits of the root's path. Everything outside the root carries it (cgroup parent, bridges, nftables
table, run directory), except that the default root has the plain names; so several engines live on one host.
"""

from __future__ import annotations

import hashlib
import os

from msgspec import Struct, field

DEFAULT_ROOT = "/var/lib/berth"
DEFAULT_SOCKET = "/run/berth/berth.sock"
DEFAULT_SLOTS = 2
MOST_SLOTS = 32


class Ulimit(Struct, frozen=True):
    """A resource limit: the name as in ulimit(1)'s long names (nofile), -1 is unlimited."""

    name: str
    soft: int
    hard: int


class TlsSettings(Struct, frozen=True, kw_only=True):
    """Files in PEM for the API on TCP; with `verify`, clients need a certificate that the CA has signed."""

    ca: str
    certificate: str
    key: str
    verify: bool


class EngineConfig(Struct, frozen=True, kw_only=True):
    """Settings; the defaults are those of `berthd` without options."""

    root: str = DEFAULT_ROOT
    socket: str = DEFAULT_SOCKET
    hosts: tuple[str, ...] = ()
    tls: TlsSettings | None = None
    group: str = ""
    registry_mirrors: tuple[str, ...] = ()
    insecure_registries: tuple[str, ...] = ()
    build_host_network_settings: str = "auto"
    log_max_size: int = 10 * 1024 * 1024
    log_max_files: int = 3
    log_driver: str = "json-file"
    log_options: dict[str, str] = field(default_factory=dict)
    log_cap: int = 0
    storage_size: int = 0
    userns_fallback: str = "warn"
    pool_size: int = DEFAULT_SLOTS
    trace: str = ""
    expansion_limit: int = 0
    expansion_ratio: int = 4096
    runtimes: dict[str, str] = field(default_factory=dict)
    default_runtime: str = "berth"
    no_new_privileges: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    cgroup_parent: str = ""
    default_ulimits: tuple[Ulimit, ...] = ()
    publish_address: str = ""
    warn_exposure: bool = False
    respect_host_firewall: bool = False
    ipv6: bool = False
    address_pools: tuple[tuple[str, int], ...] = ()
    extensions: dict[str, str] = field(default_factory=dict)

    @property
    def is_default(self) -> bool:
        """Whether this is the host's main engine, with the plain names."""
        return os.path.normpath(self.root) == DEFAULT_ROOT

    @property
    def engine_id(self) -> str:
        """8 hex digits derived from the root."""
        return hashlib.sha256(os.path.realpath(self.root).encode()).hexdigest()[:8]

    @property
    def name(self) -> str:
        """`berth`, or `berth-<engine id>`: the nftables table, the cgroup parent, the run directory's name."""
        return "berth" if self.is_default else f"berth-{self.engine_id}"

    @property
    def cgroup(self) -> str:
        """The path of the control group that holds those of the containers, without a slash at its ends. Its last part is
        this engine's alone: what is found there after a crash is its own to remove."""
        return f"{self.cgroup_parent.strip('/')}/{self.name}".strip("/")

    @property
    def run(self) -> str:
        """The run directory."""
        return f"/run/{self.name}"

    @property
    def shims(self) -> str:
        """Where the shims' sockets are."""
        return f"{self.run}/shims"

    @property
    def resolver(self) -> str:
        """The resolver's socket."""
        return f"{self.run}/resolver.sock"

    @property
    def proxy(self) -> str:
        """The proxy's socket."""
        return f"{self.run}/proxy.sock"

    def container(self, container_id: str) -> str:
        """The directory of a container."""
        return f"{self.root}/containers/{container_id}"
