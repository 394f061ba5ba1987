"""What the doctor says of machines: each fault that it knows, on a machine that has just that one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from berth.doctor import registry
from berth.doctor.registry import CHECKS, choose, examine, listing, report
from berth.errors import NotFound, Unavailable
from berth.network.nftables import RuleError
from berth.storage.quota import Lack
from berth.wire.doctor import Finding
from support.fake_host import HEALTHY, FakeHost, FakeProbes, scene

# Facts of the machine that runs the test show through: its disk, the owner of the test's directory.
_REAL = ("storage.space", "storage.inodes", "storage.permissions")


def _find(name: str, top: Path, files: dict[str, str] | None = None, **options: object) -> list[Finding]:
    check = next(check for check in CHECKS if check.name == name)
    return examine(check, scene(top, files, **options))  # type: ignore[arg-type]


def _worst(name: str, top: Path, files: dict[str, str] | None = None, **options: object) -> Finding:
    found = [f for f in _find(name, top, files, **options) if f.severity != "ok"]
    assert len(found) == 1, found
    return found[0]


def test_nothing_is_wrong_with_a_well_kept_machine(tmp_path: Path) -> None:
    checks = [c for c in CHECKS if not c.of_engine and not c.deep and c.name not in _REAL]
    bad = [f for f in report(scene(tmp_path), checks).findings if f.severity != "ok"]
    assert bad == []


@pytest.mark.parametrize(
    ("name", "files", "severity", "words"),
    [
        ("kernel.version", {"/proc/sys/kernel/osrelease": "5.10.0-8"}, "problem", "too old"),
        ("kernel.version", {"/proc/sys/kernel/osrelease": "5.15.0-100-generic"}, "warning", "no overlays on idmapped"),
        ("kernel.user-namespaces", {"/proc/sys/user/max_user_namespaces": "0"}, "problem", "switched off"),
        ("kernel.user-namespaces", {"/proc/sys/user/max_user_namespaces": "64"}, "warning", "at most 64"),
        ("kernel.seccomp", {"/proc/sys/kernel/seccomp/actions_avail": ""}, "problem", "no seccomp"),
        ("kernel.security-modules", {"/sys/module/apparmor/parameters/enabled": "Y"}, "note", "AppArmor is on"),
        ("kernel.security-modules", {"/sys/module/apparmor/parameters/enabled": "Y",
                                     "/sys/kernel/security/apparmor/profiles": ""}, "problem", "apparmor_parser is missing"),
        ("kernel.security-modules", {"/sys/fs/selinux/enforce": "1"}, "note", "SELinux is on (enforcing)"),
        ("cgroup.controllers", {"/sys/fs/cgroup/cgroup.controllers": "cpu io pids cpuset"}, "warning", "memory (--memory)"),
        ("cgroup.mode", {"/proc/self/mountinfo": "21 1 8:1 / / rw - ext4 /dev/sda1 rw"}, "problem", "no control groups"),
        ("ids.subordinate", {"/etc/subuid": "ann:2000000000:65536"}, "note", "ann:2000000000:65536"),
        ("ids.accounts", {"/etc/passwd": "ann:x:1900000000:100::/:/bin/sh"}, "warning", "ann (1900000000)"),
        ("network.other-firewalls", {"/etc/ufw/ufw.conf": "ENABLED=yes"}, "warning", "ufw is active"),
        ("network.forwarding", {"/proc/sys/net/ipv4/ip_forward": "0"}, "note", "switches it on"),
        ("network.bridge-filter", {"/proc/sys/net/bridge/bridge-nf-call-iptables": "1"}, "note", "inside one bridge"),
        ("network.resolvers", {"/etc/resolv.conf": "nameserver 127.0.0.53"}, "warning", "127.0.0.53"),
        ("network.resolvers", {"/etc/resolv.conf": ""}, "warning", "no name server"),
        ("network.tracking", {"/proc/sys/net/netfilter/nf_conntrack_count": "900",
                              "/proc/sys/net/netfilter/nf_conntrack_max": "1000"}, "warning", "nearly full"),
        ("limits.descriptors", {"/proc/sys/fs/file-nr": "8999999 0 9000000"}, "warning", "8999999 of 9000000"),
        ("limits.descriptors", {"/proc/sys/fs/nr_open": "1024"}, "warning", "at most 1024"),
        ("limits.inotify", {"/proc/sys/fs/inotify/max_user_instances": "128"}, "note", "at most 128"),
        ("limits.processes", {"/proc/loadavg": "1 1 1 2/490000 7"}, "warning", "490000 of 500000"),
        ("limits.processes", {"/proc/sys/kernel/pid_max": "32768"}, "note", "32768"),
        ("limits.memory-maps", {"/proc/sys/vm/max_map_count": "65530"}, "note", "65530"),
        ("limits.overcommit", {"/proc/sys/vm/overcommit_memory": "2"}, "warning", "overcommit_memory=2"),
        ("build.certificates", {"/usr/local/share/ca-certificates/site.crt": ""}, "note", "site.crt"),
    ],
)  # fmt: skip
def test_a_fault_of_the_machine_is_named(name: str, files: dict[str, str], severity: str, words: str, tmp_path: Path) -> None:
    found = _worst(name, tmp_path, files)
    assert (found.severity, words in found.summary) == (severity, True), found
    assert found.check == name
    assert found.change or severity == "note", "a fault comes with what to do about it"


@pytest.mark.parametrize(
    ("name", "probes", "severity", "words"),
    [
        ("kernel.calls", FakeProbes(missing=["clone3"]), "problem", "clone3 (Linux 5.3)"),
        ("kernel.user-namespaces", FakeProbes(no_user_namespace="operation not permitted"), "problem", "operation not permitted"),
        ("kernel.idmapped-overlay", FakeProbes(no_overlay="invalid argument"), "problem", "invalid argument"),
        ("network.devices", FakeProbes(no_device={"bridge": "operation not supported"}), "problem", "no bridge device"),
        ("network.devices", FakeProbes(no_device={"ipvlan": "operation not supported"}), "note", "no ipvlan device"),
        ("network.firewall", FakeProbes(chains=["ip filter FORWARD"]), "note", "ip filter FORWARD"),
        ("network.other-firewalls", FakeProbes(guards=["inet filter input"]), "warning", "what comes in (inet filter input)"),
        ("network.firewall", FakeProbes(firewall_error=RuleError("nftables: no")), "problem", "nf_tables does not work"),
        ("network.firewall", FakeProbes(firewall_error=Unavailable("no library")), "problem", "no library"),
        ("limits.rights", FakeProbes(held=((1 << 41) - 1) & ~(1 << 24)), "note", "CAP_SYS_RESOURCE"),
        ("limits.rights", FakeProbes(held=0), "warning", "CAP_SYS_ADMIN"),
        ("limits.clock", FakeProbes(synchronised=False), "note", "NTP"),
        (
            "storage.quotas",
            FakeProbes(lack=Lack("the ext4 at / has none", "x")),
            "note",
            "cannot have a size: the ext4 at / has none",
        ),
    ],
)
def test_what_the_kernel_refuses_is_named(name: str, probes: FakeProbes, severity: str, words: str, tmp_path: Path) -> None:
    found = _worst(name, tmp_path, probes=probes)
    assert (found.severity, words in found.summary) == (severity, True), found


@pytest.mark.parametrize(
    ("line", "severity", "words"),
    [
        ("31 21 0:40 / /srv rw - overlay overlay rw,lowerdir=/a", "ok", "is on overlay"),
        ("31 21 0:40 / /srv rw - nfs server:/x rw", "problem", "is on nfs"),
        ("31 21 0:40 / /srv rw - tmpfs tmpfs rw", "warning", "in memory"),
        ("31 21 0:40 / /srv rw - xfs /dev/sdb rw,ftype=0", "problem", "ftype=0"),
        ("31 21 0:40 / /srv rw - xfs /dev/sdb rw", "ok", "is on xfs"),
    ],
)
def test_the_filesystem_of_the_data_root(line: str, severity: str, words: str, tmp_path: Path) -> None:
    (found,) = _find("storage.filesystem", tmp_path, {"/proc/self/mountinfo": "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + line})
    assert (found.severity, words in found.summary) == (severity, True), found


def test_a_filesystem_without_journal(tmp_path: Path) -> None:
    mounts = HEALTHY["/proc/self/mountinfo"].replace("/dev/sdb1", "/dev/sdc1")
    found = _worst("storage.durability", tmp_path, {"/proc/self/mountinfo": mounts})
    assert "no journal" in found.summary and "/dev/sdc1" in found.change


@pytest.mark.parametrize(
    ("mebibytes", "files", "space", "inodes"),
    [
        (10, 1_000, "problem", "problem"),
        (500, 20_000, "warning", "warning"),
        (50_000, 900_000, "ok", "ok"),
    ],
)
def test_room_for_images(
    mebibytes: int, files: int, space: str, inodes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = 1 << 20
    found = os.statvfs_result((block, block, 100_000, mebibytes, mebibytes, 1_000_000, files, files, 0, 255))
    monkeypatch.setattr(FakeHost, "space", lambda *_: found)
    assert [f.severity for f in _find("storage.space", tmp_path)] == [space]
    assert [f.severity for f in _find("storage.inodes", tmp_path)] == [inodes]


def test_a_data_root_that_others_may_enter(tmp_path: Path) -> None:
    (tmp_path / "srv/berth").mkdir(parents=True)
    (tmp_path / "srv/berth").chmod(0o755)
    found = _worst("storage.permissions", tmp_path)
    assert found.severity == "problem" and "chmod 0700 /srv/berth" in found.change


def test_version_1_and_hybrid_control_groups(tmp_path: Path) -> None:
    v1 = "".join(f"4{n} 21 0:3{n} / /sys/fs/cgroup/{c} rw - cgroup cgroup rw,{c}\n" for n, c in enumerate(
        ("cpu,cpuacct", "cpuset", "memory", "pids", "devices", "freezer", "blkio")))  # fmt: skip
    (found,) = _find("cgroup.mode", tmp_path, {"/proc/self/mountinfo": v1})
    assert found.facts["mode"] == "v1"
    assert [f.severity for f in _find("cgroup.controllers", tmp_path, {"/proc/self/mountinfo": v1})] == ["ok"]
    found = _worst("cgroup.swap", tmp_path, {"/proc/self/mountinfo": v1, "/proc/meminfo": "SwapTotal: 1024 kB"})
    assert found.severity == "warning" and "swapaccount=1" in found.change
    both = v1 + "60 21 0:60 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    (found,) = _find("cgroup.mode", tmp_path, {"/proc/self/mountinfo": both})
    assert found.facts["mode"] == "hybrid"


def test_settings_that_builds_take_over(tmp_path: Path) -> None:
    machine = scene(tmp_path)
    assert isinstance(machine.host, FakeHost)
    machine.host.outputs = {("apt-config", "dump"): 'Acquire::http::Proxy "http://proxy.test:3128";\n'}
    (found,) = examine(next(c for c in CHECKS if c.name == "build.mirrors"), machine)
    assert found.severity == "note" and "Acquire::http::Proxy" in found.summary


def test_what_only_root_sees_is_said_to_others(tmp_path: Path) -> None:
    found = [f for c in CHECKS if not c.of_engine for f in examine(c, scene(tmp_path, root=False))]
    hidden = {f.check for f in found if "only root sees" in f.summary}
    assert {"kernel.idmapped-overlay", "network.devices", "network.firewall", "store.database"} <= hidden
    assert all(f.severity == "note" and f.change == f"sudo berth doctor {f.check}" for f in found if f.check in hidden)


def test_a_check_that_cannot_read_is_a_warning_and_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: object) -> bool:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(FakeProbes, "clock_is_synchronised", fail)
    found = _worst("limits.clock", tmp_path)
    assert found.severity == "warning" and "Input/output error" in found.summary


def test_checks_are_chosen_by_name_and_by_section() -> None:
    assert [c.name for c in choose(["kernel.version"], deep=False, remote=False)] == ["kernel.version"]
    assert {c.section for c in choose(["ids", "store"], deep=False, remote=False)} == {"ids", "store"}
    assert not any(c.deep for c in choose([], deep=False, remote=False))
    assert any(c.deep for c in choose([], deep=True, remote=False))
    assert {c.section for c in choose([], deep=False, remote=True)} == {"engine", "exposed"}
    with pytest.raises(NotFound, match="berth doctor --list"):
        choose(["kernel.nothing"], deep=False, remote=False)


def test_names_are_unique_and_every_section_has_a_title() -> None:
    from berth.cli.commands.doctor import SECTIONS

    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names) == len(listing())
    assert {check.section for check in CHECKS} == set(SECTIONS)


def test_the_report_counts_and_tells_the_worst(tmp_path: Path) -> None:
    checks = choose(["limits.clock", "kernel.calls"], deep=False, remote=False)
    found = registry.report(scene(tmp_path, probes=FakeProbes(missing=["clone3"], synchronised=False)), checks)
    assert found.counts == {"ok": 0, "note": 1, "warning": 0, "problem": 1}
    assert found.worst == "problem"
