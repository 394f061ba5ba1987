from __future__ import annotations

import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from berth.errors import InvalidArgument
from berth.model.instant import document_time, for_api, parse_instant, parse_moment, rfc3339_ns
from berth.model.reference import Reference, parse

HEX = "a" * 64
COMPONENT = st.from_regex(r"[a-z0-9]{1,8}((\.|_|__|-{1,3})[a-z0-9]{1,5}){0,2}", fullmatch=True)
TAG = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
DOMAIN = st.sampled_from(
    ["docker.io", "localhost", "localhost:5000", "ghcr.io", "Host.Example.com:80", "127.0.0.1:1", "[::1]:5000"]
)
DIGEST = st.just("sha256:" + HEX)


@given(DOMAIN, st.lists(COMPONENT, min_size=1, max_size=3), st.none() | TAG, st.none() | DIGEST)
def test_a_reference_survives_being_written_and_read(domain: str, parts: list[str], tag: str | None, digest: str | None) -> None:
    assume(domain != "docker.io" or "." not in parts[0])  # a/b.c is of Docker Hub, a.b/c of the host a.b
    path = "/".join(parts)
    if domain == "docker.io" and len(parts) == 1:
        path = f"library/{path}"
    text = f"{domain}/{path}" + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
    reference = parse(text, default_tag=False)
    assert (reference.domain, reference.path, reference.tag, reference.digest) == (domain, path, tag, digest)
    assert str(reference) == text
    assert parse(str(reference), default_tag=False) == reference
    if not (domain == "docker.io" and "/" not in reference.familiar_name and len(reference.familiar_name) == 64):
        assert parse(reference.familiar, default_tag=False) == reference


@given(st.text(max_size=60))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        reference = parse(text)
    except InvalidArgument:
        return
    assert ".." not in reference.path.split("/") and not reference.path.startswith("/") and "\0" not in str(reference)
    assert isinstance(parse(str(reference)), Reference)


@pytest.mark.parametrize(
    ("text", "familiar"),
    [
        ("debian", "debian:latest"),
        ("library/debian", "debian:latest"),
        ("index.docker.io/library/debian:1", "debian:1"),
        ("docker.io/me/x", "me/x:latest"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x:1", "localhost:5000/x:1"),
        (f"x@sha256:{HEX}", f"x@sha256:{HEX}"),
        (f"x:1@sha256:{HEX}", f"x:1@sha256:{HEX}"),
    ],
)
def test_familiar_names(text: str, familiar: str) -> None:
    assert parse(text).familiar == familiar


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEX,
        "-x",
        "x/",
        "/x",
        "x//y",
        "UP",
        "x:",
        "x:a b",
        "x@sha256:1",
        f"x@sha512:{HEX}",
        "a" * 300,
        "x:" + "t" * 129,
        "h:p/x",
    ],
)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse(text)


@given(st.integers(0, 4_000_000_000_000_000_000))
def test_times_survive_being_written_and_read(nanoseconds: int) -> None:
    assert parse_instant(rfc3339_ns(nanoseconds)) == nanoseconds


def test_moments() -> None:
    assert parse_moment("10", 0) == 10 and parse_moment("10.5", 0) == 10.5
    assert parse_moment("1h30m", 10_000) == 4_600 and parse_moment("500ms", 1) == 0.5
    assert parse_moment("1970-01-02", 0) == 86_400 and parse_moment("1970-01-01T01:00:00+01:00", 0) == 0
    assert document_time("2024-13-01T00:00:00Z") == document_time(None) == document_time("x") == 0
    for wrong in ("", "yesterday", "1d", "2024-13-01", "10m ago"):
        with pytest.raises(InvalidArgument):
            parse_moment(wrong, 0)


def test_times_for_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC-2")
    time.tzset()
    try:
        assert for_api("2024-05-01T10:00:00Z") == for_api("2024-05-01T12:00:00+02:00") == "1714557600.000000000"
        assert for_api("2024-05-01T12:00:00") == for_api("1714557600") == "1714557600.000000000"
        assert for_api("2024-05-01T12:00:00.000000001") == "1714557600.000000001"
        assert for_api(None) is None and float(for_api("10m") or 0) == pytest.approx(time.time() - 600, abs=5)
    finally:
        monkeypatch.undo()
        time.tzset()
