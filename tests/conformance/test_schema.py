"""Docker's Engine API against its own schema: every operation of every version is asked for, and what comes back is what the
schema of that version promises. What berth does not have is in the lists of this module, with the reason."""

from __future__ import annotations

import io
import re
import shutil
import tarfile
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import leak
from support.api_client import Answer, ask
from support.api_schema import NEWEST, VERSIONS, ApiSchema, Operation, api_schema
from support.engine import EngineProcess, busybox_tar
from support.platforms import OTHER, layout
from support.registry import registry

# Docker writes null here, whatever its schema says: "not set", and "has not ended yet".
_NULL_AS_DOCKER = {
    ".HostConfig.MemorySwappiness: None is not of type 'integer'",
    ".ExitCode: None is not of type 'integer'",
}
# The schema of 1.40 says so, and Docker's answer was the object that later ones describe. UnpackedSize is required by all
# that have manifests, and described by none: Docker tells Size.Unpacked.
_WRONG_IN_SCHEMA = re.compile(r"AuxiliaryAddresses: .* is not of type 'string'|ImageData: 'UnpackedSize' is a required property")
_SWARM = ("swarm", "nodes", "services", "tasks", "secrets", "configs")
_NOT_IMPLEMENTED = {
    "POST /swarm/init": 501,
    "POST /swarm/join": 501,
    "GET /plugins/privileges": 501,
    "POST /plugins/pull": 501,
    "POST /plugins/create": 501,
    "POST /session": 501,
    "PUT /volumes/{name}": 501,
}
# Not asked for with success here: what it needs is not on the machine, or is elsewhere.
_ELSEWHERE = {
    "GET /images/search": "an index server",
    "GET /containers/{id}/attach/ws": "tests/integration/test_container_streams.py speaks websocket",
    "POST /containers/{id}/attach": "hijacked: tests/integration/test_container_streams.py",
}
# Answers of several documents, with the schema of each: of the operation, or, where that has none, by its definition's name.
_LINES: dict[str, dict[str, Any]] = {
    "GET /events": {},
    "GET /containers/{id}/stats": {},
    "POST /images/create": {"$ref": "#/definitions/CreateImageInfo"},
    "POST /images/{name}/push": {"$ref": "#/definitions/PushImageInfo"},
    "POST /build": {"$ref": "#/definitions/BuildInfo"},
}
# Properties that no answer has, by pattern, and why.
_LEFT_OUT = {
    r"\.(progress|progressDetail|errorDetail|error|id|status)(\.|$)": "of some lines only",
    r"Swarm\.(Nodes|Managers|Cluster)|\.(Peers|Services|ClusterVolume)$|networks/\{id\}\.Status$": "Docker: in a swarm",
    r"GET /version\.Experimental|\.(ArgsEscaped|NetworkDisabled)$|IPAM\.Options$|\.Status$": "Docker: left out where not set",
    r"\.(runtimeArgs|status|DefaultAddressPools|DiscoveredDevices|Containerd|NRI|FirewallBackend\.Info)$": "not set here",
    r"volumes.*UsageData$": "in the disk usage only",
    r"(OsVersion|Variant|variant|os\.version|os\.features)$": "of other platforms",
    r"images/\{name\}/json\.(Config|ContainerConfig)\.": "what an image does not set",
    r"\.(StorageOpt|LinkLocalIPs|IPv6Address|DriverConfig\.Options|TmpfsOptions\.Options)$": "not asked for here",
    r"(ImageOptions|VolumeOptions\.Subpath|BindOptions\.\w+)$": "not asked for here",
    r"distribution.*\.Descriptor\.(urls|platform|data|artifactType|annotations)$": "what this image's manifest does not have",
    r"\.(ImageManifestDescriptor|Storage|Identity)$": "Docker: with containerd's image store",
    r"[iI]mages.*\.(Manifests|Descriptor)$": "Docker: with containerd's image store, from the version on that has them",
    r"\.Descriptor\.(urls|data|artifactType)$": "what no manifest here has",
    r"\.Descriptor\.(platform|annotations)$": "of manifests, not of an image as a whole",
    r"HostConfig\.Capabilities|info\.SystemStatus": "in the schema of 1.40 only; no Docker ever answered it",
    r"Config\.MacAddress$": "deprecated in 1.44; the endpoint tells it in every version",
    r"stats\.(storage_stats|networks\{\}\.(instance|endpoint)_id)": "Docker: on Windows",
    r"stats\.memory_stats\.(privateworkingset|commit|failcnt)": "Docker: on Windows, or with control groups version 1",
    r"stats\.precpu_stats\.": "with a single reading there is none before it",
    r"/wait\.Error$": "only where a start or the wait itself has failed",
    r"stats\.blkio_stats\.": "nothing was read or written",
}
_FULL: dict[str, Any] = {
    "Image": "busybox",
    "Cmd": ["sh", "-c", "while true; do echo hello; sleep 1; done"],
    "Hostname": "full",
    "Domainname": "example.test",
    "User": "0:0",
    "Env": ["A=b"],
    "ExposedPorts": {"80/tcp": {}, "81/udp": {}},
    "Healthcheck": {"Test": ["CMD", "true"], "Interval": 10**9, "Timeout": 10**9, "Retries": 2, "StartPeriod": 10**9,
                    "StartInterval": 10**9},
    "Labels": {"a": "b"},
    "StopSignal": "SIGINT",
    "StopTimeout": 1,
    "Shell": ["/bin/sh", "-c"],
    "Volumes": {"/anonymous": {}},
    "WorkingDir": "/tmp",
    "HostConfig": {
        "Annotations": {"org.example": "x"},
        "Binds": ["named:/named"],
        "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]},
        "Mounts": [
            {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o700}},
            {"Type": "volume", "Source": "second", "Target": "/second", "ReadOnly": True, "Consistency": "default",
             "VolumeOptions": {"NoCopy": True, "Labels": {"l": "m"}, "DriverConfig": {"Name": "local"}}},
            {"Type": "bind", "Source": "/tmp", "Target": "/bound", "ReadOnly": True, "BindOptions": {"Propagation": "rprivate"}},
        ],
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2},
        "Memory": 64 << 20,
        "PidsLimit": 50,
        "NanoCpus": 500_000_000,
        "Ulimits": [{"Name": "nofile", "Soft": 64, "Hard": 64}],
        "Sysctls": {"net.ipv4.ip_forward": "1"},
        "Tmpfs": {"/tt": "size=1m"},
        "Init": True,
        "NetworkMode": "app",
        "CapAdd": ["NET_ADMIN"],
        "ExtraHosts": ["other:10.0.0.1"],
    },
    "NetworkingConfig": {"EndpointsConfig": {"app": {"Aliases": ["full"], "IPAMConfig": {"IPv4Address": "10.213.7.9"}}}},
}  # fmt: skip
_NETWORK = {
    "Name": "app",
    "Labels": {"a": "b"},
    "Options": {"com.docker.network.driver.mtu": "1400"},
    "IPAM": {
        "Config": [
            {
                "Subnet": "10.213.7.0/24",
                "IPRange": "10.213.7.128/25",
                "Gateway": "10.213.7.1",
                "AuxiliaryAddresses": {"router": "10.213.7.200"},
            }
        ]
    },
}
_BUILD = b"FROM busybox\nRUN true\nENV A=b\nEXPOSE 80\nHEALTHCHECK --interval=1s --timeout=1s --retries=1 CMD true\nVOLUME /v\n"


class World:
    """An engine with containers, networks, volumes, images and execs in many states."""

    def __init__(self, engine: EngineProcess, registry_address: str) -> None:
        self.engine = engine
        self.registry = registry_address
        self.containers = ("full", "created", "exited", "failed", "host", "terminal", "paused")
        self.execs: list[str] = []

    def ask(self, method: str, path: str, body: Any = None, version: str = NEWEST, **options: Any) -> Answer:
        """One request of one version."""
        return ask(self.engine.socket, method, f"/v{version}{path}", body, **options)

    def made(self, method: str, path: str, body: Any = None) -> Any:
        """A request that has to succeed."""
        answer = self.ask(method, path, body)
        assert answer.status < 300, (path, answer.status, answer.body)
        return answer.document if answer.body else None

    def fill(self) -> None:
        """Make everything."""
        engine = self.engine
        engine.add_busybox()
        self.made("POST", "/networks/create", _NETWORK)
        self.made("POST", "/networks/create", {"Name": "inside", "Internal": True, "Attachable": True})
        self.made("POST", "/containers/create?name=full", _FULL)
        self.made("POST", "/containers/full/start")
        engine.ok("create", "--name", "created", "-it", "busybox")
        assert engine.docker("run", "--name", "exited", "busybox", "sh", "-c", "echo out; exit 3").returncode == 3
        assert engine.docker("run", "--name", "failed", "busybox", "nosuchprogram").returncode == 127
        engine.ok("run", "-d", "--name", "host", "--network", "host", "busybox", "sleep", "1000")
        engine.ok("run", "-d", "--name", "paused", "--pid", "container:host", "-P", "--expose", "80", "busybox", "sleep", "1000")
        engine.ok("pause", "paused")
        engine.ok("run", "-dit", "--name", "terminal", "--mac-address", "02:42:0a:00:00:09", "busybox")
        engine.ok("exec", "full", "sh", "-c", "echo new >/root/new; rm /bin/yes; echo changed >>/etc/passwd")
        engine.ok("exec", "-d", "full", "sleep", "1000")
        self.execs = list(self.made("GET", "/containers/full/json")["ExecIDs"])
        self.execs.append(self.made("POST", "/containers/full/exec", {"Cmd": ["true"], "AttachStdout": True})["Id"])
        engine.ok("build", "-q", "-t", "built", "-", input=_BUILD)
        with tempfile.TemporaryDirectory(prefix="berth-test-") as directory:
            engine.ok("load", input=layout(Path(directory, "oci")).tar())
        engine.ok("create", "--name", "other", "--platform", f"linux/{OTHER}", "multi")
        engine.ok("tag", "built", f"{self.registry}/team/app:1")
        engine.ok("push", f"{self.registry}/team/app:1")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if shutil.which("docker-registry") is None:
        pytest.skip("needs Debian's docker-registry")
    engine = EngineProcess()
    with leak.nothing_left(engine.snapshot), registry(tmp_path_factory.mktemp("schema") / "registry") as address:
        engine.start()
        try:
            made = World(engine, address)
            made.fill()
            yield made
            assert "internal error" not in engine.log_text()
            assert "Traceback" not in engine.log_text()
            engine.ok("rm", "-fv", *engine.ok("ps", "-aq").split())
            engine.ok("network", "prune", "-f")
        finally:
            engine.shut_down()


class Visit:
    """Asks an engine everything in one version, and notes what is wrong."""

    def __init__(self, world: World, version: str) -> None:
        self.world = world
        self.schema: ApiSchema = api_schema(version)
        self.version = version
        self.problems: list[str] = []
        self.documents: dict[str, list[Any]] = defaultdict(list)

    def ask(self, operation: str, query: str = "", body: Any = None, *, kind: str = "application/json", **names: str) -> Any:
        """Ask with the path's names filled in; the answer has to be a success, and valid. None in versions without it."""
        if operation not in self.schema.operations:
            return None
        method, path = operation.split(" ")
        for name, value in names.items():
            path = path.replace("{" + name + "}", value)
        answer = self.world.ask(method, path + query, body, self.version, kind=kind)
        where = f"{method} {path}{query}"
        if answer.status >= 400:
            self.problems.append(f"{where}: {answer.status} {answer.body[:200]!r}")
            return None
        self._check(where, self.schema.operations[operation], answer)
        return answer.document if _is_json(answer) and answer.body and str(operation) not in _LINES else answer.body

    def _check(self, where: str, operation: Operation, answer: Answer) -> None:
        name = str(operation)
        found: list[str] = []
        documents: list[Any] = []
        if str(answer.status) not in operation.responses:
            found = [f"status {answer.status} is none of {', '.join(operation.responses)}"]
        elif name in _LINES:
            documents = answer.lines
            schema = _LINES[name] or operation.responses["200"].get("schema", {})
            found = [text for line in documents for text in self.schema.mismatches(schema, line)] if documents else ["no line"]
        elif "schema" in operation.responses[str(answer.status)] and _is_json(answer):
            documents = [answer.document]
            found = self.schema.problems(name, answer.status, documents[0])
        self.documents[name] += documents
        self.problems += [f"{where} {text}" for text in found if not _excused(text)]
        if answer.headers.get("api-version") != NEWEST:
            self.problems.append(f"{where}: no Api-Version header")

    def everything(self) -> None:
        """All operations that succeed on an engine like this one."""
        self._look()
        self._containers()
        self._networks_and_volumes()
        self._images()

    def _look(self) -> None:
        for name in self.world.containers:
            for operation in ("GET /containers/{id}/json", "GET /containers/{id}/changes", "GET /containers/{id}/export"):
                self.ask(operation, id=name)
            self.ask("GET /containers/{id}/json", "?size=1", id=name)
            self.ask("GET /containers/{id}/stats", "?stream=0&one-shot=1", id=name)
            self.ask("GET /containers/{id}/logs", "?stdout=1&stderr=1&timestamps=1&tail=2", id=name)
        for name in ("full", "host", "paused"):
            self.ask("GET /containers/{id}/top", id=name)
        for identifier in self.world.execs:
            self.ask("GET /exec/{id}/json", id=identifier)
        self.ask("GET /containers/json", "?all=1&size=1")
        self.ask("GET /containers/json")
        for operation in ("GET /_ping", "HEAD /_ping", "GET /info", "GET /version", "GET /system/df", "GET /plugins"):
            self.ask(operation)
        self.ask("GET /system/df", "?type=image&type=volume")
        self.ask("GET /system/df", "?verbose=1")
        self.ask("GET /events", f"?since=0&until={int(time.time())}")
        self.ask("POST /auth", body={"serveraddress": self.world.registry, "username": "u", "password": "p"})

    def _containers(self) -> None:
        body = {"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}}
        made = self.ask("POST /containers/create", "?name=one", body)
        if made is None:
            return
        one = made["Id"]
        self.ask("POST /containers/{id}/start", id=one)
        self.ask("POST /containers/{id}/resize", "?h=10&w=10", id="terminal")
        self.ask("POST /containers/{id}/update", body={"CpuShares": 500}, id=one)
        for operation in ("pause", "unpause"):
            self.ask("POST /containers/{id}/" + operation, id=one)
        self.ask("POST /containers/{id}/restart", "?t=0", id=one)
        self.ask("POST /containers/{id}/rename", "?name=two", id=one)
        self._exec(one)
        self.ask("GET /containers/{id}/archive", "?path=/etc", id=one)
        self.ask("HEAD /containers/{id}/archive", "?path=/etc", id=one)
        self.ask("PUT /containers/{id}/archive", "?path=/tmp", busybox_tar(), kind="application/x-tar", id=one)
        self.ask("POST /containers/{id}/kill", id=one)
        self.ask("POST /containers/{id}/wait", id=one)
        self.ask("POST /containers/{id}/stop", id=one)
        image = self.ask("POST /commit", f"?container={one}&repo=committed&pause=0", {"Labels": {"x": "y"}})
        if image is not None:
            self.ask("DELETE /images/{name}", name="committed")
        self.ask("DELETE /containers/{id}", "?v=1", id=one)
        self.ask("POST /containers/prune", "?filters=%7B%22label%22%3A%5B%22none%22%5D%7D")

    def _exec(self, container: str) -> None:
        body = {"Cmd": ["sleep", "1000"], "AttachStdout": True, "Tty": True}
        made = self.ask("POST /containers/{id}/exec", body=body, id=container)
        if made is not None:
            self.ask("POST /exec/{id}/start", body={"Detach": True}, id=made["Id"])
            self.ask("POST /exec/{id}/resize", "?h=10&w=10", id=made["Id"])

    def _networks_and_volumes(self) -> None:
        self.ask("GET /networks")
        for name in ("app", "inside", "bridge", "host", "none"):
            self.ask("GET /networks/{id}", "?verbose=1&scope=local", id=name)
        made = self.ask("POST /networks/create", body={"Name": "one", "CheckDuplicate": True})
        if made is not None:
            self.ask("POST /networks/{id}/connect", body={"Container": "created"}, id=made["Id"])
            self.ask("POST /networks/{id}/disconnect", body={"Container": "created", "Force": True}, id=made["Id"])
            self.ask("DELETE /networks/{id}", id=made["Id"])
        self.ask("POST /networks/prune", "?filters=%7B%22label%22%3A%5B%22none%22%5D%7D")
        self.ask("GET /volumes")
        options = {"type": "tmpfs", "device": "tmpfs"}
        self.ask("POST /volumes/create", body={"Name": "one", "Labels": {"a": "b"}, "DriverOpts": options})
        self.ask("GET /volumes/{name}", name="one")
        self.ask("DELETE /volumes/{name}", name="one")
        self.ask("POST /volumes/prune", "?filters=%7B%22label%22%3A%5B%22none%22%5D%7D")

    def _images(self) -> None:
        remote = f"{self.world.registry}/team/app"
        self.ask("GET /images/json", "?all=1&shared-size=1&digests=1&manifests=1")
        self.ask("GET /images/{name}/json", "?manifests=1", name="multi")
        self.ask("GET /images/{name}/attestations", "?statement=1", name="multi")
        for name in ("busybox", "built", f"{remote}:1"):
            self.ask("GET /images/{name}/json", name=name)
            self.ask("GET /images/{name}/history", name=name)
        self.ask("POST /images/{name}/tag", "?repo=again&tag=2", name="busybox")
        self.ask("DELETE /images/{name}", "?noprune=1", name="again:2")
        saved = self.ask("GET /images/{name}/get", name="busybox")
        self.ask("GET /images/get", "?names=busybox&names=built")
        if isinstance(saved, bytes):
            self.ask("POST /images/load", "?quiet=1", saved, kind="application/x-tar")
        self.ask("GET /distribution/{name}/json", name=f"{remote}:1")
        self.ask("POST /images/{name}/push", "?tag=1", name=remote)
        self.ask("POST /images/create", f"?fromImage={remote}&tag=1")
        self.ask("POST /images/prune", "?filters=%7B%22label%22%3A%5B%22none%22%5D%7D")
        self.ask("POST /build", "?q=1&remote=", _context(), kind="application/x-tar")
        self.ask("POST /build/prune", "?reserved-space=100000000")


def _excused(problem: str) -> bool:
    return problem in _NULL_AS_DOCKER or _WRONG_IN_SCHEMA.search(problem) is not None


def _is_json(answer: Answer) -> bool:
    return answer.headers.get("content-type") == "application/json"


def _context() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("Dockerfile")
        info.size = len(_BUILD)
        tar.addfile(info, io.BytesIO(_BUILD))
    return out.getvalue()


@pytest.fixture(scope="module")
def visits() -> dict[str, Visit]:
    """What each version was answered, for the tests that look at the answers as a whole."""
    return {}


@pytest.mark.parametrize("version", VERSIONS)
def test_answers_are_what_the_version_promises(world: World, visits: dict[str, Visit], version: str) -> None:
    visit = visits[version] = Visit(world, version)
    visit.everything()
    assert not visit.problems, "\n".join(visit.problems)
    asked = set(visit.documents) | set(_ELSEWHERE) | set(_NOT_IMPLEMENTED)
    left = [name for name in visit.schema.operations if name not in asked and not _is_swarm_or_plugin(name)]
    assert not left, f"never asked for: {left}"


def _is_swarm_or_plugin(operation: str) -> bool:
    return operation.split("/")[1] in (*_SWARM, "plugins")


@pytest.mark.parametrize("version", VERSIONS)
def test_no_promised_field_is_missing(world: World, visits: dict[str, Visit], version: str) -> None:
    """Each property of each answer's schema is there in one of the answers; of those that are not, the list says why."""
    visit = visits.get(version)
    if visit is None:
        visit = visits[version] = Visit(world, version)
        visit.everything()
    missing: set[str] = set()
    for name, documents in visit.documents.items():
        responses = visit.schema.operations[name].responses
        schema = _LINES.get(name) or next((r["schema"] for code, r in responses.items() if code < "300" and "schema" in r), None)
        if schema is not None and documents:
            missing |= _never_seen(visit.schema, schema, documents, name)
    left = sorted(place for place in missing if not any(re.search(pattern, place) for pattern in _LEFT_OUT))
    assert not left, "\n".join(left)


def _never_seen(schema: ApiSchema, part: dict[str, Any], values: list[Any], place: str) -> set[str]:
    while "$ref" in part:
        part = schema.document["definitions"][part["$ref"].rpartition("/")[2]]
    if part.get("type") == "array":
        return _never_seen(schema, part["items"], [item for value in values for item in value or []], place + "[]")
    if isinstance(part.get("additionalProperties"), dict):
        inner = [item for value in values for item in (value or {}).values()]
        return _never_seen(schema, part["additionalProperties"], inner, place + "{}")
    objects = [value for value in values if isinstance(value, dict)]
    found: set[str] = set()
    for name, sub in schema.properties(part).items() if objects else ():
        have = [value[name] for value in objects if name in value]
        found |= _never_seen(schema, sub, have, f"{place}.{name}") if have else {f"{place}.{name}"}
    return found


_BODIES = {
    "POST /networks/{id}/connect": {"Container": "nosuch"},
    "POST /networks/{id}/disconnect": {"Container": "nosuch"},
    "POST /containers/{id}/exec": {"Cmd": ["true"]},
}
_QUERIES = {
    "archive": "?path=/etc",
    "logs": "?stdout=1",
    "attach": "?stream=1&stdout=1",
    "ws": "?stream=1&stdout=1",
    "rename": "?name=x",
    "tag": "?repo=x",
    "resize": "?h=1&w=1",
}


def _concrete(operation: Operation, name: str) -> str:
    return re.sub(r"\{[^}]*\}", name, operation.path) + _QUERIES.get(operation.path.rpartition("/")[2], "")


@pytest.mark.parametrize("version", (VERSIONS[0], NEWEST))
def test_what_does_not_exist_is_not_found(world: World, version: str) -> None:
    schema = api_schema(version)
    problems = []
    for operation in schema.operations.values():
        name = str(operation)
        if "{" not in name or operation.path.split("/")[1] in (*_SWARM, "distribution"):
            continue
        body = None if operation.method in ("GET", "HEAD", "DELETE") else _BODIES.get(name, {})
        answer = world.ask(operation.method, _concrete(operation, "nosuch"), body, version)
        wanted = 501 if name in _NOT_IMPLEMENTED else 404
        if name == "POST /images/{name}/push":
            # As with Docker, the stream has begun by then.
            assert answer.status == 200 and "nosuch" in answer.lines[-1]["errorDetail"]["message"], answer.body
            continue
        if answer.status != wanted:
            problems.append(f"{name}: {answer.status} {answer.body[:100]!r}")
        elif operation.method != "HEAD":
            problems += [f"{name}: {text}" for text in schema.problems(name, answer.status, answer.document)]
            if answer.document["message"] in ("page not found", ""):
                problems.append(f"{name}: no words of its own")
    assert not problems, "\n".join(problems)


def test_swarm_and_plugins_answer_as_a_node_that_has_neither(world: World) -> None:
    schema = api_schema()
    answers = {}
    for operation in schema.operations.values():
        if _is_swarm_or_plugin(str(operation)):
            body = {} if operation.method == "POST" else None
            answers[str(operation)] = world.ask(operation.method, _concrete(operation, "nosuch"), body)
    for name, answer in answers.items():
        if name == "GET /plugins":
            assert (answer.status, answer.document) == (200, [])
            continue
        expected = _NOT_IMPLEMENTED.get(name) or (503 if name.split("/")[1] in _SWARM else 404)
        assert answer.status == expected, (name, answer.body)
        assert not schema.problems(name, answer.status, answer.document)
    assert "This node is not a swarm manager." in answers["GET /services"].document["message"]
    assert answers["POST /swarm/leave"].document["message"] == "This node is not part of a swarm"
    assert world.ask("PATCH", "/swarm").status == 404


def test_every_filter_of_the_schema_is_known_and_others_are_refused(world: World) -> None:
    problems = []
    for version in VERSIONS:
        for operation in api_schema(version).operations.values():
            if "filters" not in operation.query or _is_swarm_or_plugin(str(operation)) or operation.path == "/images/search":
                continue
            query = "&until=1" if operation.path == "/events" else ""
            for name in (*operation.query["filters"]["x-filters"], "nonsense"):
                # A value that is wrong for most of them: what matters is that it is the value that is refused, if anything.
                filters = f'{{"{name}":["zz"]}}'.replace('"', "%22")
                answer = world.ask(operation.method, f"{operation.path}?filters={filters}{query}", None, version)
                unknown = answer.status == 400 and answer.document["message"] == f"invalid filter '{name}'"
                if unknown != (name == "nonsense"):
                    problems.append(f"{version} {operation} {name}: {answer.status} {answer.body[:100]!r}")
    assert not problems, "\n".join(problems)
