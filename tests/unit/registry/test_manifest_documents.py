from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import BerthError, DataLoss, InvalidArgument, NotFound, NotImplementedKind
from berth.model.descriptor import DOCKER_MANIFEST, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, Platform
from berth.model.digest import digest_of
from berth.registry.manifest import MAX_CONFIG, check_layers, choose, matches, parse_config, parse_manifest, parse_platform
from berth.wire.document import IndexDocument, ManifestDocument

D = digest_of(b"x")
BLOB = {"mediaType": OCI_LAYER_GZIP, "digest": D, "size": 1}
MANIFEST: dict[str, Any] = {"schemaVersion": 2, "config": BLOB, "layers": [BLOB]}
INDEX: dict[str, Any] = {"schemaVersion": 2, "manifests": [{**BLOB, "mediaType": OCI_MANIFEST}]}


def parse(document: Any, content_type: str = "") -> ManifestDocument | IndexDocument:
    return parse_manifest(json.dumps(document).encode(), content_type)


def test_kinds_are_told_apart() -> None:
    assert isinstance(parse(MANIFEST), ManifestDocument)
    assert isinstance(parse({**MANIFEST, "mediaType": DOCKER_MANIFEST}, DOCKER_MANIFEST + "; charset=utf-8"), ManifestDocument)
    assert isinstance(parse(INDEX, "application/json"), IndexDocument)
    assert isinstance(parse({**INDEX, "layers": None}, OCI_INDEX), IndexDocument)


@pytest.mark.parametrize(
    ("document", "content_type"),
    [
        ({**MANIFEST, **INDEX}, ""),
        ({**MANIFEST, "manifests": []}, OCI_MANIFEST),
        ({**INDEX, "config": BLOB}, ""),
        (MANIFEST, OCI_INDEX),
        ({**MANIFEST, "mediaType": OCI_MANIFEST}, DOCKER_MANIFEST),
        ({**INDEX, "mediaType": OCI_MANIFEST}, ""),
        ({**MANIFEST, "mediaType": "text/html"}, ""),
        ({"schemaVersion": 2}, ""),
        ({**MANIFEST, "layers": [{**BLOB, "digest": "sha512:" + "a" * 128}]}, ""),
        ({**MANIFEST, "layers": [{**BLOB, "digest": D.upper()}]}, ""),
        ({**MANIFEST, "layers": [{**BLOB, "digest": "../../x"}]}, ""),
        ({**MANIFEST, "layers": [{**BLOB, "size": -1}]}, ""),
        ({**MANIFEST, "layers": [{**BLOB, "size": 1 << 62}]}, ""),
        ({**MANIFEST, "layers": [BLOB] * 1000}, ""),
        ({**MANIFEST, "layers": "x"}, ""),
        ([], ""),
        (None, ""),
    ],
)
def test_row_42_ambiguous_and_damaged_documents_are_refused(document: Any, content_type: str) -> None:
    with pytest.raises(DataLoss):
        parse(document, content_type)


def test_row_32_deep_and_huge_documents_do_no_harm() -> None:
    for data in (b"[" * 1_000_000, b'{"a":' * 500_000, b'{"layers":' * 100_000, b"\xff\xfe", b"", b"{" + b" " * (5 << 20) + b"}"):
        with pytest.raises(DataLoss):
            parse_manifest(data)
        with pytest.raises(DataLoss):
            parse_config(data)


def test_row_32_a_configuration_that_is_too_large_is_refused_for_its_size() -> None:
    """It would be a good one but for that."""
    whole = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
    assert parse_config(json.dumps(whole).encode())
    with pytest.raises(DataLoss, match="more than the"):
        parse_config(json.dumps(whole | {"padding": " " * MAX_CONFIG}).encode())


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from([D, OCI_MANIFEST, BLOB]),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    ["schemaVersion", "mediaType", "config", "layers", "manifests", "digest", "size", "rootfs", "os"]
                ),
                inner,
            )
        ),
    )
)
def test_row_32_any_json_is_parsed_or_refused(document: Any) -> None:
    data = json.dumps(document).encode()
    for parser in (parse_manifest, parse_config):
        try:
            parser(data)
        except BerthError as error:
            assert error.message


def test_schema_1_and_foreign_layers_are_named() -> None:
    with pytest.raises(NotImplementedKind, match="schema 1"):
        parse({"schemaVersion": 1, "fsLayers": []})
    foreign = parse({**MANIFEST, "layers": [{**BLOB, "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}]})
    assert isinstance(foreign, ManifestDocument)
    with pytest.raises(NotImplementedKind, match="not distributable"):
        check_layers(foreign)


def test_platforms() -> None:
    assert (
        parse_platform("linux/arm/v7")
        == parse_platform('{"os":"linux","architecture":"arm","variant":"v7"}')
        == Platform("arm", "linux", "v7")
    )
    assert parse_platform("arm64").architecture == "arm64" and parse_platform("linux/x86_64").architecture == "amd64"
    assert parse_platform("windows").os == "windows" and parse_platform("s390x") == Platform("s390x", "linux")
    assert parse_platform("Linux/AMD64") == parse_platform("x86_64") == Platform("amd64", "linux")
    assert parse_platform("own/thing") == Platform("thing", "own")
    for wrong in ("/", "{", "linux/a b", "a\0", "linux/"):
        with pytest.raises(InvalidArgument):
            parse_platform(wrong)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("foo", '"foo": unknown operating system or architecture: invalid argument'),
        ("a/b/c/d", '"a/b/c/d": cannot parse platform specifier: invalid argument'),
        ("linux/!", '"!" is an invalid component of "linux/!": platform specifier component must match "^[A-Za-z0-9_-]+$"'),
    ],
)
def test_platforms_that_are_none_are_refused_in_docker_s_words(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(words)):
        parse_platform(text)


def test_platforms_match() -> None:
    assert matches(Platform("arm64", "linux"), Platform("arm64", "linux", "v8")) and not matches(
        Platform("arm", "linux", "v6"), Platform("arm", "linux", "v7")
    )
    index = parse(
        {
            **INDEX,
            "manifests": [
                {**BLOB, "mediaType": OCI_MANIFEST, "platform": {"os": "unknown", "architecture": "unknown"}},
                {**BLOB, "mediaType": OCI_MANIFEST, "size": 7, "platform": {"os": "linux", "architecture": "amd64"}},
            ],
        }
    )
    assert isinstance(index, IndexDocument)
    assert choose(index, Platform("amd64", "linux"), "x").size == 7
    with pytest.raises(NotFound):
        choose(index, Platform("s390x", "linux"), "x")


def test_documents_of_our_own_say_their_schema_version() -> None:
    blob = Descriptor(OCI_LAYER_GZIP, D, 1)
    for document in (
        ManifestDocument(schema_version=2, config=blob, layers=[blob]),
        IndexDocument(schema_version=2, manifests=[]),
    ):
        data = msgspec.json.encode(document)
        assert json.loads(data)["schemaVersion"] == 2 and parse_manifest(data) == document
