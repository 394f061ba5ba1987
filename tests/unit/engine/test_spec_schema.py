"""What the engine hands to the runtime is a valid config.json, by the specification's own schema."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT4

from berth.engine.containers.creation import CreateBody
from berth.model import oci
from berth.wire.container import HostConfig, HostConfigUlimits, ThrottleDevice
from support.container_twins import World

_DATA = Path(__file__).parents[2] / "data/oci"
_REQUESTS = {
    "default": {},
    "privileged": {"privileged": True, "network_mode": "host", "pid_mode": "host"},
    "limits": {
        "memory": 64 << 20,
        "memory_swappiness": 0,
        "nano_cpus": 1_500_000_000,
        "cpuset_cpus": "0",
        "pids_limit": 10,
        "blkio_weight": 300,
        "ulimits": [HostConfigUlimits(name="nofile", soft=10, hard=-1)],
        "oom_score_adj": 5,
        "blkio_device_read_bps": [ThrottleDevice(path="/dev/null", rate=1000)],
    },
    "locked": {
        "readonly_rootfs": True,
        "tmpfs": {"/run": "size=1m"},
        "binds": ["/tmp:/data:ro", "cache:/cache"],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "sysctls": {"net.ipv4.ip_forward": "1"},
        "group_add": ["70000"],
        "shm_size": 4096,
        "console_size": [24, 80],
    },
    "unconfined": {"security_opt": ["seccomp=unconfined"], "userns_mode": "host", "ipc_mode": "host", "uts_mode": "host"},
}


def validator() -> jsonschema.Draft4Validator:
    documents = {path.name: json.loads(path.read_text()) for path in _DATA.glob("*.json")}
    registry: Registry[Any] = Registry().with_resources(
        (name, Resource.from_contents(content, DRAFT4)) for name, content in documents.items()
    )
    return jsonschema.Draft4Validator(documents["config-schema.json"], registry=registry)


@pytest.mark.parametrize("name", _REQUESTS)
def test_a_launch_is_a_valid_document(name: str, tmp_path: Path) -> None:
    async def case() -> oci.Spec:
        world = World(tmp_path)
        host = HostConfig(**_REQUESTS[name])
        await world.service.create("web", CreateBody(image="busybox", cmd=["sh"], tty=True, user="12:34", host_config=host))
        await world.service.start("web")
        spec = world.runtime.launched[-1].request.spec
        world.runtime.launched[-1].finish(0)
        return spec

    document = msgspec.json.decode(msgspec.json.encode(asyncio.run(case())))
    assert [f"{error.json_path}: {error.message}" for error in validator().iter_errors(document)] == []
    assert document["ociVersion"] == "1.2.0" and document["process"]["cwd"] == "/"


def test_a_document_without_its_version_is_refused() -> None:
    """That the schema's files are found and used."""
    process = oci.Process(user=oci.User(uid=0, gid=0), args=["sh"])
    document = msgspec.to_builtins(oci.Spec(process=process, root=oci.Root(path="rootfs"), linux=oci.Linux()))
    assert validator().is_valid(document)
    del document["ociVersion"]
    document["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": -1}]
    paths = sorted(error.json_path for error in validator().iter_errors(document))
    assert paths == ["$", "$.process.rlimits[0]", "$.process.rlimits[0].soft"]
