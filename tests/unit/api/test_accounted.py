"""Nothing of a request is ignored in silence: each query parameter and each field of a body that a version of Docker's schema
has is read by the handler, or stands in a list here with the reason why it has no effect."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

import berth
from berth.api.route import Route
from berth.api.routes import absent, build, containers, exec, images, networks, system, usage, volumes
from berth.engine.containers.creation import CreateBody
from berth.engine.containers.execution import ExecBody
from berth.wire.container import ContainerConfig, HostConfig
from berth.wire.image import AuthConfig
from berth.wire.network import NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest
from berth.wire.volume import VolumeCreateRequest
from support.api_schema import VERSIONS, ApiSchema, Operation, api_schema

# Parameters that a handler does not look at, and why nobody misses them.
PARAMETERS = {
    ("POST /build", "rm"): "there are no containers between the steps that could be kept",
    ("POST /build", "forcerm"): "there are no containers between the steps that could be kept",
    ("GET /images/json", "digests"): "RepoDigests are always told",
    ("GET /images/json", "identity"): "nothing is known of signatures",
    ("GET /networks/{id}", "verbose"): "tells of a swarm's services",
    ("POST /containers/{id}/start", "detachKeys"): "nobody attaches with a start; Docker does not look at it either",
    ("POST /session", "*"): "refused as a whole",
    ("PUT /volumes/{name}", "*"): "refused as a whole",
}
_ABSENT = ("/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs", "/plugins")
BODIES: dict[str, Any] = {
    "POST /auth": AuthConfig,
    "POST /containers/create": CreateBody,
    "POST /containers/{id}/update": HostConfig,
    "POST /containers/{id}/exec": ExecBody,
    "POST /exec/{id}/start": ExecBody,
    "POST /commit": ContainerConfig,
    "POST /networks/create": NetworkCreateRequest,
    "POST /networks/{id}/connect": NetworkConnectRequest,
    "POST /networks/{id}/disconnect": NetworkDisconnectRequest,
    "POST /volumes/create": VolumeCreateRequest,
}
# Bodies that are a stream, or of what is refused as a whole.
_NO_FIELDS = ("POST /build", "POST /images/create", "POST /images/load", "PUT /containers/{id}/archive", "PUT /volumes/{name}")
# Fields that nothing looks at, and why nobody misses them.
FIELDS = {
    "args_escaped": "for Windows; told again by inspect",
    "container_id_file": "a note of the client's to itself; told again by inspect",
    "consistency": "a hint for macOS; told again by inspect",
    "endpoint_id": "an answer's field, which clients send back",
    "ip_prefix_len": "an answer's field, which clients send back",
    "ipv6_gateway": "an answer's field, which clients send back",
    "global_ipv6_address": "an answer's field, which clients send back",
    "global_ipv6_prefix_len": "an answer's field, which clients send back",
    "dns_names": "an answer's field, which clients send back",
    "image_options": "mounts of type image are refused",
    "device_ids": "requests for devices are refused",
    "check_duplicate": "a network's name is never given twice",
}
# Properties that are not even decoded.
UNDECODED = {
    "POST /auth.email": "registries have long stopped asking for it; Docker ignores it",
    "POST /commit.MacAddress": "an image has no address",
}


def _routes() -> list[Route]:
    engine: Any = SimpleNamespace(images=None, volumes=None, networks=None, containers=None, execs=None)
    builds: Any = None
    return [
        *absent.routes(),
        *build.routes(engine, builds),
        *containers.routes(engine),
        *exec.routes(engine),
        *images.routes(engine),
        *networks.routes(engine),
        *system.routes(engine, lambda _stop: None),
        *usage.routes(engine, builds),
        *volumes.routes(engine),
    ]


def _shape(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path)


def _handler(found: list[Route], operation: Operation) -> Any:
    for route in found:
        if route.method == operation.method and _shape(route.path) == _shape(operation.path):
            return route.handler
    raise AssertionError(f"no route for {operation}")


def _words(function: Any, seen: set[Any]) -> Iterator[str]:
    """All strings in the code of a handler and of what it calls inside berth.api."""
    function = getattr(function, "__func__", function)
    if not isinstance(function, types.FunctionType) or function in seen or not function.__module__.startswith("berth.api"):
        return
    seen.add(function)
    codes = [function.__code__]
    for cell in function.__closure__ or ():
        yield from _words(cell.cell_contents, seen)
    while codes:
        code = codes.pop()
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                codes.append(constant)
            elif isinstance(constant, str):
                yield constant
            elif isinstance(constant, tuple):
                yield from (word for word in constant if isinstance(word, str))
        for name in code.co_names:
            if name in function.__globals__:
                yield from _words(function.__globals__[name], seen)
            owner = function.__globals__.get(function.__qualname__.split(".")[0])
            if isinstance(owner, type):
                yield from _words(getattr(owner, name, None), seen)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_operation_has_a_route_and_every_parameter_a_reader(version: str) -> None:
    found = _routes()
    ignored = []
    for operation in api_schema(version).operations.values():
        read = set(_words(_handler(found, operation), set())) | {"filters"}
        if operation.path.startswith(_ABSENT):
            continue
        for name in operation.query:
            listed = (str(operation), name) in PARAMETERS or (str(operation), "*") in PARAMETERS
            if (name in read) == listed:
                ignored.append(f"{operation} {name}" + (" is in the list, and read" if listed else ""))
    assert not ignored, "\n".join(ignored)


def _uses() -> str:
    top = Path(berth.__file__).parent
    folders = ("api", "build", "engine", "network", "registry")
    return "\n".join(path.read_text() for folder in folders for path in sorted((top / folder).rglob("*.py")))


def _structs(kind: Any) -> Iterator[type[msgspec.Struct]]:
    """The Structs that a type is made of."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
    for part in getattr(kind, "__args__", ()):
        yield from _structs(part)


def _fields(schema: ApiSchema, part: dict[str, Any], kind: Any, place: str) -> Iterator[tuple[str, str]]:
    """(place, attribute) of each property that a body may have; an attribute of "" is a property that is not decoded."""
    if "$ref" in part:
        part = schema.document["definitions"][part["$ref"].rpartition("/")[2]]
    if part.get("type") == "array":
        yield from _fields(schema, part["items"], kind, place + "[]")
    if isinstance(part.get("additionalProperties"), dict):
        yield from _fields(schema, part["additionalProperties"], kind, place + "{}")
    struct = next(_structs(kind), None)
    names = {field.encode_name: field for field in msgspec.structs.fields(struct)} if struct is not None else {}
    for name, sub in schema.properties(part).items():
        if struct is None:
            return
        field = names.get(name)
        yield f"{place}.{name}", field.name if field else ""
        if field is not None:
            yield from _fields(schema, sub, field.type, f"{place}.{name}")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_field_of_a_body_is_read_somewhere(version: str) -> None:
    schema, text = api_schema(version), _uses()
    ignored = []
    for operation in schema.operations.values():
        if operation.body is None or operation.path.startswith(_ABSENT):
            continue
        if str(operation) in _NO_FIELDS:
            continue
        for place, attribute in _fields(schema, operation.body, BODIES[str(operation)], str(operation)):
            if place in UNDECODED:
                continue
            if not attribute:
                ignored.append(f"{place} is not decoded")
            elif attribute not in FIELDS and not re.search(rf"\.{attribute}\b|[\"']{attribute}[\"']", text):
                ignored.append(f"{place} is not used")
    assert not ignored, "\n".join(ignored)
