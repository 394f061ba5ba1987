"""GET /containers/{id}/json: a container as Docker describes it.

The wire Structs leave out what nobody set; clients of inspect expect Docker's zero values there, so the answer is built as
a JSON object over templates. Fields that only older API versions have (NetworkSettings.IPAddress ...) are filled in too:
scripts read them with any version.
"""

from __future__ import annotations

from typing import Any

import msgspec

from berth.engine.containers import confinement
from berth.engine.containers.explaining import ENDED, facts
from berth.engine.containers.lifecycle import Status, is_running
from berth.engine.containers.parts import Parts
from berth.engine.containers.record import Container, ContainerRecord, MountRecord
from berth.engine.containers.starting import ETC_FILES
from berth.errors import DataLoss, NotFound
from berth.model.instant import rfc3339
from berth.wire.mount import MountPoint
from berth.wire.network import NetworkSettings

Document = dict[str, Any]

_CONFIG: Document = {
    "Hostname": "", "Domainname": "", "User": "", "AttachStdin": False, "AttachStdout": False, "AttachStderr": False,
    "Tty": False, "OpenStdin": False, "StdinOnce": False, "Env": [], "Cmd": None, "Image": "", "Volumes": None, "WorkingDir": "",
    "Entrypoint": None, "OnBuild": None, "Labels": {},
}  # fmt: skip
_HOST: Document = {
    "Binds": None, "ContainerIDFile": "", "LogConfig": {"Type": "json-file", "Config": {}}, "NetworkMode": "bridge",
    "PortBindings": {}, "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}, "AutoRemove": False, "VolumeDriver": "",
    "VolumesFrom": None, "ConsoleSize": [0, 0], "CapAdd": None, "CapDrop": None, "CgroupnsMode": "private", "Dns": [],
    "DnsOptions": [], "DnsSearch": [], "ExtraHosts": None, "GroupAdd": None, "IpcMode": "private", "Cgroup": "", "Links": None,
    "OomScoreAdj": 0, "PidMode": "", "Privileged": False, "PublishAllPorts": False, "ReadonlyRootfs": False, "SecurityOpt": None,
    "UTSMode": "", "UsernsMode": "", "ShmSize": 67108864, "Runtime": "berth", "Isolation": "", "CpuShares": 0, "Memory": 0,
    "NanoCpus": 0, "CgroupParent": "", "BlkioWeight": 0, "BlkioWeightDevice": [], "BlkioDeviceReadBps": [],
    "BlkioDeviceWriteBps": [], "BlkioDeviceReadIOps": [], "BlkioDeviceWriteIOps": [], "CpuPeriod": 0, "CpuQuota": 0,
    "CpuRealtimePeriod": 0, "CpuRealtimeRuntime": 0, "CpusetCpus": "", "CpusetMems": "", "Devices": [], "DeviceCgroupRules": None,
    "DeviceRequests": None, "MemoryReservation": 0, "MemorySwap": 0, "MemorySwappiness": None, "OomKillDisable": False,
    "PidsLimit": None, "Ulimits": [], "CpuCount": 0, "CpuPercent": 0, "IOMaximumIOps": 0, "IOMaximumBandwidth": 0,
    "MaskedPaths": [], "ReadonlyPaths": [],
}  # fmt: skip
_ENDPOINT: Document = {
    "IPAMConfig": None, "Links": None, "Aliases": None, "MacAddress": "", "DriverOpts": None, "GwPriority": 0, "NetworkID": "",
    "EndpointID": "", "Gateway": "", "IPAddress": "", "IPPrefixLen": 0, "IPv6Gateway": "", "GlobalIPv6Address": "",
    "GlobalIPv6PrefixLen": 0, "DNSNames": None,
}  # fmt: skip
_LEGACY = (
    "EndpointID",
    "Gateway",
    "GlobalIPv6Address",
    "GlobalIPv6PrefixLen",
    "IPAddress",
    "IPPrefixLen",
    "IPv6Gateway",
    "MacAddress",
)


def _over(template: Document, value: object) -> Document:
    return {**template, **msgspec.to_builtins(value)}


def _apparmor_profile(record: ContainerRecord) -> str:
    """What the container runs under; before the first start, as with Docker, what it was asked to."""
    options = confinement.security_of(record)
    chosen = confinement.apparmor_profile(options) if record.state.started_at else None
    return chosen or options.apparmor


def state_document(container: Container) -> Document:
    """State."""
    state, status = container.state, container.status
    document: Document = {
        "Status": str(status),
        "Running": is_running(status),
        "Paused": status is Status.PAUSED,
        "Restarting": status is Status.RESTARTING,
        "OOMKilled": state.oom_killed,
        "Dead": status is Status.DEAD,
        "Pid": state.pid if status in (Status.RUNNING, Status.PAUSED) else 0,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": rfc3339(state.started_at),
        "FinishedAt": rfc3339(state.finished_at),
    }
    if container.status in ENDED and state.cause is not None:
        # An extension: Docker's clients take no notice of it.
        document["Cause"] = msgspec.to_builtins(facts(state.cause))
    if status is Status.RESTARTING and container.next_start:
        document["NextStartAt"] = rfc3339(container.next_start)
    if container.health is not None:
        document["Health"] = {"Log": [], **msgspec.to_builtins(container.health)}
    return document


def mount_point(record: MountRecord) -> MountPoint:
    """An entry of Mounts."""
    is_volume = record.type == "volume"
    return MountPoint(
        type=record.type,
        name=record.name if record.type in ("volume", "image") else None,
        source=record.source if record.type != "tmpfs" else "",
        destination=record.destination,
        driver=(record.driver or "local") if is_volume else None,
        mode=record.mode if record.mode or not is_volume else "z",
        rw=not record.read_only,
        propagation=record.propagation,
    )


def endpoint_documents(settings: NetworkSettings) -> dict[str, Document]:
    """Endpoints by network, with every field."""
    return {name: _over(_ENDPOINT, endpoint) for name, endpoint in (settings.networks or {}).items()}


def network_document(settings: NetworkSettings, pid: int) -> Document:
    """NetworkSettings with the fields of the default network once more at the top, where older versions had them. The key of
    the sandbox is a path that leads to the network namespace of process `pid`, as Docker's is."""
    networks = endpoint_documents(settings)
    document: Document = {
        "Bridge": "",
        "SandboxID": settings.sandbox_id or "",
        "SandboxKey": f"/proc/{pid}/ns/net" if settings.sandbox_id and pid else "",
        "Ports": msgspec.to_builtins(settings.ports or {}),
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "Networks": networks,
    }
    default = networks.get("bridge", _ENDPOINT)
    return document | {key: default[key] for key in _LEGACY}


class Inspection:
    """Describes containers."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def inspect(self, container: Container, *, size: bool) -> Document:
        """The whole answer. With `size`, SizeRw and SizeRootFs."""
        record, parts = container.record, self._parts
        directory = parts.directory(record.id)
        paths = {name: f"{directory}/{name}" if record.state.started_at else "" for name, _ in ETC_FILES}
        driver = (record.host_config.log_config.type if record.host_config.log_config else "") or "json-file"
        try:
            image = parts.images.find(record.image_id)
        except (DataLoss, NotFound):
            # A damaged image is told of where it is used.
            image = None
        document: Document = {
            "Id": record.id,
            "Created": rfc3339(record.created),
            "Path": record.path,
            "Args": record.args,
            "State": state_document(container),
            "Image": record.image_id,
            "ResolvConfPath": paths["resolv.conf"],
            "HostnamePath": paths["hostname"],
            "HostsPath": paths["hosts"],
            "LogPath": parts.log_path(record.id) if driver == "json-file" else "",
            "Name": "/" + record.name,
            "RestartCount": record.state.restart_count,
            "Driver": "overlay2",
            "Platform": "linux",
            "MountLabel": "",
            "ProcessLabel": "",
            "AppArmorProfile": _apparmor_profile(record),
            "ExecIDs": [e.id for e in container.execs.values() if e.running] or None,
            "HostConfig": _over(_HOST, record.host_config),
            "GraphDriver": self._graph_driver(container),
            "Mounts": msgspec.to_builtins([mount_point(m) for m in record.mounts if m.type != "tmpfs"]),
            "Config": _over(_CONFIG, record.config),
            "NetworkSettings": network_document(parts.networks.settings(container.facts()), container.state.pid),
        }
        if size:
            used = await parts.snapshots.usage(record.id)
            document |= {"SizeRw": used, "SizeRootFs": used + (image.size if image is not None else 0)}
        return document

    def _graph_driver(self, container: Container) -> Document:
        overlay = self._parts.overlay(container)
        store = overlay.store
        data = {"LowerDir": ":".join(f"{store}/{layer}" for layer in overlay.layers)}
        if overlay.upper is not None:
            data |= {"UpperDir": f"{store}/{overlay.upper}", "WorkDir": f"{store}/{overlay.work}"}
        return {"Name": "overlay2", "Data": data}
