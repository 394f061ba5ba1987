"""What the engine says of itself and of its host: GET /info and GET /version."""

from __future__ import annotations

import os
import platform
import socket
from datetime import UTC, datetime

from berth.contract.runtime import Abilities
from berth.engine import origin, runtimes
from berth.engine.config import EngineConfig
from berth.engine.events import Events
from berth.kernel.file import filesystem_type
from berth.model.instant import rfc3339
from berth.model.version import VERSION
from berth.registry.endpoint import split_mirror
from berth.runtime.label import apparmor_enabled
from berth.storage.database import Database
from berth.wire.system import (
    Commit,
    FirewallInfo,
    IndexInfo,
    PluginsInfo,
    RegistryServiceConfig,
    Runtime,
    SwarmInfo,
    SystemInfo,
    SystemInfoDefaultAddressPools,
    SystemVersion,
    SystemVersionComponents,
    SystemVersionPlatform,
)

# Docker's clients and SDKs compare this with what they need; it says which engine's behaviour berth answers with.
COMPATIBLE_VERSION = "28.5.2"
FILESYSTEMS = {
    0xEF53: "extfs",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0xF2F52010: "f2fs",
    0x2FC12FC1: "zfs",
    0x01021994: "tmpfs",
    0x794C7630: "overlayfs",
}


def _first_line(path: str, key: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                if line.startswith(key):
                    return line[len(key) :].strip().strip('"')
    except OSError:
        pass
    return ""


def _memory_total() -> int:
    kibibytes = _first_line("/proc/meminfo", "MemTotal:").removesuffix("kB").strip()
    return int(kibibytes or 0) * 1024


def tell_limits(info: SystemInfo, host: Abilities) -> None:
    """What the kernel can limit, and Docker's warnings of what it cannot."""
    old = host.version == 1
    # Docker knows no third kind; without any group the fields below say what there is.
    info.cgroup_version = "2" if host.version == 2 else "1"
    info.cgroup_driver = "cgroupfs" if host.version else "none"
    info.memory_limit, info.swap_limit = host.memory, host.swap
    info.cpu_cfs_period = info.cpu_cfs_quota = host.cpu_quota
    info.cpu_shares, info.cpu_set = host.cpu_shares, host.cpuset
    info.pids_limit, info.oom_kill_disable = host.pids, host.oom_kill_disable
    info.ipv4_forwarding = _first_line("/proc/sys/net/ipv4/ip_forward", "") == "1"
    info.bridge_nf_iptables = _first_line("/proc/sys/net/bridge/bridge-nf-call-iptables", "") == "1"
    info.bridge_nf_ip6tables = _first_line("/proc/sys/net/bridge/bridge-nf-call-ip6tables", "") == "1"
    throttles = [f"blkio throttle.{name}_device" for name in ("read_bps", "write_bps", "read_iops", "write_iops")]
    if not old:
        throttles = [f"io.max ({name})" for name in ("rbps", "wbps", "riops", "wiops")]
    checks = [
        ("memory limit", host.memory),
        ("swap limit", host.swap),
        ("oom kill disable", host.oom_kill_disable or not old),
        ("cpu cfs quota", host.cpu_quota),
        ("cpu cfs period", host.cpu_quota),
        ("cpu shares", host.cpu_shares),
        ("cpuset", host.cpuset),
        ("pids limit", host.pids),
        ("blkio weight" if old else "io.weight", host.io_weight),
        ("blkio weight_device" if old else "io.weight (per device)", host.io_weight_device),
        *((name, host.io_throttle) for name in throttles),
    ]
    info.warnings = [f"WARNING: No {what} support" for what, there in checks if not there]
    if not info.ipv4_forwarding:
        info.warnings.append("WARNING: IPv4 forwarding is disabled")
    info.warnings += [f"WARNING: {note}" for note in host.notes if host.version == 0]


def _tell_host(info: SystemInfo) -> None:
    """The machine."""
    info.system_time = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    info.kernel_version = platform.release()
    info.operating_system = _first_line("/etc/os-release", "PRETTY_NAME=") or "Linux"
    info.os_version = _first_line("/etc/os-release", "VERSION_ID=")
    info.os_type = "linux"
    info.architecture = platform.machine()
    info.ncpu = len(os.sched_getaffinity(0))
    info.mem_total = _memory_total()
    info.name = socket.gethostname()


def _filesystem(path: str) -> str:
    """The type of the filesystem that holds a directory, in Docker's words; in hexadecimal when it is an unusual one."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        magic = filesystem_type(fd)
    finally:
        os.close(fd)
    return FILESYSTEMS.get(magic, f"{magic:#x}")


class SystemService:
    """Reads the host; holds nothing."""

    def __init__(self, config: EngineConfig, database: Database, events: Events, abilities: Abilities) -> None:
        self._abilities = abilities
        self._config = config
        self._database = database
        self._events = events

    def version(self, newest: str, oldest: str) -> SystemVersion:
        """`newest` and `oldest` are API versions."""
        kernel, built = platform.release(), rfc3339(origin.installed_at())
        # The names are Docker's; what executes the engine stands where its clients show the Go version.
        language = f"python{platform.python_version()}"
        details = {
            "ApiVersion": newest,
            "MinAPIVersion": oldest,
            "Arch": origin.architecture(),
            "Os": "linux",
            "KernelVersion": kernel,
            "GitCommit": origin.commit(),
            "GoVersion": language,
            "BuildTime": built,
            "Experimental": "false",
            "BerthVersion": VERSION,
        }
        return SystemVersion(
            platform=SystemVersionPlatform(name=f"berth {VERSION}"),
            components=[SystemVersionComponents(name="Engine", version=COMPATIBLE_VERSION, details=details)],
            version=COMPATIBLE_VERSION,
            api_version=newest,
            min_api_version=oldest,
            git_commit=origin.commit(),
            go_version=language,
            os="linux",
            arch=origin.architecture(),
            kernel_version=kernel,
            build_time=built,
        )

    def info(self, states: dict[str, int], images: int) -> SystemInfo:
        """`states` counts containers by state: running, paused, and the rest."""
        running, paused = states.get("running", 0), states.get("paused", 0)
        total = sum(states.values())
        info = SystemInfo(
            id=self._config.engine_id,
            containers=total,
            containers_running=running,
            containers_paused=paused,
            containers_stopped=total - running - paused,
            images=images,
        )
        self._tell_engine(info)
        tell_limits(info, self._abilities)
        _tell_host(info)
        return info

    def _tell_engine(self, info: SystemInfo) -> None:
        """What this engine is and does."""
        backing = _filesystem(self._config.root)
        info.driver = "overlay2"
        info.driver_status = [["Backing Filesystem", backing], ["Supports d_type", "true"], ["Idmapped mounts", "true"]]
        info.docker_root_dir = self._config.root
        info.plugins = PluginsInfo(
            volume=["local"], network=["bridge", "host", "macvlan", "none"], authorization=[], log=["json-file", "local", "none"]
        )
        info.debug, info.experimental_build, info.live_restore_enabled = False, False, True
        info.n_fd, info.n_goroutines = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
        info.n_events_listener = self._events.listeners
        info.logging_driver = self._config.log_driver
        info.index_server_address = "https://index.docker.io/v1/"
        info.registry_config = self._registry_config()
        info.http_proxy = info.https_proxy = info.no_proxy = ""
        info.labels = [f"{name}={value}" for name, value in self._config.labels.items()]
        info.server_version = COMPATIBLE_VERSION
        others = {name: Runtime(path=path) for name, path in runtimes.available(self._config).items()}
        info.runtimes = {runtimes.NATIVE: Runtime(path="berth-runtime"), **others}
        info.default_runtime = self._config.default_runtime
        info.swarm = SwarmInfo(
            node_id="", node_addr="", local_node_state="inactive", control_available=False, error="", remote_managers=[]
        )
        info.isolation, info.init_binary = "", "docker-init"
        info.firewall_backend, info.cdi_spec_dirs, info.generic_resources = FirewallInfo(driver="nftables"), [], []
        info.default_address_pools = [
            SystemInfoDefaultAddressPools(base=base, size=size) for base, size in self._config.address_pools
        ] or None
        info.product_license = "Apache-2.0"
        info.containerd_commit, info.runc_commit, info.init_commit = Commit(id=""), Commit(id=""), Commit(id="")
        info.security_options = ["name=apparmor"] if apparmor_enabled() else []
        info.security_options += ["name=seccomp,profile=builtin", "name=userns", "name=cgroupns"]
        if self._config.no_new_privileges:
            info.security_options.append("name=no-new-privileges")

    def _registry_config(self) -> RegistryServiceConfig:
        mirrors: dict[str, list[str]] = {}
        for host, address in map(split_mirror, self._config.registry_mirrors):
            mirrors.setdefault(host, []).append(address)
        hub = IndexInfo(name="docker.io", mirrors=mirrors.pop("docker.io", []), secure=True, official=True)
        others = {name: IndexInfo(name=name, mirrors=known, secure=True, official=False) for name, known in mirrors.items()}
        insecure = {
            name: IndexInfo(name=name, mirrors=mirrors.get(name, []), secure=False, official=False)
            for name in self._config.insecure_registries
        }
        return RegistryServiceConfig(
            insecure_registry_cidrs=["127.0.0.0/8", "::1/128"],
            index_configs={"docker.io": hub, **others, **insecure},
            mirrors=hub.mirrors,
        )
