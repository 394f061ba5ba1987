"""Directories that are swapped for links while the engine uses them: SECURITY rows 5, 10, 12, 27, 28, 33, 35.

Every test races for a fixed time. Each link leads to a canary of the host, by an absolute path and by `..`, so a lookup that is
not confined to its tree finds it sooner or later.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from berth.errors import BerthError
from berth.kernel.fs import remove_tree
from berth.storage.tar_reader import Source, TarReader
from berth.storage.unpack import Unpacker
from support.canary import SECRET, canary
from support.engine import EngineProcess
from support.racer import Racer
from support.stores import archive

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers, mounts and owners take root")

SECONDS = 2.0
# With the host's user namespace nothing but the look-up itself stands between a swapped link and the host.
WAYS = [("absolute", "--userns=host"), ("relative", "--userns=host"), ("absolute", "--userns=")]


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A canary, and what is mounted on the host: both are the same afterwards."""
    with canary(tmp_path / "canary") as place:
        yield place
        mounted = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {tmp_path}" in line]
        assert mounted == [], "a mount came out of a container"


def shared_directory(tmp_path: Path, outside: Path, style: str) -> tuple[Path, Path, Path]:
    """A directory that containers share, with `swap`, a directory, and `link`, which leads to the canary."""
    shared = tmp_path / "shared"
    (shared / "swap/directory").mkdir(parents=True)
    (shared / "swap/file").write_text("inside")
    (shared / "link").symlink_to(outside if style == "absolute" else "../" * 20 + str(outside)[1:])
    for path in (shared, shared / "swap", shared / "swap/directory"):
        path.chmod(0o777)
    return shared, shared / "swap", shared / "link"


def for_a_while(attempt: Callable[[], bool]) -> tuple[int, int]:
    """How often it was tried, and how often it worked."""
    until = time.monotonic() + SECONDS
    tried = worked = 0
    while time.monotonic() < until or not tried:
        tried += 1
        worked += attempt()
    return tried, worked


@pytest.mark.parametrize(("style", "userns"), WAYS)
def test_rows_5_and_10_mounts_below_a_shared_volume(
    engine: EngineProcess, tmp_path: Path, outside: Path, style: str, userns: str
) -> None:
    """Mount points below a volume are made and mounted on while another container swaps the directory above them."""
    shared, swap, link = shared_directory(tmp_path, outside, style)
    other, single = tmp_path / "other", tmp_path / "single"
    other.mkdir()
    single.write_text("single")
    names = iter(range(10**6))

    def start() -> bool:
        new = next(names)
        volumes = ["-v", f"{shared}:/vol", "-v", f"{other}:/vol/swap/made{new}", "-v", f"{single}:/vol/swap/directory/file{new}"]
        options = [userns, "--network=none", *volumes, "--tmpfs", "/vol/swap/directory"]
        return engine.docker("run", "--rm", *options, "busybox", "true").returncode == 0

    with Racer(swap, link) as racer:
        tried, _ = for_a_while(start)
    assert racer.swaps > 500 and tried >= 3
    assert list(other.iterdir()) == [] and single.read_text() == "single"
    # Without a race it is made where it belongs.
    if swap.is_symlink():
        os.rename(link, shared / "spare")
        os.rename(swap, link)
        os.rename(shared / "spare", swap)
    assert start()


@pytest.mark.parametrize(("style", "userns"), WAYS)
def test_row_12_and_others_below_dev(engine: EngineProcess, tmp_path: Path, outside: Path, style: str, userns: str) -> None:
    """A volume that holds what the engine mounts and makes in /run and /etc of the container, swapped while it starts."""
    shared, swap, link = shared_directory(tmp_path, outside, style)
    (swap / "pts").mkdir()
    files = ("resolv.conf", "hosts", "hostname")

    def start() -> bool:
        volumes = ["-v", f"{shared}:/etc", "-v", f"{shared}:/run/deep"]
        options = [*volumes, "--tmpfs", "/run/deep/swap/directory", "--tmpfs", "/etc/swap/pts"]
        return engine.docker("run", "--rm", "-t", userns, "--network=none", *options, "busybox", "true").returncode == 0

    with Racer(swap, link) as racer:
        tried, _ = for_a_while(start)
    assert racer.swaps > 500 and tried >= 3
    assert set(os.listdir(shared)) <= {"swap", "link", *files}


@pytest.mark.parametrize("running", [False, True])
def test_rows_27_and_28_copies_with_a_volume_below_a_volume(
    engine: EngineProcess, tmp_path: Path, outside: Path, running: bool
) -> None:
    """A copy shows the container's volumes, one of them below another one whose parent is swapped meanwhile."""
    shared, swap, link = shared_directory(tmp_path, outside, "relative")
    other = tmp_path / "other"
    other.mkdir()
    (other / "theirs").write_text("theirs")
    (swap / "mounted").mkdir()
    options = ["-v", f"{shared}:/vol", "-v", f"{other}:/vol/swap/mounted"]
    engine.ok("create", "--name", "box", *options, "busybox", "sleep", "1000")
    if running:
        engine.ok("start", "box")
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("written")

    def copy() -> bool:
        out = engine.docker("cp", "box:/vol/swap/file", "-")
        assert SECRET not in out.stdout
        deep = engine.docker("cp", "box:/vol/swap/mounted/theirs", "-")
        assert SECRET not in deep.stdout
        engine.docker("cp", f"{source}/.", "box:/vol/swap/directory")
        engine.docker("cp", f"{source}/file", "box:/vol/swap/mounted/")
        return "inside" in out.stdout

    with Racer(swap, link) as racer:
        tried, _ = for_a_while(copy)
    assert racer.swaps > 500 and tried >= 2
    assert set(os.listdir(other)) <= {"theirs", "file"} and (other / "theirs").read_text() == "theirs"


def test_row_28_links_between_directories_still_work(engine: EngineProcess, tmp_path: Path) -> None:
    """The fix must not go too far: a volume below /var/run, which is a link to /run, is shown in copies."""
    (tmp_path / "file").write_text("through the link")
    context = archive(("Dockerfile", "file", "FROM busybox\nRUN mkdir /run && ln -s /run /var/run\n"))
    engine.ok("build", "-t", "linked", "-", input=context)
    engine.ok("create", "--name", "box", "-v", f"{tmp_path}:/var/run/deep", "linked", "cat", "/run/deep/file")
    for path in ("/var/run/deep/file", "/run/deep/file"):
        assert "through the link" in engine.ok("cp", f"box:{path}", "-")
    assert engine.ok("start", "-a", "box") == "through the link"
    engine.ok("rm", "box")
    engine.ok("rmi", "linked")


def unpack(target: Path, data: bytes) -> None:
    """As a layer is unpacked."""
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    chunks = iter([data])
    try:
        with Unpacker(fd, layer=True) as unpacker:
            unpacker.run(TarReader(Source(lambda: next(chunks, b""))))
    finally:
        os.close(fd)


def test_row_33_a_layer_that_is_swapped_while_it_is_unpacked(tmp_path: Path, outside: Path) -> None:
    """Whoever could get at a staging directory (it is closed to all but root) would still not lead the unpacking out of it, nor
    the removal of what was unpacked."""
    members: list[tuple[str, str, object]] = []
    for number in range(200):
        # Other directories in between, so that the parent is not simply kept open.
        members += [("swap/file", "file", f"{number}"), ("swap/directory", "dir", 0o777), (f"swap/f{number}", "fifo", "")]
        members += [(f"other{number % 70}/x", "file", "x"), (f"swap/deep{number}/f", "file", "")]
        members += [("swap/h", "hard", "link/file")]
    target, swap, link = tmp_path / "fs", tmp_path / "fs/swap", tmp_path / "fs/link"

    def attempt() -> bool:
        swap.mkdir(parents=True)
        link.symlink_to(outside)
        with Racer(swap, link) as racer:
            try:
                unpack(target, archive(*members))
            except (OSError, BerthError):
                pass
            for _ in range(20):
                try:
                    remove_tree(str(target))
                except OSError:
                    continue
                break
        if target.exists():
            remove_tree(str(target))
        nonlocal swaps
        swaps += racer.swaps
        return True

    swaps = 0
    for_a_while(attempt)
    assert swaps > 200


def test_row_35_a_part_of_a_volume_that_is_swapped(engine: EngineProcess, tmp_path: Path, outside: Path) -> None:
    """--mount volume-subpath is looked up in the volume, and what was found is mounted, not what has its name by then."""
    engine.ok("volume", "create", "raced")
    data = Path(engine.ok("volume", "inspect", "-f", "{{.Mountpoint}}", "raced"))
    _, swap, link = shared_directory(data, outside, "absolute")
    mount = "type=volume,source=raced,target=/data,volume-subpath=shared/swap"

    def start() -> bool:
        script = "cat /data/file; echo x > /data/new"
        done = engine.docker("run", "--rm", "--network=none", "--mount", mount, "busybox", "sh", "-c", script)
        assert SECRET not in done.stdout
        return "inside" in done.stdout

    with Racer(swap, link) as racer:
        tried, _ = for_a_while(start)
    assert racer.swaps > 500 and tried >= 3
    engine.ok("volume", "rm", "raced")
