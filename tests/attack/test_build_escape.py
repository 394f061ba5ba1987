"""Builds that try to reach the host: links in contexts, images and archives, mounts, names. SECURITY rows on the builder."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from berth.build.download import file_name, redacted
from berth.errors import InvalidArgument
from support.engine import EngineProcess


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host, which is the same afterwards."""
    folder = tmp_path / "canary"
    (folder / "sub" / "empty").mkdir(parents=True)
    (folder / "file").write_text("alive")
    before = sorted((str(path), path.lstat().st_mode, path.lstat().st_mtime_ns) for path in [folder, *folder.rglob("*")])
    yield folder
    after = sorted((str(path), path.lstat().st_mode, path.lstat().st_mtime_ns) for path in [folder, *folder.rglob("*")])
    assert after == before
    assert (folder / "file").read_text() == "alive"


Member = tuple[str, dict[str, object], bytes]


def tar_of(*members: Member) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, fields, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def build(engine: EngineProcess, *members: Member, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """A build whose context is exactly this archive."""
    return engine.docker("build", "-t", "hostile", *options, "-", input=tar_of(*members))


def link(target: str) -> dict[str, object]:
    return {"type": tarfile.SYMTYPE, "linkname": target}


@pytest.mark.parametrize(
    "instruction", ["COPY f /way/f", "COPY f /way/", "WORKDIR /way/new", "ADD a.tar /way/", "COPY --from=other /src /way/"]
)
def test_links_in_an_image_lead_into_the_image(engine: EngineProcess, canary: Path, instruction: str) -> None:
    dockerfile = (
        "FROM busybox AS other\nRUN mkdir /src && touch /src/f\nFROM busybox\n"
        f"RUN mkdir -p {canary.parent} && ln -s {canary} /way\n{instruction}\nRUN ls {canary} || true\n"
    )
    members = [("Dockerfile", {}, dockerfile.encode()), ("f", {}, b"f"), ("a.tar", {}, tar_of(("f", {}, b"f")))]
    build(engine, *members)


def test_an_added_archive_stays_inside(engine: EngineProcess, canary: Path) -> None:
    hostile = tar_of(
        ("out", link(str(canary)), b""),
        ("out/new", {}, b"dead"),
        ("up", link("../" * 12 + str(canary).lstrip("/")), b""),
        ("up/file", {}, b"dead"),
        ("../" * 12 + str(canary).lstrip("/") + "/file", {}, b"dead"),
        ("hard", {"type": tarfile.LNKTYPE, "linkname": f"{canary}/file"}, b""),
    )
    build(engine, ("Dockerfile", {}, b"FROM busybox\nADD a.tar /x/\n"), ("a.tar", {}, hostile))


@pytest.mark.parametrize(
    "members",
    [
        [("l", link("CANARY"), b""), ("l/new", {}, b"dead")],
        [("../" * 12 + "CANARY/file", {}, b"dead")],
        [("h", {"type": tarfile.LNKTYPE, "linkname": "CANARY/file"}, b""), ("h", {}, b"dead")],
    ],
)
def test_a_context_that_leaves_its_directory_is_refused(engine: EngineProcess, canary: Path, members: list[Member]) -> None:
    at = str(canary)
    named: list[Member] = []
    for name, fields, data in members:
        changed = {key: value.replace("CANARY", at) if isinstance(value, str) else value for key, value in fields.items()}
        named.append((name.replace("CANARY", at.lstrip("/")), changed, data))
    done = build(engine, ("Dockerfile", {}, b"FROM busybox\nCOPY . /x\n"), *named)
    assert done.returncode == 1
    assert "build context" in done.stderr


def test_the_dockerfile_is_one_of_the_context(engine: EngineProcess, canary: Path) -> None:
    (canary.parent / "Dockerfile").write_text("FROM busybox\n")
    linked = build(engine, ("Dockerfile", link(str(canary.parent / "Dockerfile")), b""))
    assert "Cannot locate specified Dockerfile" in linked.stderr
    with engine.client as client, pytest.raises(InvalidArgument, match="must be within the build context"):
        client.request("POST", "/build", query={"dockerfile": "../Dockerfile"}, body=tar_of(("f", {}, b""))).read()


def test_copied_links_stay_links(engine: EngineProcess, canary: Path) -> None:
    done = build(
        engine,
        ("Dockerfile", {}, b"FROM busybox\nCOPY d /d\nRUN readlink /d/l\nCOPY l /followed\n"),
        ("d/l", link(f"{canary}/file"), b""),
        ("l", link(f"{canary}/file"), b""),
    )
    assert f"{canary}/file" in done.stdout
    assert "file not found in build context" in done.stderr


@pytest.mark.parametrize(
    "mount",
    [
        "target=/m,source=l",
        "target=/m,source=d/l",
        "target=/m,source=l/..",
        "target=/m,from=other,source=/l",
        "target=/m,from=other,source=/l,rw",
    ],
)
def test_mount_sources_are_resolved_inside(engine: EngineProcess, canary: Path, mount: str) -> None:
    text = f"FROM busybox AS other\nRUN ln -s {canary} /l\nFROM busybox\nRUN --mount={mount} ls /m && echo no > /m/file\n"
    done = build(engine, ("Dockerfile", {}, text.encode()), ("l", link(str(canary)), b""), ("d/l", link(str(canary)), b""))
    assert "alive" not in done.stdout
    assert done.returncode != 0 or mount == "target=/m,source=l/.."


@pytest.mark.parametrize(
    ("mount", "why"),
    [
        ("target=/m,bind-propagation=shared", "unexpected key 'bind-propagation'"),
        ("type=cache,target=/m,bind-propagation=rshared", "unexpected key 'bind-propagation'"),
        ("type=cache,target=/proc", "it would hide what the command needs"),
    ],
)
def test_mount_options_that_are_not_the_builders_are_refused(engine: EngineProcess, mount: str, why: str) -> None:
    """By the builder already: a launch would refuse them, too."""
    done = build(engine, ("Dockerfile", {}, f"FROM busybox\nRUN --mount={mount} true\n".encode()))
    assert done.returncode == 1 and why in done.stderr, done


def test_removing_mount_points_does_not_follow_links(engine: EngineProcess, canary: Path) -> None:
    """The step moves the parent of its mount point away and puts a link to the host in its place."""
    step = f"mv /a /moved && ln -s {canary} /a && ls -l /a"
    text = f"FROM busybox\nRUN --mount=type=tmpfs,target=/a/sub/empty {step}\nRUN ls -d /moved\n"
    done = build(engine, ("Dockerfile", {}, text.encode()))
    assert done.returncode == 0, done.stderr


def test_a_cache_directory_is_never_resolved_through_itself(engine: EngineProcess, canary: Path) -> None:
    text = (
        f"FROM busybox\nRUN --mount=type=cache,id=shared,target=/c ln -s {canary} /c/way\n"
        "RUN --mount=type=cache,id=shared,source=way,target=/c ls -l /c; echo x > /c/file\n"
    )
    assert build(engine, ("Dockerfile", {}, text.encode())).returncode == 0
    engine.ok("builder", "prune", "-af")


def test_a_step_sees_the_declared_environment_only(engine: EngineProcess) -> None:
    done = build(
        engine, ("Dockerfile", {}, b"FROM busybox\nARG HIDDEN\nENV A=1\nRUN env | cut -d= -f1 | sort | tr '\\n' ' '; echo\n")
    )
    names = next(line for line in done.stdout.splitlines() if "PATH" in line and "HOME" in line).split()
    ca = {"SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}
    settings = {name for name in names if name in ca or name.startswith(("PIP_", "npm_config_")) or name == "APT_CONFIG"}
    assert set(names) - settings == {"A", "HOME", "HOSTNAME", "PATH", "PWD", "SHLVL"}
    assert "CERT" not in engine.ok("run", "--rm", "hostile", "env")


def test_a_step_has_no_more_power_than_a_container(engine: EngineProcess) -> None:
    script = "grep -E 'Cap(Inh|Eff)' /proc/self/status; cat /proc/self/uid_map; mount -t tmpfs x /tmp || echo refused"
    done = build(engine, ("Dockerfile", {}, f"FROM busybox\nRUN {script}\n".encode()))
    inside = engine.ok("run", "--rm", "busybox", "sh", "-c", script)
    for line in inside.splitlines()[:2]:
        assert line in done.stdout
    assert "refused" in done.stdout
    uids = [line.split() for line in done.stdout.splitlines() if line.split()[2:] == ["65536"]]
    assert uids and uids[0][0] == "0" and uids[0][1] != "0"


@pytest.mark.parametrize(
    "address", ["http://h/", "http://h/a/..", "http://h/%2e%2e", "http://h/x%2f..%2f..%2fetc%2f", "http://h/a%00b"]
)
def test_names_of_downloads_are_plain(address: str) -> None:
    with pytest.raises(InvalidArgument):
        file_name(address)


def test_passwords_of_addresses_are_not_shown() -> None:
    assert redacted("https://user:secret@host:1/x?y=1") == "https://host:1/x?y=1"
    assert file_name("https://host/a%2Fb%2Fc.txt") == "c.txt"
