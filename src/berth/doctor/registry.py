"""All checks by name, and running them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from msgspec.structs import replace

from berth.doctor import builds, cgroups, engines, exposure, filesystems, identity, kernel, limits, networks, store
from berth.doctor.check import Check, NeedsRoot, Scene, note, warning
from berth.errors import BerthError, NotFound
from berth.wire.doctor import SEVERITIES, CheckInfo, EngineFacts, Finding, Report

CHECKS: tuple[Check, ...] = (
    Check(name="kernel.version", title="Linux is new enough", run=kernel.version),
    Check(name="kernel.calls", title="system calls that a launch needs", run=kernel.calls),
    Check(name="kernel.namespaces", title="kinds of namespaces", run=kernel.namespaces),
    Check(name="kernel.user-namespaces", title="user namespaces can be made", run=kernel.user_namespaces),
    Check(name="kernel.idmapped-overlay", title="overlays on idmapped layers in the data root", run=kernel.idmapped_overlay),
    Check(name="kernel.seccomp", title="system call filters", run=kernel.seccomp_filter),
    Check(name="kernel.security-modules", title="AppArmor and SELinux", run=kernel.security_modules),
    Check(name="kernel.fuse", title="/dev/fuse", run=kernel.fuse),
    Check(name="cgroup.mode", title="version of control groups", run=cgroups.mode),
    Check(name="cgroup.controllers", title="resources that can be limited", run=cgroups.controllers),
    Check(name="cgroup.writable", title="control groups can be made", run=cgroups.writable),
    Check(name="cgroup.swap", title="swap is counted", run=cgroups.swap),
    Check(name="ids.ranges", title="host ids for containers", run=identity.ranges),
    Check(name="ids.subordinate", title="ids given to users (/etc/subuid)", run=identity.subordinate),
    Check(name="ids.accounts", title="users with ids of containers", run=identity.accounts),
    Check(name="network.devices", title="bridge, veth, macvlan, ipvlan", run=networks.devices),
    Check(name="network.firewall", title="nf_tables, and drops of other firewalls", run=networks.firewall),
    Check(name="network.other-firewalls", title="ufw, firewalld and Docker beside berth", run=networks.other_firewalls),
    Check(name="network.forwarding", title="IP forwarding", run=networks.forwarding),
    Check(name="network.bridge-filter", title="bridge-nf-call-iptables", run=networks.bridge_filter),
    Check(name="network.resolvers", title="name servers that containers reach", run=networks.resolvers),
    Check(name="network.tracking", title="tables of connections and neighbours", run=networks.tracking),
    Check(name="storage.filesystem", title="file system of the data root", run=filesystems.kind),
    Check(name="storage.durability", title="journal and barriers", run=filesystems.durability),
    Check(name="storage.space", title="free bytes", run=filesystems.space),
    Check(name="storage.inodes", title="free inodes", run=filesystems.inodes),
    Check(name="storage.permissions", title="the data root is closed to others", run=filesystems.permissions),
    Check(name="storage.own-filesystem", title="containers cannot fill the host's disk", run=filesystems.own_filesystem),
    Check(name="storage.quotas", title="sizes of containers and volumes", run=filesystems.quotas),
    Check(name="limits.descriptors", title="open files", run=limits.descriptors),
    Check(name="limits.inotify", title="watches of files", run=limits.inotify),
    Check(name="limits.processes", title="process ids and threads", run=limits.processes),
    Check(name="limits.rights", title="capabilities of the engine", run=limits.rights),
    Check(name="limits.memory-maps", title="vm.max_map_count", run=limits.memory_maps),
    Check(name="limits.overcommit", title="vm.overcommit_memory", run=limits.overcommit),
    Check(name="limits.clock", title="the clock is kept right", run=limits.clock),
    Check(name="build.certificates", title="certificate authorities for pulls and builds", run=builds.certificates),
    Check(name="build.mirrors", title="proxies and package mirrors for builds", run=builds.mirrors),
    Check(name="build.programs", title="programs that make base images", run=builds.programs),
    Check(name="engine.running", title="the engine answers", run=engines.running, of_engine=True),
    Check(name="engine.socket", title="who may talk to the engine", run=engines.socket),
    Check(name="engine.settings", title="settings that open something", run=engines.settings, of_engine=True),
    Check(name="engine.at-boot", title="the engine starts with the host", run=engines.at_boot),
    Check(name="engine.memory", title="memory of the engine's processes", run=engines.memory),
    Check(name="exposed.ports", title="published ports", run=exposure.ports, of_engine=True),
    Check(name="exposed.privileged", title="privileged containers", run=exposure.privileged, of_engine=True),
    Check(name="exposed.user-namespaces", title="containers with the host's root", run=exposure.user_namespaces, of_engine=True),
    Check(name="exposed.namespaces", title="namespaces shared with the host", run=exposure.namespaces, of_engine=True),
    Check(name="exposed.mounts", title="engine sockets and host directories in containers", run=exposure.mounts, of_engine=True),
    Check(name="exposed.capabilities", title="capabilities as good as root", run=exposure.capabilities, of_engine=True),
    Check(name="exposed.confinement", title="walls that were taken away, and devices", run=exposure.confinement, of_engine=True),
    Check(name="exposed.limits", title="containers without limits", run=exposure.limits, of_engine=True),
    Check(name="store.database", title="the database is whole", run=store.database, deep=True),
    Check(name="store.layers", title="layers and their directories", run=store.layers, deep=True),
    Check(name="store.images", title="images have all their parts", run=store.images, deep=True),
    Check(name="store.content", title="content matches its digests (reads all of it)", run=store.content, deep=True),
    Check(name="store.containers", title="containers and their files", run=store.containers, deep=True),
    Check(name="store.volumes", title="volumes and their files", run=store.volumes, deep=True),
    Check(name="store.leftovers", title="what was left half done", run=store.leftovers, deep=True),
)


def choose(names: Iterable[str], *, deep: bool, remote: bool) -> list[Check]:
    """The named checks, or sections; without names all, deep ones only if asked for. For an engine on another host only
    those that ask the engine. NotFound names what there is."""
    wanted = list(names)
    for name in wanted:
        if not any(name in (check.name, check.section) for check in CHECKS):
            raise NotFound(f"no check or section of checks is named {name}: berth doctor --list shows them")
    found = [check for check in CHECKS if check.name in wanted or check.section in wanted or not wanted]
    found = [check for check in found if deep or not check.deep or check.name in wanted or check.section in wanted]
    return [check for check in found if check.of_engine or not remote]


def listing() -> list[CheckInfo]:
    """All checks, for people to choose from."""
    return [_info(check) for check in CHECKS]


def _info(check: Check) -> CheckInfo:
    return CheckInfo(name=check.name, title=check.title, deep=check.deep)


def examine(check: Check, scene: Scene) -> list[Finding]:
    """What the check finds. That it could not look is a finding too."""
    return [replace(finding, check=check.name) for finding in _findings(check, scene)]


def _findings(check: Check, scene: Scene) -> Iterator[Finding]:
    try:
        yield from check.run(scene)
    except NeedsRoot as what:
        yield note(f"not looked at: only root sees {what}", change=f"sudo berth doctor {check.name}")
    except (OSError, ValueError, BerthError) as error:
        yield warning(f"could not be looked at: {error}", why="This says nothing about whether it is well.")


def report(scene: Scene, checks: list[Check]) -> Report:
    """Run the checks, one after another."""
    findings = [finding for check in checks for finding in examine(check, scene)]
    counts = dict.fromkeys(map(str, SEVERITIES), 0) | Counter(finding.severity for finding in findings)
    worst = max((finding.severity for finding in findings), key=SEVERITIES.index, default=SEVERITIES[0])
    return Report(
        time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        host=os.uname().nodename,
        as_root=scene.host.is_root(),
        engine=EngineFacts(address=scene.address, running=scene.engine is not None, root=scene.root),
        checks=[_info(check) for check in checks],
        findings=findings,
        counts=counts,
        worst=worst,
    )
