"""Every parser of foreign content, fed with whole documents that were damaged: only berth's own errors come out, and soon.

Registries send manifests, configurations, challenges, errors and tag lists; anybody makes tars, compressed streams, archives of
images, build contexts, Dockerfiles, ignore files, Compose files; a container writes its accounts files.
"""

from __future__ import annotations

import asyncio
import base64
import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.build.context import unpack
from berth.build.dockerfile.parser import parse as parse_dockerfile
from berth.compose.load.project import load
from berth.compose.load.source import LoadOptions
from berth.engine.images.archive import spooled
from berth.engine.images.load import _read
from berth.errors import BerthError, InvalidArgument, NotFound
from berth.model.descriptor import OCI_LAYER_GZIP, OCI_MANIFEST
from berth.model.digest import digest_of, parse_digest
from berth.model.filters import Filters
from berth.model.ignore import IgnoreRules
from berth.model.reference import parse as parse_reference
from berth.registry.auth import parse_challenges, token_request
from berth.registry.credential import Credentials, decode_auth, decode_config
from berth.registry.endpoint import Endpoint
from berth.registry.manifest import check_layers, choose, decode, host_platform, parse_config, parse_manifest, parse_platform
from berth.registry.refusal import refusal
from berth.runtime import account, seccomp_profile
from berth.storage.compression import expand
from berth.storage.space import translated
from berth.storage.tar_reader import Source, TarReader
from berth.storage.unpack import Unpacker
from berth.wire.document import IndexDocument
from support.stores import archive, stream

# What is put in, beside random bytes: what such formats count, quote, end and nest with.
PIECES = [
    b"\0", b"\n", b"\r\n", b"\xff\xfe", b"\xc3\x28", b"{", b"[" * 2000, b'"', b"null", b"-1", b"1e400", b"18446744073709551616",
    b"..", b"../../etc/passwd", b"/", b"sha256:", b"a" * 300, b"${", b"${A:-${B:?x}}", b"\\", b"<<E", b"&a [*a,*a]", b":", b"=",
    b"!!python/object", b"77777777777", b"\x80\0\0\0\0\0\0\0", b"path=", b"30 atime=x\n", b"GNU.sparse.map=0,1", b"--from=", b"#",
    b"'", b"\x1f\x8b\x08", b" ",
]  # fmt: skip
Change = tuple[int, int, bytes]
CHANGES = st.lists(
    st.tuples(st.integers(0, 1 << 20), st.sampled_from([0, 0, 1, 4, 512]), st.sampled_from(PIECES) | st.binary(max_size=12)),
    max_size=4,
)


def damaged(data: bytes, changes: list[Change]) -> bytes:
    """Some bytes taken out, others put in."""
    for place, gone, new in changes:
        at = place % (len(data) + 1)
        data = data[:at] + new + data[at + gone :]
    return data


def tar_of(form: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, kind, link in (
            ("d", tarfile.DIRTYPE, ""), ("d/" + "long" * 60, tarfile.REGTYPE, ""), ("d/l", tarfile.SYMTYPE, "../x" * 40),
            ("h", tarfile.LNKTYPE, "d/l"), ("c", tarfile.CHRTYPE, ""), (".wh.gone", tarfile.REGTYPE, ""),
            ("p", tarfile.FIFOTYPE, ""),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mtime, info.uid = kind, link, 1.5, 70_000
            info.size = 700 if kind == tarfile.REGTYPE else 0
            if form == tarfile.PAX_FORMAT:
                info.pax_headers = {"SCHILY.xattr.user.a": "v", "comment": "x"}
            tar.addfile(info, io.BytesIO(b"x" * 700) if info.size else None)
    return out.getvalue()


TARS = [tar_of(form) for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)]
D = digest_of(b"x")
PLATFORM = {"os": "linux", "architecture": "amd64"}
BLOB = {"mediaType": OCI_LAYER_GZIP, "digest": D, "size": 1, "annotations": {"a": "b"}, "platform": PLATFORM}
CONFIG = {
    "architecture": "amd64", "os": "linux", "created": "2024-01-02T03:04:05.678Z", "rootfs": {"type": "layers", "diff_ids": [D]},
    "config": {"Env": ["A=b"], "Cmd": ["x"], "Labels": {"a": "b"}, "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/v": {}},
               "User": "1:2", "Healthcheck": {"Test": ["CMD", "x"], "Interval": 1000000000},
               "WorkingDir": "/w", "StopSignal": "SIGTERM"},
    "history": [{"created": "2024-01-02T03:04:05Z", "created_by": "x", "empty_layer": True}],
}  # fmt: skip
MANIFESTS = [
    {"schemaVersion": 2, "config": BLOB, "layers": [BLOB, BLOB]},
    {"schemaVersion": 2, "manifests": [{**BLOB, "mediaType": OCI_MANIFEST}]},
]


def documents(*values: Any) -> list[bytes]:
    return [json.dumps(value).encode() for value in values]


def manifest(data: bytes) -> None:
    document = parse_manifest(data)
    if isinstance(document, IndexDocument):
        choose(document, host_platform(), "x")
    else:
        check_layers(document)


def token(data: bytes) -> None:
    for challenge in parse_challenges([data.decode("latin-1")]):
        token_request(challenge, Endpoint("registry.example.com"), ("repository:a:pull",), Credentials(username="u"))


def refused(data: bytes) -> None:
    assert isinstance(refusal(404, data), BerthError)


def text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def accounts(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("passwd", "group"):
            Path(folder, name).write_bytes(data)
        for user in ("web:web", "1000", "0:5"):
            with suppress(account.UnknownAccount):
                found = account.resolve(user, ["web", "7"], f"{folder}/passwd", f"{folder}/group")
                assert all(0 <= number <= 2147483647 for number in (found.uid, found.gid, *found.groups))


def ignored(data: bytes) -> None:
    rules = IgnoreRules.parse(text(data))
    for path in ("a", "a/b.txt", "node_modules/x/y", ".git"):
        rules.excludes(path)
        rules.prunes(path)


def reference(data: bytes) -> None:
    found = parse_reference(text(data))
    # What is accepted is made of plain names: it becomes a part of addresses and of keys.
    assert ".." not in found.repository.split("/") and found.repository.isascii() and "\n" not in found.repository
    assert found.tag is None or "/" not in found.tag


PARSERS: dict[str, tuple[Callable[[bytes], object], list[bytes]]] = {
    "manifest": (manifest, documents(*MANIFESTS)),
    "configuration": (parse_config, documents(CONFIG)),
    "challenge": (token, [b'Bearer realm="https://auth.example.com/token",service="s",scope="repository:a:pull"']),
    "refusal": (refused, documents({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "m", "detail": {"a": 1}}]})),
    "tags": (lambda data: decode(data, dict[str, Any], "tags"), documents({"name": "a", "tags": ["b"]})),
    "credentials": (lambda data: decode_auth(text(data)), [base64.urlsafe_b64encode(b'{"username":"a","password":"b"}')]),
    "all credentials": (lambda data: decode_config(text(data)), [base64.urlsafe_b64encode(b'{"example.com":{"auth":"YTpi"}}')]),
    "reference": (reference, [b"registry.example.com:5000/team/app:1.0@" + D.encode(), b"busybox", b"[::1]:5000/x"]),
    "digest": (lambda data: parse_digest(text(data)), [D.encode()]),
    "platform": (lambda data: parse_platform(text(data)), [b"linux/arm64/v8"]),
    "Dockerfile": (lambda data: parse_dockerfile(text(data)), [
        b"# syntax=x\nARG V=1\nFROM --platform=$P a:${V:-2} AS b\nENV A=b C='d e'\n"
        b"RUN --mount=type=cache,target=/x <<E cat\nx\nE\n"
        b'COPY --from=b --chown=1:2 --chmod=u+x ["a", "/b"]\nHEALTHCHECK --interval=5s CMD x\nONBUILD ADD a b\nEXPOSE 80/tcp\n',
    ]),
    "ignore file": (ignored, [b"*\n!src/**/*.[a-c]?\n# x\nnode_modules\n\\#a\n"]),
    "filters": (lambda data: Filters.parse(text(data), ["label", "name"]), [b'{"label":["a=b"],"name":{"x":true}}']),
    "accounts": (accounts, [b"root:x:0:0:r:/root:/bin/sh\nweb:x:1000:1000::/:/bin/sh\nweb:x:7:web,root\n"]),
    "seccomp profile": (seccomp_profile.parse, [
        b'{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,"archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":[]}],'
        b'"syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]}]}',
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", PARSERS)
@given(st.data())
def test_damaged_documents(name: str, data: st.DataObject) -> None:
    parse, seeds = PARSERS[name]
    whole = data.draw(st.sampled_from(seeds))
    # What is not damaged is accepted, else nothing is shown.
    if name != "manifest" or b"manifests" not in whole:
        parse(whole)
    with suppress(BerthError):
        parse(damaged(whole, data.draw(CHANGES)))


@given(st.sampled_from(TARS), CHANGES, st.booleans())
def test_damaged_tars(whole: bytes, changes: list[Change], layer: bool) -> None:
    data = damaged(whole, changes)
    with tempfile.TemporaryDirectory() as folder:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        chunks = iter([data[at : at + 1000] for at in range(0, len(data), 1000)])
        try:
            with suppress(BerthError), translated("unpacking"), Unpacker(fd, layer=layer) as unpacker:
                unpacker.run(TarReader(Source(lambda: next(chunks, b""))))
        finally:
            os.close(fd)


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress, bz2.compress, lzma.compress])
@given(CHANGES, st.integers(1, 5000))
def test_damaged_streams(compress: Callable[[bytes], bytes], changes: list[Change], piece: int) -> None:
    data = damaged(compress(b"".join(b"line %d\n" % number for number in range(3000))), changes)
    chunks = iter([data[at : at + piece] for at in range(0, len(data), piece)])
    with suppress(BerthError):
        for part in expand(lambda: next(chunks, b"")):
            assert 0 < len(part) <= 1 << 20


def saved() -> list[bytes]:
    layer = archive(("f", "file", "x"))
    config = json.dumps({**CONFIG, "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]}}).encode()
    docker = [{"Config": "c.json", "RepoTags": ["a:1"], "Layers": ["l/layer.tar"]}]
    oci = {
        "schemaVersion": 2,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest_of(config), "size": len(config)},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest_of(layer), "size": len(layer)}],
    }
    body = json.dumps(oci).encode()
    index = {"schemaVersion": 2, "manifests": [{"mediaType": OCI_MANIFEST, "digest": digest_of(body), "size": len(body)}]}
    blobs = [(f"blobs/sha256/{digest_of(blob)[7:]}", "file", blob) for blob in (layer, config, body)]
    return [
        archive(("manifest.json", "file", json.dumps(docker)), ("c.json", "file", config), ("l/layer.tar", "file", layer)),
        archive(("oci-layout", "file", "{}"), ("index.json", "file", json.dumps(index)), *blobs),  # type: ignore[arg-type]
    ]


SAVED = saved()


def read_saved(data: bytes) -> None:
    async def run(folder: str) -> None:
        async with spooled(stream(data), folder, expand) as found:
            assert _read(found, [host_platform()])

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(folder))


@settings(max_examples=60)
@given(st.sampled_from(SAVED), CHANGES)
def test_damaged_archives_of_images(whole: bytes, changes: list[Change]) -> None:
    read_saved(whole)
    with suppress(BerthError):
        read_saved(damaged(whole, changes))


@given(st.sampled_from([*TARS, archive(("Dockerfile", "file", "FROM a\n"), ("d/l", "link", "../x"))]), CHANGES)
def test_damaged_build_contexts(whole: bytes, changes: list[Change]) -> None:
    chunks = iter([damaged(whole, changes)])
    with tempfile.TemporaryDirectory() as folder, suppress(InvalidArgument):
        context = unpack(lambda: next(chunks, b""), folder, "Dockerfile", expand)
        for name in context.entries:
            context.resolve(name)
        assert sorted(os.listdir(Path(folder).parent)) and not [name for name in context.entries if ".." in name.split("/")]


COMPOSE = b"""
name: demo
services:
  app: &app
    image: "busybox:${TAG:-1}"
    ports: ["127.0.0.1:80:80/udp", {target: 1, published: "2-3"}]
    volumes: [data:/d:ro, ./x:/y]
    environment: {A: b, C:}
    deploy: {resources: {limits: {cpus: "0.5", memory: 1g}}}
    healthcheck: {test: [CMD, x], interval: 5s}
  other: {<<: *app, depends_on: {app: {condition: service_healthy}}}
volumes: {data: {}}
"""


@settings(max_examples=25)
@given(CHANGES)
def test_damaged_compose_files(changes: list[Change]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "compose.yaml")
        options = LoadOptions(files=(str(file),), project_name="demo", environ={}, cwd=folder)
        file.write_bytes(COMPOSE)
        assert load(options, lambda warning: None).services["app"].image == "busybox:1"
        file.write_bytes(damaged(COMPOSE, changes))
        with suppress(BerthError):
            load(options, lambda warning: None)


def test_expansions_of_aliases_are_bounded() -> None:
    """YAML's billion laughs."""
    lines = ["x0: &x0 [lol]"] + [f"x{n}: &x{n} [{','.join([f'*x{n - 1}'] * 10)}]" for n in range(1, 12)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "compose.yaml")
        file.write_text("\n".join(lines) + "\nservices: {a: {image: x}}\n")
        with pytest.raises((InvalidArgument, NotFound)):
            load(LoadOptions(files=(str(file),), project_name="demo", environ={}, cwd=folder), lambda warning: None)


def test_json_that_is_deep_is_refused() -> None:
    for parse in (manifest, parse_config, seccomp_profile.parse, lambda data: Filters.parse(text(data), ["label"])):
        for opening, closing in ((b'{"a":', b"}"), (b"[", b"]")):
            with pytest.raises(BerthError):
                parse(opening * 100_000 + b"1" + closing * 100_000)
    assert msgspec.json.decode(b"[]") == []
