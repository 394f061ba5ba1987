"""A machine for the doctor: files below a directory, and a kernel that answers as it is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from berth.doctor.check import Running, Scene
from berth.doctor.host import Host
from berth.errors import BerthError
from berth.storage.quota import Lack

HEALTHY = {
    "/proc/sys/kernel/osrelease": "6.1.0-32-amd64",
    "/proc/sys/user/max_user_namespaces": "15000",
    "/proc/sys/kernel/seccomp/actions_avail": "kill_process errno allow",
    "/proc/self/mountinfo": (
        "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "30 21 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"
        "31 21 8:2 / /srv rw - ext4 /dev/sdb1 rw\n"
    ),
    "/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory hugetlb pids",
    "/sys/fs/cgroup/system.slice/cgroup.procs": "",
    "/sys/fs/cgroup/system.slice/memory.swap.max": "max",
    "/srv/lost+found/nothing": "",
    "/proc/fs/jbd2/sda1-8/info": "",
    "/proc/fs/jbd2/sdb1-8/info": "",
    "/proc/meminfo": "MemTotal: 8000000 kB\nSwapTotal: 0 kB",
    "/proc/sys/net/ipv4/ip_forward": "1",
    "/proc/sys/net/bridge/bridge-nf-call-iptables": "0",
    "/etc/resolv.conf": "nameserver 192.0.2.53",
    "/proc/sys/fs/file-max": "9000000",
    "/proc/sys/fs/file-nr": "2000\t0\t9000000",
    "/proc/sys/fs/nr_open": "1048576",
    "/proc/sys/fs/inotify/max_user_instances": "1024",
    "/proc/sys/fs/inotify/max_user_watches": "1048576",
    "/proc/sys/kernel/pid_max": "4194304",
    "/proc/sys/kernel/threads-max": "500000",
    "/proc/loadavg": "0.10 0.10 0.10 1/300 4242",
    "/proc/sys/vm/max_map_count": "1048576",
    "/proc/sys/vm/overcommit_memory": "1",
    "/etc/ssl/certs/ca-certificates.crt": "",
    "/usr/bin/mmdebstrap": "",
    "/dev/fuse": "",
    "/etc/passwd": "root:x:0:0:root:/root:/bin/sh",
    "/etc/systemd/system/berth.service": "",
    **{f"/proc/self/ns/{kind}": "" for kind in ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts", "time")},
}
"""What a well-kept Debian 12 looks like: no check has more to say than ok."""


class FakeHost(Host):
    """Files below `top`; programs print what `outputs` says. `root`: whether the doctor is root there."""

    def __init__(self, top: Path, files: Mapping[str, str], *, root: bool = True) -> None:
        super().__init__(str(top))
        self.root = root
        self.outputs: dict[tuple[str, ...], str] = {}
        for path, text in files.items():
            place = Path(f"{top}{path}")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)

    def is_root(self) -> bool:
        return self.root

    def output(self, *command: str) -> str | None:
        return self.outputs.get(command)


@dataclass
class FakeProbes:
    """A kernel that can do everything, but for what is said here."""

    missing: list[str] = field(default_factory=list)
    no_user_namespace: str = ""
    no_overlay: str = ""
    no_device: dict[str, str] = field(default_factory=dict)
    chains: list[str] = field(default_factory=list)
    guards: list[str] = field(default_factory=list)
    firewall_error: BerthError | None = None
    magic: int = 0xEF53
    held: int = (1 << 41) - 1
    synchronised: bool = True
    lack: Lack | None = None

    def missing_calls(self) -> list[str]:
        return self.missing

    def user_namespace(self) -> str:
        return self.no_user_namespace

    def idmapped_overlay(self, directory: str) -> str:
        return self.no_overlay

    def device(self, kind: str) -> str:
        return self.no_device.get(kind, "")

    def blocking_chains(self) -> list[str]:
        if self.firewall_error is not None:
            raise self.firewall_error
        return self.chains

    def guarding_chains(self) -> list[str]:
        return self.guards

    def filesystem(self, directory: str) -> int:
        return self.magic

    def sizes(self, directory: str) -> Lack | None:
        return self.lack

    def capabilities(self) -> int:
        return self.held

    def clock_is_synchronised(self) -> bool:
        return self.synchronised


def scene(
    top: Path,
    files: Mapping[str, str] | None = None,
    *,
    probes: FakeProbes | None = None,
    engine: Running | None = None,
    root: bool = True,
    data: str = "/srv/berth",
) -> Scene:
    """A healthy machine with the given files put over it."""
    host = FakeHost(top, {**HEALTHY, **(files or {})}, root=root)
    return Scene(
        host=host,
        probes=probes or FakeProbes(),
        root=data,
        run="/run/berth",
        address="unix:///run/berth/berth.sock",
        socket="/run/berth/berth.sock",
        engine=engine,
    )
