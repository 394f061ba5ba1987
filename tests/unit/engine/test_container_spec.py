"""The compiled spec as data."""

from __future__ import annotations

from typing import Any

import msgspec

from berth.engine.containers import isolation, resources, spec
from berth.engine.containers.defaults import complete_host_config
from berth.engine.containers.record import MountRecord
from berth.engine.containers.security import parse_security_options
from berth.engine.idrange import mapping
from berth.model import oci
from berth.wire.container import ContainerConfig, HostConfig, HostConfigUlimits, Resources


def compiled(config: ContainerConfig | None = None, mounts: list[oci.Mount] | None = None, **host: Any) -> oci.Spec:
    complete = complete_host_config(HostConfig(**host))
    decided = isolation.decide(complete)
    around = spec.Surroundings(
        hostname="box",
        cgroups_path="/berth/x",
        id_map=[] if decided.host_user else mapping(1_900_000_000),
        mounts=mounts or [],
        seccomp=None,
        partner_pid=77,
        new_network="network" not in decided.host and "network" not in decided.joins,
    )
    options = parse_security_options(complete.security_opt or [], privileged=bool(complete.privileged))
    return spec.compile_spec(config or ContainerConfig(cmd=["sh"]), complete, decided, options, around)


def test_a_default_container() -> None:
    made = compiled()
    assert [(n.type, n.path) for n in made.linux.namespaces] == [
        ("mount", None), ("pid", None), ("network", None), ("ipc", None), ("uts", None), ("cgroup", None), ("user", None),
    ]  # fmt: skip
    assert msgspec.to_builtins(made.linux.uid_mappings) == [{"containerID": 0, "hostID": 1_900_000_000, "size": 65536}]
    assert made.process.env == ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=box"]
    held = made.process.capabilities
    assert held is not None and len(held.bounding) == 14 and held.bounding == held.effective == held.permitted
    assert held.inheritable == [] and held.ambient == [] and not made.process.no_new_privileges
    assert [m.destination for m in made.mounts] == [
        "/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/dev/mqueue", "/dev/shm",
    ]  # fmt: skip
    assert "ro" in made.mounts[3].options and "ro" in made.mounts[4].options
    assert "/proc/kcore" in made.linux.masked_paths and "/proc/sys" in made.linux.readonly_paths
    assert made.linux.sysctl == {"net.ipv4.ping_group_range": "0 65535", "net.ipv4.ip_unprivileged_port_start": "0"}
    assert made.linux.resources is not None and made.linux.resources.devices[0] == oci.DeviceRule(allow=False, access="rwm")
    assert (made.hostname, made.process.cwd, made.root.readonly, made.linux.cgroups_path) == ("box", "/", False, "/berth/x")


def test_host_network() -> None:
    made = compiled(network_mode="host")
    kinds = {n.type for n in made.linux.namespaces}
    assert "network" not in kinds and "user" not in kinds and made.linux.sysctl == {}


def test_privileged() -> None:
    made = compiled(privileged=True)
    assert made.linux.masked_paths == [] and made.linux.readonly_paths == []
    assert made.linux.resources is not None and made.linux.resources.devices == [oci.DeviceRule(allow=True, access="rwm")]
    assert "rw" in made.mounts[3].options and any(d.path == "/dev/kmsg" or d.path == "/dev/null" for d in made.linux.devices)


def test_joined_namespaces() -> None:
    made = compiled(network_mode="container:web", ipc_mode="container:web")
    paths = {n.type: n.path for n in made.linux.namespaces}
    assert paths["network"] == "/proc/77/ns/net" and paths["ipc"] == "/proc/77/ns/ipc" and paths["user"] == "/proc/77/ns/user"
    assert paths["pid"] is None
    assert next(m for m in made.mounts if m.destination == "/dev/shm").source == "/proc/77/root/dev/shm"


def test_user_mounts_take_the_place_of_system_mounts() -> None:
    record = MountRecord(type="tmpfs", destination="/dev/shm", options=["size=1m"], read_only=True)
    made = compiled(mounts=[spec.tmpfs_mount(record)])
    found = [m for m in made.mounts if m.destination == "/dev/shm"]
    assert [m.options for m in found] == [["size=1m", "ro"]]


def test_process_details() -> None:
    config = ContainerConfig(
        entrypoint=["/e"], cmd=["a"], tty=True, user="12:34", working_dir="/w", env=["PATH=/bin", "TERM=dumb"], domainname="d"
    )
    made = compiled(
        config, console_size=[24, 80], oom_score_adj=5, ulimits=[HostConfigUlimits(name="nofile", soft=10, hard=-1)],
        security_opt=["no-new-privileges"], readonly_rootfs=True, sysctls={"net.ipv4.ip_forward": "1"}, shm_size=4096,
    )  # fmt: skip
    process = made.process
    assert process.args == ["/e", "a"] and process.cwd == "/w" and (process.user.uid, process.user.gid) == (12, 34)
    assert process.env == ["PATH=/bin", "HOSTNAME=box", "TERM=dumb"] and process.console_size == oci.ConsoleSize(
        height=24, width=80
    )
    assert process.rlimits == [oci.Rlimit(type="RLIMIT_NOFILE", soft=10, hard=2**64 - 1)]
    assert process.no_new_privileges and process.oom_score_adj == 5 and made.root.readonly and made.domainname == "d"
    assert made.linux.sysctl["net.ipv4.ip_forward"] == "1"
    assert "size=4096" in next(m for m in made.mounts if m.destination == "/dev/shm").options


def test_limits() -> None:
    made = resources.limits(Resources(memory=100, nano_cpus=1_500_000_000, cpu_shares=512, pids_limit=7, cpuset_cpus="0-1"))
    assert made.memory is not None and (made.memory.limit, made.memory.swap) == (100, 200)
    assert made.cpu is not None and (made.cpu.quota, made.cpu.period, made.cpu.shares, made.cpu.cpus) == (
        150_000,
        100_000,
        512,
        "0-1",
    )
    assert made.pids == oci.Pids(limit=7)
    assert resources.limits(Resources(pids_limit=-1)).pids == oci.Pids(limit=-1)
    assert resources.limits(Resources()) == oci.Resources()
    assert resources.limits(Resources(memory_swappiness=0)).memory == oci.Memory(swappiness=0)


def test_it_is_a_valid_document() -> None:
    document = msgspec.json.decode(msgspec.json.encode(compiled()))
    assert document["linux"]["uidMappings"][0]["hostID"] == 1_900_000_000


def test_large_user_ids() -> None:
    assert spec.large_user_ids("1234567:99999", ["70000", "wheel"]) == [1234567, 99999, 70000]
    assert spec.large_user_ids("app:1", []) == []
