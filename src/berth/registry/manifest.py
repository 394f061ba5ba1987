"""Manifests, indexes and configurations as they come from registries and archives: foreign, so read with suspicion.

Size and depth are limited, digests are checked by grammar, and a document that could be read as two kinds is refused
(CVE-2021-41190): its fields and its media type have to agree with each other and with the Content-Type it came with.
"""

from __future__ import annotations

import platform as host
import re
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from berth.errors import DataLoss, InvalidArgument, NotFound, NotImplementedKind
from berth.model.descriptor import (
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    INDEXES,
    MANIFESTS,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    Platform,
)
from berth.model.digest import parse_digest
from berth.model.malformed import MALFORMED
from berth.wire.document import ImageDocument, IndexDocument, ManifestDocument

MAX_MANIFEST = 4 * 1024 * 1024
MAX_CONFIG = 8 * 1024 * 1024
MAX_LAYERS = 256
MAX_INDEX = 1024
_MAX_BLOB = 1 << 43
LAYER_TYPES = frozenset({OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, DOCKER_LAYER, DOCKER_LAYER_GZIP})
ACCEPT = (OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST)
_SCHEMA1 = tuple(f"application/vnd.docker.distribution.manifest.v1+{kind}" for kind in ("json", "prettyjws"))
_GENERIC = frozenset({"", "application/json", "text/plain", "application/octet-stream"})
_ARCHITECTURES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386", "i386": "386"}
_COMPONENT = re.compile("[A-Za-z0-9_-]+")
_WRITTEN = "it is written os/architecture, for example linux/amd64"
# One word alone has to be one of these (Go's GOOS and GOARCH).
_SYSTEMS = frozenset({
    "aix", "android", "darwin", "dragonfly", "freebsd", "hurd", "illumos", "ios", "js", "linux", "nacl", "netbsd", "openbsd",
    "plan9", "solaris", "windows", "zos",
})  # fmt: skip
_KNOWN_ARCHITECTURES = frozenset({
    "386", "amd64", "amd64p32", "arm", "armbe", "arm64", "arm64be", "loong64", "mips", "mipsle", "mips64", "mips64le",
    "mips64p32", "mips64p32le", "ppc", "ppc64", "ppc64le", "riscv", "riscv64", "s390", "s390x", "sparc", "sparc64", "wasm",
})  # fmt: skip

T = TypeVar("T")


class _Shape(Struct, frozen=True, rename="camel"):
    schema_version: int = 0
    media_type: str | None = None
    config: msgspec.Raw = msgspec.Raw()
    layers: msgspec.Raw = msgspec.Raw()
    manifests: msgspec.Raw = msgspec.Raw()
    fs_layers: msgspec.Raw = msgspec.Raw()

    def has(self, field: str) -> bool:
        """Whether the document has the field, and it is not null."""
        return bytes(getattr(self, field)) not in (b"", b"null")


def decode(data: bytes, kind: type[T], what: str) -> T:
    """JSON as `kind`. DataLoss for what is no such document, however deep or odd it is."""
    try:
        return msgspec.json.decode(data, type=kind)
    except MALFORMED as error:
        raise DataLoss(f"the {what} is not valid: {error}") from error


def parse_manifest(data: bytes, content_type: str = "") -> ManifestDocument | IndexDocument:
    """A manifest or an index. `content_type` is the header it came with, or the media type of the descriptor that named it."""
    if len(data) > MAX_MANIFEST:
        raise DataLoss(f"the manifest has {len(data)} bytes, more than the {MAX_MANIFEST} that are allowed")
    shape = decode(data, _Shape, "manifest")
    declared = content_type.partition(";")[0].strip().lower()
    if declared in _SCHEMA1 or shape.schema_version == 1 or shape.has("fs_layers"):
        raise NotImplementedKind(
            "the image has a manifest of version 2, schema 1, which is no longer supported: push it again with a newer tool"
        )
    media_type = _media_type(shape, declared)
    if media_type in INDEXES:
        index = decode(data, IndexDocument, "index")
        _check_all(index.manifests, MAX_INDEX, "index")
        return index
    manifest = decode(data, ManifestDocument, "manifest")
    _check_all([manifest.config, *manifest.layers], MAX_LAYERS + 1, "manifest")
    return manifest


def _media_type(shape: _Shape, declared: str) -> str:
    is_manifest = shape.has("layers") or shape.has("config")
    if is_manifest and shape.has("manifests"):
        raise DataLoss("the manifest is ambiguous: it has both layers and manifests, so it is refused")
    if not is_manifest and not shape.has("manifests"):
        raise DataLoss("the manifest has neither layers nor manifests")
    if declared not in _GENERIC and shape.media_type is not None and shape.media_type != declared:
        raise DataLoss(f"the manifest says it is {shape.media_type!r}, but it was served as {declared!r}")
    found = shape.media_type or (declared if declared not in _GENERIC else "")
    found = found or (OCI_MANIFEST if is_manifest else OCI_INDEX)
    if found not in (MANIFESTS if is_manifest else INDEXES):
        raise DataLoss(f"the manifest's media type {found!r} does not fit its content")
    return found


def media_type_of(document: ManifestDocument | IndexDocument, content_type: str = "") -> str:
    """The media type of a parsed document, by its own word, the header's, or its fields."""
    declared = content_type.partition(";")[0].strip().lower()
    fallback = OCI_INDEX if isinstance(document, IndexDocument) else OCI_MANIFEST
    return document.media_type or (declared if declared in ACCEPT else fallback)


def _check_all(descriptors: list[Descriptor], limit: int, what: str) -> None:
    if len(descriptors) > limit:
        raise DataLoss(f"the {what} has {len(descriptors)} entries, more than the {limit} that are allowed")
    for descriptor in descriptors:
        check_digest(descriptor.digest)
        if not 0 <= descriptor.size <= _MAX_BLOB:
            raise DataLoss(f"the {what} gives {descriptor.digest} the impossible size {descriptor.size}")


def check_digest(text: str) -> None:
    """DataLoss for a digest in a foreign document that is not by the grammar."""
    try:
        parse_digest(text)
    except InvalidArgument as error:
        raise DataLoss(error.message) from error


def check_layers(manifest: ManifestDocument) -> None:
    """That every layer is a filesystem layer of a kind that can be unpacked here."""
    for layer in manifest.layers:
        if "foreign" in layer.media_type or "nondistributable" in layer.media_type:
            raise NotImplementedKind(f"the layer {layer.digest} is not distributable: such images do not run on Linux")
        if layer.media_type not in LAYER_TYPES:
            raise NotImplementedKind(f"unsupported media type {layer.media_type!r} of a layer: this is not a container image")


def parse_config(data: bytes) -> ImageDocument:
    """An image's configuration."""
    if len(data) > MAX_CONFIG:
        raise DataLoss(f"the image's configuration has {len(data)} bytes, more than the {MAX_CONFIG} that are allowed")
    document = decode(data, ImageDocument, "image's configuration")
    if len(document.rootfs.diff_ids) > MAX_LAYERS:
        raise DataLoss(f"the image has {len(document.rootfs.diff_ids)} layers, more than the {MAX_LAYERS} that are allowed")
    for diff_id in document.rootfs.diff_ids:
        check_digest(diff_id)
    return document


def host_platform() -> Platform:
    """linux and this machine's architecture."""
    machine = host.machine()
    return Platform(architecture=_ARCHITECTURES.get(machine, machine), os="linux")


def parse_platform(text: str) -> Platform:
    """os[/arch[/variant]], or the JSON that newer clients send. Empty is the host's."""
    if not text:
        return host_platform()
    if text.startswith("{"):
        try:
            given: dict[str, Any] = msgspec.json.decode(text, type=dict[str, Any])
        except MALFORMED as error:
            raise InvalidArgument(f"invalid platform {text!r}: {error}") from error
        parts = [str(given.get(key) or "") for key in ("os", "architecture", "variant")]
    else:
        parts = _components(text)
    if not parts[0] or not all(_COMPONENT.fullmatch(part) for part in parts if part):
        raise InvalidArgument(f"invalid platform {text!r}: {_WRITTEN}")
    architecture = _ARCHITECTURES.get(parts[1], parts[1])
    return Platform(architecture=architecture or host_platform().architecture, os=parts[0], variant=parts[2])


def _components(text: str) -> list[str]:
    """The three parts of os[/arch[/variant]], or of an architecture alone. Errors are in Docker's words."""
    parts = text.split("/")
    if len(parts) > 3:
        raise InvalidArgument(f'"{text}": cannot parse platform specifier: invalid argument: {_WRITTEN}')
    for part in parts:
        if not _COMPONENT.fullmatch(part):
            raise InvalidArgument(
                f'"{part}" is an invalid component of "{text}": platform specifier component must match '
                f'"^[A-Za-z0-9_-]+$": invalid argument: {_WRITTEN}'
            )
    parts = [part.lower() for part in parts]
    if len(parts) > 1 or parts[0] in _SYSTEMS:
        return [*parts, "", ""][:3]
    if _ARCHITECTURES.get(parts[0], parts[0]) in _KNOWN_ARCHITECTURES:
        return ["linux", parts[0], ""]
    raise InvalidArgument(f'"{text}": unknown operating system or architecture: invalid argument: {_WRITTEN}')


def text_of(platform: Platform) -> str:
    """os/architecture[/variant]."""
    return f"{platform.os}/{platform.architecture}" + (f"/{platform.variant}" if platform.variant else "")


def matches(have: Platform, want: Platform) -> bool:
    """Whether an image for `have` is what was asked for. arm64 is arm64/v8."""
    if (have.os, have.architecture) != (want.os, want.architecture):
        return False
    normal = {"arm64": "v8"}.get(want.architecture, "")
    return not want.variant or (have.variant or normal) == want.variant or want.variant == normal == (have.variant or normal)


def choose(index: IndexDocument, want: Platform, name: str) -> Descriptor:
    """The entry for the platform. NotFound in Docker's words."""
    for entry in index.manifests:
        if entry.media_type in (MANIFESTS | INDEXES) and (entry.platform is None or matches(entry.platform, want)):
            if entry.platform is None and len(index.manifests) > 1:
                continue
            return entry
    raise NotFound(f"no matching manifest for {text_of(want)} in the manifest list entries: {name} is not made for it")


def verify(data: bytes, descriptor_digest: str, actual: str, what: str) -> bytes:
    """The data, or DataLoss when its digest is another."""
    if descriptor_digest != actual:
        raise DataLoss(f"{what} does not match its digest: expected {descriptor_digest}, got {actual} ({len(data)} bytes)")
    return data
