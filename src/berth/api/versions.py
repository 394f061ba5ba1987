"""API versions: which are spoken, and what differs between them.

Handlers speak the newest version only. `refuse_unknown` checks the version in the path; `ADAPTERS` are functions that
downgrade an answer for clients that asked for an older version, by route and by the version that dropped or changed it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from berth.errors import InvalidArgument

NEWEST = (1, 55)
OLDEST = (1, 40)
_VERSION = re.compile(r"v(\d+)\.(\d+)\Z")

Document = dict[str, Any]
Version = tuple[int, int]
Adapter = Callable[[Any, Version], Any]


def text(version: tuple[int, int]) -> str:
    """1.55."""
    return f"{version[0]}.{version[1]}"


def parse(component: str) -> tuple[int, int]:
    """The version from a path component such as v1.41, in Docker's words when it is out of range."""
    match = _VERSION.match(component)
    if match is None:
        raise InvalidArgument(f"invalid API version {component!r}")
    version = (int(match[1]), int(match[2]))
    if version < OLDEST:
        raise InvalidArgument(
            f"client version {text(version)} is too old. Minimum supported API version is {text(OLDEST)}, "
            "please upgrade your client to a newer version"
        )
    if version > NEWEST:
        raise InvalidArgument(f"client version {text(version)} is too new. Maximum supported API version is {text(NEWEST)}")
    return version


def _image(document: Document, version: Version) -> Document:
    """Manifests came in 1.48.

    Docker dropped an image's VirtualSize in 1.44. Container and ContainerConfig, dropped in 1.45, stay in every version:
    docker-compose 1.29 takes the newest version that the server offers and reads them all the same."""
    if version >= (1, 44):
        document.pop("VirtualSize", None)
    if version < (1, 48):
        document.pop("Descriptor", None)
        document.pop("Manifests", None)
    return document


def _images(document: list[Document], version: Version) -> list[Document]:
    """Descriptors came in 1.48, a version after the manifests that a client asks for."""
    for image in document if version < (1, 48) else ():
        image.pop("Descriptor", None)
        if version < (1, 47):
            image.pop("Manifests", None)
    return document


def _container(document: Document, version: Version) -> Document:
    """Before 1.45 an endpoint of a user-defined network had the container's short id among its aliases; limits of the kernel's
    own memory, which no kernel has any more, were told as not set."""
    networks = document.get("NetworkSettings", {}).get("Networks") or {}
    if version < (1, 45):
        for name, endpoint in networks.items():
            if name not in ("bridge", "host", "none"):
                endpoint["Aliases"] = list(dict.fromkeys([*(endpoint.get("Aliases") or []), document["Id"][:12]]))
    if "HostConfig" in document and version < (1, 52):
        document["HostConfig"] |= {"KernelMemoryTCP": 0} if version >= (1, 42) else {"KernelMemory": 0, "KernelMemoryTCP": 0}
    return document


def _containers(document: list[Document], version: Version) -> list[Document]:
    """Whether they are healthy came in 1.52; before, it was to be read in the status."""
    for container in document if version < (1, 52) else ():
        container.pop("Health", None)
    return document


def _usage(document: Document, version: Version) -> Document:
    """Its containers are those of their own list."""
    _containers(document.get("Containers") or [], version)
    return document


def _networks(document: list[Document], version: Version) -> list[Document]:
    """Up to 1.51 a list of networks had the place for their containers, though never any in it."""
    if version < (1, 52):
        for network in document:
            network["Containers"] = {}
    return document


def _info(document: Document, version: Version) -> Document:
    """What later versions no longer tell."""
    if version >= (1, 50):
        document.pop("BridgeNfIptables", None)
        document.pop("BridgeNfIp6tables", None)
    if version < (1, 49):
        document["RegistryConfig"] |= {"AllowNondistributableArtifactsCIDRs": [], "AllowNondistributableArtifactsHostnames": []}
        for name in ("ContainerdCommit", "RuncCommit", "InitCommit"):
            document[name]["Expected"] = document[name]["ID"]
    if version < (1, 52):
        document["KernelMemoryTCP"] = False
    if version < (1, 42):
        document |= {"KernelMemory": False, "ClusterStore": "", "ClusterAdvertise": ""}
    return document


ADAPTERS: dict[tuple[str, str], Adapter] = {
    ("GET", "/containers/json"): _containers,
    ("GET", "/containers/{id}/json"): _container,
    ("GET", "/images/json"): _images,
    ("GET", "/images/{name:.+}/json"): _image,
    ("GET", "/networks"): _networks,
    ("GET", "/info"): _info,
    ("GET", "/system/df"): _usage,
}
"""By method and path of the route."""
