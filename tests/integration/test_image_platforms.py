"""Images of several platforms, driven by the unmodified docker CLI: registry, archives, containers, builds, and what is left."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import leak
from support.engine import EngineProcess
from support.platforms import OTHER, PREDICATE, Layout, layout
from support.registry import registry
from support.stores import EMPTY

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="runs containers: needs root"),
    pytest.mark.skipif(shutil.which("docker-registry") is None, reason="needs Debian's docker-registry"),
    pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo"),
]


@pytest.fixture(scope="module")
def multi(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return layout(tmp_path_factory.mktemp("platforms") / "oci")


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    made = EngineProcess("--pool-size", "0")
    with leak.nothing_left(made.snapshot):
        try:
            made.start()
            yield made
        finally:
            if left := made.ok("ps", "-aq").split():
                made.ok("rm", "-fv", *left)
            made.shut_down()


@pytest.fixture(autouse=True)
def nothing_left(engine: EngineProcess) -> Iterator[None]:
    """Whatever a test brought in goes again, to the last blob and layer."""
    yield
    engine.ok("builder", "prune", "-af")
    if images := engine.ok("images", "-aq").split():
        engine.ok("rmi", "-f", *dict.fromkeys(images))
    left = {place: set(os.listdir(f"{engine.root}/{place}")) - set(EMPTY) for place in ("layers", "blobs/sha256")}
    left["layers"] = {name for name in left["layers"] if not name.startswith(".trash-")}
    assert not any(left.values()), left


def inspected(engine: EngineProcess, name: str) -> dict[str, Any]:
    found: dict[str, Any] = engine.client.json("GET", f"/images/{name}/json", query={"manifests": "1"})
    return found


def raw(reference: str) -> bytes:
    command = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{reference}"]
    return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout


def test_platforms_of_one_tag_from_a_registry_and_back(engine: EngineProcess, multi: Layout, tmp_path: Path) -> None:
    with registry(tmp_path / "registry") as address:
        name = f"{address}/multi"
        multi.push(f"{name}:latest")
        engine.ok("pull", name)
        engine.ok("pull", "--platform", f"linux/{OTHER}", name)
        assert engine.ok("images", "-q").split() == [multi.configs[multi.host][7:19]]
        assert engine.ok("image", "inspect", "-f", "{{index .RepoDigests 0}}", name) == f"{name}@{multi.index}"
        for architecture, steps in ((multi.host, 2), (OTHER, 1)):
            platform = ("--platform", f"linux/{architecture}")
            assert engine.ok("image", "inspect", *platform, "-f", "{{.Id}}", name) == multi.configs[architecture]
            assert len(engine.ok("history", "-q", *platform, name).split()) == steps
        tree = engine.ok("image", "ls", "--tree")
        assert f"linux/{multi.host}" in tree and f"linux/{OTHER}" in tree and "unknown" not in tree
        tree = engine.berth("image", "ls", "--tree").stdout.splitlines()
        assert [line.split()[:2] for line in tree[2:4]] == [["├─", f"linux/{multi.host}"], ["└─", f"linux/{OTHER}"]], tree
        manifests = {one["ID"]: one for one in inspected(engine, name)["Manifests"]}
        assert [one["Kind"] for one in manifests.values()] == ["image", "image", "attestation", "attestation"]
        assert all(one["Available"] for one in manifests.values())
        # The one that stands for both runs; the other cannot, but is made and known by its name.
        assert engine.ok("run", "--rm", name) == multi.host
        engine.ok("create", "--platform", f"linux/{OTHER}", "--name", "foreign", name)
        assert engine.ok("ps", "-a", "--filter", f"ancestor={name}", "--format", "{{.Image}}") == name
        engine.ok("cp", "foreign:/only", str(tmp_path / "only"))
        assert (tmp_path / "only").read_text() == "there"
        refused = engine.docker("rmi", "--platform", f"linux/{OTHER}", name)
        assert "(must be forced) - image is being used by stopped container" in refused.stderr
        missing = engine.docker("create", "--pull", "never", "--platform", "linux/ppc64le", name)
        assert (
            f"image with reference {name} was found but does not provide the specified platform (linux/ppc64le)" in missing.stderr
        )
        engine.ok("rm", "foreign")
        # Out again: the same bytes.
        engine.ok("tag", name, f"{address}/copy:1")
        assert f"1: digest: {multi.index} size:" in engine.ok("push", f"{address}/copy:1")
        assert raw(f"{address}/copy:1") == multi.document(multi.index)
        for digest in multi.manifests.values():
            assert raw(f"{address}/copy@{digest}") == multi.document(digest)
        # One platform goes: of the index only the rest can be pushed, and the user is told.
        assert multi.manifests[OTHER] in engine.ok("rmi", "--platform", f"linux/{OTHER}", name)
        engine.ok("tag", name, f"{address}/rest:1")
        assert "not here" in engine.berth("image", "ls", "--tree").stdout
        said = engine.ok("push", f"{address}/rest:1")
        assert "only the available single-platform image was pushed" in said and multi.manifests[multi.host] in said
        assert raw(f"{address}/rest:1") == multi.document(multi.manifests[multi.host])


def test_archives_carry_all_platforms_and_other_tools_read_them(engine: EngineProcess, multi: Layout, tmp_path: Path) -> None:
    assert engine.ok("load", input=multi.tar()) == "Loaded image: multi:latest"
    saved = tmp_path / "all.tar"
    engine.ok("save", "-o", str(saved), "multi")
    # skopeo finds every platform, and the index as it was made.
    copied = tmp_path / "copied"
    command = ["skopeo", "copy", "--all", f"oci-archive:{saved}", f"oci:{copied}:x"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (copied / "blobs/sha256" / multi.index[7:]).read_bytes() == multi.document(multi.index)
    # What reads Docker's form gets the host's platform.
    command = ["skopeo", "inspect", "--config", f"docker-archive:{saved}"]
    config = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
    assert config["architecture"] == multi.host
    engine.ok("save", "--platform", f"linux/{OTHER}", "-o", str(tmp_path / "one.tar"), "multi")
    engine.ok("rmi", "multi")
    for archive, platforms in ((saved, [multi.host, OTHER]), (tmp_path / "one.tar", [OTHER])):
        engine.ok("load", "-i", str(archive))
        for architecture in platforms:
            shown = engine.ok("image", "inspect", "--platform", f"linux/{architecture}", "-f", "{{.Id}}", "multi")
            assert shown == multi.configs[architecture]
        engine.ok("rmi", "multi")
    engine.ok("load", "--platform", f"linux/{OTHER}", "-i", str(saved))
    assert engine.ok("image", "inspect", "-f", "{{.Architecture}}", "multi") == OTHER
    refused = engine.docker("load", "--platform", "linux/ppc64le", "-i", str(saved))
    assert refused.returncode and "the archive has no image for linux/ppc64le" in refused.stderr


@pytest.mark.parametrize("form", ["nested", "skopeo", "podman"])
def test_what_other_tools_saved_is_loaded(engine: EngineProcess, multi: Layout, tmp_path: Path, form: str) -> None:
    """BuildKit's index of indexes; skopeo's OCI archive with and podman's Docker archive without an index."""
    archive = tmp_path / "x.tar"
    if form == "nested":
        archive.write_bytes(layout(tmp_path / "nested", nested=True).tar())
        assert engine.ok("load", "-i", str(archive)) == "Loaded image: multi:latest"
        assert engine.ok("image", "inspect", "--platform", f"linux/{OTHER}", "-f", "{{.Architecture}}", "multi") == OTHER
        return
    target = f"oci-archive:{archive}" if form == "skopeo" else f"docker-archive:{archive}:docker.io/library/multi:latest"
    every = ["--all"] if form == "skopeo" else []
    done = subprocess.run(
        ["skopeo", "copy", *every, f"oci:{multi.path}:multi", target], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    said = engine.ok("load", "-i", str(archive))
    assert said.startswith("Loaded image: multi:latest" if form == "podman" else f"Loaded image ID: {multi.configs[multi.host]}")
    assert engine.ok("run", "--rm", multi.configs[multi.host]) == multi.host


def test_attestations_are_told(engine: EngineProcess, multi: Layout) -> None:
    engine.ok("load", input=multi.tar())
    for architecture in (multi.host, OTHER):
        platform = json.dumps({"os": "linux", "architecture": architecture})
        query = {"platform": platform, "statement": "1", "type": PREDICATE}
        (statement,) = engine.client.json("GET", "/images/multi/attestations", query=query)
        assert statement["Statement"]["subject"] == [{"name": architecture}]


def test_a_build_chooses_the_platform_of_its_base(engine: EngineProcess, multi: Layout) -> None:
    engine.ok("load", input=multi.tar())
    dockerfile = """
        FROM --platform=$BUILDPLATFORM multi AS builder
        ARG TARGETARCH
        RUN echo "$TARGETARCH on $(cat /which)" > /built
        FROM --platform=$TARGETPLATFORM multi
        COPY --from=builder /built /built
        LABEL for=$TARGETPLATFORM
    """
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        info = tarfile.TarInfo("Dockerfile")
        info.size = len(dockerfile.encode())
        archive.addfile(info, io.BytesIO(dockerfile.encode()))
    for architecture in (multi.host, OTHER):
        engine.ok(
            "build", "-q", "-t", f"built:{architecture}", "--platform", f"linux/{architecture}", "-", input=context.getvalue()
        )
        assert engine.ok("image", "inspect", "-f", "{{.Architecture}}", f"built:{architecture}") == architecture
        engine.ok("create", "--name", "made", f"built:{architecture}", "x")
        copied = subprocess.run(
            ["docker", "cp", "made:/built", "-"], capture_output=True, check=True, env=os.environ | {"DOCKER_HOST": engine.host}
        )
        with tarfile.open(fileobj=io.BytesIO(copied.stdout)) as archive:
            member = archive.extractfile("built")
            assert member is not None and member.read().decode() == f"{architecture} on {multi.host}\n"
        engine.ok("rm", "made")


def test_every_byte_is_accounted_for(engine: EngineProcess, multi: Layout) -> None:
    """As many bytes of image content in the account as blobs on disk, and none of them left behind."""
    engine.ok("load", input=multi.tar())
    areas = {area["Name"]: area["Size"] for area in engine.client.json("GET", "/berth/df")["Areas"]}
    place = f"{engine.root}/blobs/sha256"
    blobs = sum(os.stat(f"{place}/{name}").st_blocks * 512 for name in os.listdir(place))
    assert areas["image content"] == blobs and areas["left behind"] == 0
    report = engine.berth("doctor", "--deep", "--format", "json")
    assert "incomplete" not in report.stdout
    os.rename(f"{place}/{multi.index[7:]}", f"{place}/../gone")
    try:
        assert (
            "the index of docker.io/library/multi:latest is incomplete"
            in engine.berth("doctor", "--deep", "--format", "json").stdout
        )
        said = engine.docker("image", "inspect", "-f", "{{.Id}}", "multi")
        assert said.stdout.strip() == multi.configs[multi.host]
        refused = engine.docker("save", "-o", f"{engine.directory}/x.tar", "multi")
        assert refused.returncode and multi.index in refused.stderr
    finally:
        os.rename(f"{place}/../gone", f"{place}/{multi.index[7:]}")
