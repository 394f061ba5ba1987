"""What the engine says of itself and of its host: GET /info and GET /version."""

from __future__ import annotations

import os
import platform
import socket
from datetime import UTC, datetime

from berth.engine.config import EngineConfig
from berth.engine.events import Events
from berth.storage.database import Database
from berth.wire.system import (
    Commit,
    IndexInfo,
    PluginsInfo,
    RegistryServiceConfig,
    Runtime,
    SwarmInfo,
    SystemInfo,
    SystemVersion,
    SystemVersionComponents,
    SystemVersionPlatform,
)

VERSION = "0.1.0"
# Docker's clients and SDKs compare this with what they need; it says which engine's behaviour berth answers with.
COMPATIBLE_VERSION = "28.5.2"


def _first_line(path: str, key: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                if line.startswith(key):
                    return line[len(key) :].strip().strip('"')
    except OSError:
        pass
    return ""


def cgroup_version() -> str:
    """ "2" where the unified hierarchy is mounted at /sys/fs/cgroup, else "1" (hybrid hosts count as 1, as with Docker)."""
    return "2" if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else "1"


def _memory_total() -> int:
    kibibytes = _first_line("/proc/meminfo", "MemTotal:").removesuffix("kB").strip()
    return int(kibibytes or 0) * 1024


def _has_controller(name: str, file: str) -> bool:
    if cgroup_version() == "2":
        try:
            with open("/sys/fs/cgroup/cgroup.controllers", encoding="ascii") as controllers:
                return name in controllers.read().split()
        except OSError:
            return False
    return os.path.exists(f"/sys/fs/cgroup/{name}/{file}" if file else f"/sys/fs/cgroup/{name}")


class SystemService:
    """Reads the host; holds nothing."""

    def __init__(self, config: EngineConfig, database: Database, events: Events) -> None:
        self._config = config
        self._database = database
        self._events = events

    def version(self, newest: str, oldest: str) -> SystemVersion:
        """`newest` and `oldest` are API versions."""
        kernel = platform.release()
        details = {
            "ApiVersion": newest,
            "MinAPIVersion": oldest,
            "Arch": "amd64",
            "Os": "linux",
            "KernelVersion": kernel,
            "BerthVersion": VERSION,
        }
        return SystemVersion(
            platform=SystemVersionPlatform(name=f"berth {VERSION}"),
            components=[SystemVersionComponents(name="Engine", version=COMPATIBLE_VERSION, details=details)],
            version=COMPATIBLE_VERSION,
            api_version=newest,
            min_api_version=oldest,
            git_commit="berth",
            go_version=f"python{platform.python_version()}",
            os="linux",
            arch="amd64",
            kernel_version=kernel,
            build_time="",
        )

    def info(self, states: dict[str, int], images: int) -> SystemInfo:
        """`states` counts containers by state: running, paused, and the rest."""
        running, paused = states.get("running", 0), states.get("paused", 0)
        total = sum(states.values())
        kernel = platform.release()
        return SystemInfo(
            id=self._config.engine_id,
            containers=total,
            containers_running=running,
            containers_paused=paused,
            containers_stopped=total - running - paused,
            images=images,
            driver="overlay2",
            driver_status=[["Backing Filesystem", "extfs"], ["Supports d_type", "true"], ["Idmapped mounts", "true"]],
            docker_root_dir=self._config.root,
            plugins=PluginsInfo(
                volume=["local"], network=["bridge", "host", "macvlan", "none"], authorization=[], log=["json-file", "none"]
            ),
            memory_limit=_has_controller("memory", ""),
            swap_limit=os.path.exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes") or cgroup_version() == "2",
            cpu_cfs_period=_has_controller("cpu", "cpu.cfs_period_us"),
            cpu_cfs_quota=_has_controller("cpu", "cpu.cfs_quota_us"),
            cpu_shares=_has_controller("cpu", "cpu.shares"),
            cpu_set=_has_controller("cpuset", ""),
            pids_limit=_has_controller("pids", ""),
            oom_kill_disable=cgroup_version() == "1",
            ipv4_forwarding=_first_line("/proc/sys/net/ipv4/ip_forward", "") == "1",
            debug=False,
            n_fd=len(os.listdir("/proc/self/fd")),
            n_goroutines=len(os.listdir("/proc/self/task")),
            system_time=datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            logging_driver="json-file",
            cgroup_driver="cgroupfs",
            cgroup_version=cgroup_version(),
            n_events_listener=self._events.listeners,
            kernel_version=kernel,
            operating_system=_first_line("/etc/os-release", "PRETTY_NAME=") or "Linux",
            os_version=_first_line("/etc/os-release", "VERSION_ID="),
            os_type="linux",
            architecture=platform.machine(),
            ncpu=len(os.sched_getaffinity(0)),
            mem_total=_memory_total(),
            index_server_address="https://index.docker.io/v1/",
            registry_config=self._registry_config(),
            http_proxy="",
            https_proxy="",
            no_proxy="",
            name=socket.gethostname(),
            labels=[f"{k}={v}" for k, v in self._config.labels.items()],
            experimental_build=False,
            server_version=COMPATIBLE_VERSION,
            runtimes={"berth": Runtime(path="berth-runtime")},
            default_runtime="berth",
            swarm=SwarmInfo(
                node_id="", node_addr="", local_node_state="inactive", control_available=False, error="", remote_managers=[]
            ),
            live_restore_enabled=True,
            isolation="",
            init_binary="berth-init",
            containerd_commit=Commit(id=""),
            runc_commit=Commit(id=""),
            init_commit=Commit(id=""),
            security_options=["name=seccomp,profile=builtin", "name=userns", "name=cgroupns"],
            warnings=[],
        )

    def _registry_config(self) -> RegistryServiceConfig:
        hub = IndexInfo(name="docker.io", mirrors=list(self._config.registry_mirrors), secure=True, official=True)
        insecure = {
            name: IndexInfo(name=name, mirrors=[], secure=False, official=False) for name in self._config.insecure_registries
        }
        return RegistryServiceConfig(
            insecure_registry_cidrs=["127.0.0.0/8", "::1/128"],
            index_configs={"docker.io": hub, **insecure},
            mirrors=list(self._config.registry_mirrors),
        )
