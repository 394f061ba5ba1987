"""Sizes of containers and volumes: refused with the reason where the file system has no project quotas, and by their effects
where it has them. The latter is shown in the guest lane, on ext4 and on xfs."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from berth.kernel import quota
from berth.storage.quota import lack
from support import leak
from support.engine import SLOW, EngineProcess, engine_with
from support.failpoints import Failpoints

MB = 1 << 20
MISSING = lack(tempfile.gettempdir())
possible = pytest.mark.skipif(MISSING is not None, reason="this file system has no project quotas: shown in the guest lane")
impossible = pytest.mark.skipif(MISSING is None, reason="this file system has project quotas")
# ext4 says the first, xfs the second.
FULL = ("Disk quota exceeded", "No space left on device")
FILL = "dd if=/dev/zero of={} bs=1M count={} 2>&1"


def projects() -> dict[int, quota.Quota]:
    """Those of engines that have a limit or anything else, where the tests' directories are."""
    fd, found = os.open(tempfile.gettempdir(), os.O_RDONLY), {}
    try:
        entry = quota.next_quota(fd, 1 << 30)
        while entry is not None:
            if entry.limit or entry.space or entry.inodes:
                found[entry.project] = entry
            entry = quota.next_quota(fd, entry.project + 1)
        return found
    finally:
        os.close(fd)


def project_of(path: str) -> int:
    """The project of a directory."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return quota.get_project(fd)
    finally:
        os.close(fd)


def await_projects(wanted: dict[int, quota.Quota]) -> None:
    """Whoever runs a container with --rm does not wait for its files to be gone."""
    deadline = time.monotonic() + leak.SETTLE_SECONDS * SLOW
    while (found := projects()) != wanted:
        assert time.monotonic() < deadline, f"projects stay in the table: {found}"
        time.sleep(0.1)


@contextmanager
def no_project_left() -> Iterator[None]:
    before = projects()
    yield
    await_projects(before)


@pytest.fixture
def quotas(engine: EngineProcess) -> Iterator[EngineProcess]:
    """The engine; afterwards no project has anything."""
    with no_project_left():
        yield engine
        if found := engine.ok("ps", "-aq").split():
            engine.ok("rm", "-fv", *found)
        if found := engine.ok("volume", "ls", "-q").split():
            engine.ok("volume", "rm", *found)


def fill(engine: EngineProcess, name: str, path: str, megabytes: int) -> str:
    """What dd says in a container; it has to fail."""
    done = engine.docker("exec", name, "sh", "-c", FILL.format(path, megabytes))
    assert done.returncode != 0, done.stdout
    return done.stdout


def kilobytes(engine: EngineProcess, name: str, path: str) -> list[int]:
    """Size, used and available by df."""
    return [int(word) for word in engine.ok("exec", name, "df", "-k", path).splitlines()[-1].split()[1:4]]


# Where there are none


@impossible
def test_a_container_with_a_size_is_refused_and_not_half_made(engine: EngineProcess) -> None:
    before = engine.ok("ps", "-aq"), engine.ok("volume", "ls", "-q")
    done = engine.docker("create", "--name", "sized", "-v", "/data", "--storage-opt", "size=1g", "busybox")
    assert done.returncode != 0 and MISSING is not None
    words = f"--storage-opt size: the size of the container cannot be limited: {MISSING.what}: {MISSING.change}"
    assert done.stderr.strip() == f"Error response from daemon: {words}"
    assert (engine.ok("ps", "-aq"), engine.ok("volume", "ls", "-q")) == before
    engine.ok("run", "--rm", "--name", "sized", "--storage-opt", "size=0", "busybox", "true")


@impossible
def test_a_volume_with_a_size_is_refused(engine: EngineProcess) -> None:
    before = engine.ok("volume", "ls", "-q")
    done = engine.docker("volume", "create", "-o", "size=1g", "sized")
    words = f"create sized: quota size requested but no quota support: {MISSING}"
    assert (done.returncode, done.stderr.strip()) == (1, f"Error response from daemon: {words}")
    assert engine.ok("volume", "ls", "-q") == before and not os.path.exists(f"{engine.root}/volumes/sized")


@impossible
def test_an_engine_does_not_start_with_a_size_that_it_cannot_hold() -> None:
    engine = EngineProcess("--storage-opt", "size=1g")
    try:
        with pytest.raises(AssertionError, match="did not become ready"):
            engine.start()
        assert f"--storage-opt size: the size of containers cannot be limited: {MISSING}" in engine.log_text()
        assert "Traceback" not in engine.log_text()
    finally:
        engine.shut_down()


def test_options_that_there_are_not(engine: EngineProcess) -> None:
    done = engine.docker("create", "--storage-opt", "nonsense=1", "busybox")
    assert "Error response from daemon: Unknown option nonsense" in done.stderr
    done = engine.docker("create", "--storage-opt", "size=much", "busybox")
    assert "invalid size: 'much'" in done.stderr


def test_the_doctor_says_whether_there_can_be_sizes(engine: EngineProcess) -> None:
    done = engine.berth("doctor", "--format", "json")
    (found,) = [entry for entry in json.loads(done.stdout)["findings"] if entry["check"] == "storage.quotas"]
    assert (found["severity"], found["facts"]["possible"]) == (("ok", True) if MISSING is None else ("note", False)), found


# Where there are


@possible
def test_a_container_cannot_write_beyond_its_size_and_others_can(quotas: EngineProcess) -> None:
    quotas.ok("run", "-d", "--name", "sized", "--storage-opt", "size=20m", "busybox", "sleep", "6000")
    quotas.ok("run", "-d", "--name", "free", "busybox", "sleep", "6000")
    assert json.loads(quotas.ok("inspect", "-f", "{{json .HostConfig.StorageOpt}}", "sized")) == {"size": "20m"}
    assert kilobytes(quotas, "sized", "/")[0] == 20 << 10
    assert any(words in fill(quotas, "sized", "/file", 40) for words in FULL)
    assert 18 * MB < int(quotas.ok("exec", "sized", "stat", "-c", "%s", "/file")) <= 20 * MB
    quotas.ok("exec", "free", "sh", "-c", FILL.format("/file", 40))
    # What belongs to the container and is not the container's: its log and the engine's own files do not count.
    (entry,) = projects().values()
    assert entry.limit == 20 * MB and entry.space <= 20 * MB
    directory = f"{quotas.root}/containers/{quotas.ok('inspect', '-f', '{{.Id}}', 'sized')}"
    assert project_of(f"{directory}/upper") == project_of(f"{directory}/work") == entry.project
    assert project_of(directory) == 0


@possible
def test_a_full_container_starts_again_and_can_be_cleaned_up(quotas: EngineProcess) -> None:
    quotas.ok("run", "-d", "--name", "sized", "--storage-opt", "size=20m", "busybox", "sleep", "6000")
    fill(quotas, "sized", "/file", 40)
    quotas.docker("exec", "sized", "sh", "-c", "i=0; while echo x > /small$i; do i=$((i+1)); done; exit 0")
    quotas.ok("restart", "-t", "0", "sized")
    assert any(words in fill(quotas, "sized", "/other", 5) for words in FULL), "the limit holds after the start, too"
    assert [entry.limit for entry in projects().values()] == [20 * MB]
    quotas.ok("exec", "sized", "rm", "/file")
    quotas.ok("exec", "sized", "sh", "-c", FILL.format("/other", 5))
    assert kilobytes(quotas, "sized", "/")[1] < 10 << 10


@possible
def test_what_a_full_container_holds_can_be_had(quotas: EngineProcess, tmp_path: Path) -> None:
    quotas.ok(
        "create", "--name", "sized", "--storage-opt", "size=5m", "busybox", "sh", "-c", "cat /dev/zero > /file; echo x > /new"
    )
    quotas.docker("start", "-a", "sized")
    assert "A /file" in quotas.ok("diff", "sized").splitlines()
    quotas.ok("cp", "sized:/file", str(tmp_path / "file"))
    assert 4 * MB < (tmp_path / "file").stat().st_size <= 5 * MB
    quotas.ok("export", "-o", str(tmp_path / "tar"), "sized")
    assert (tmp_path / "tar").stat().st_size > 5 * MB
    quotas.ok("commit", "sized", "kept")
    done = quotas.docker("cp", str(tmp_path / "file"), "sized:/again")
    assert done.returncode != 0 and "space" in done.stderr, done.stderr
    # The layer belongs to nobody's quota, and is as free as any other.
    assert quotas.ok("run", "--rm", "kept", "sh", "-c", FILL.format("/more", 10) + " && stat -c %s /file").splitlines()[
        -1
    ] == str((tmp_path / "file").stat().st_size)
    quotas.ok("rm", "sized")
    assert projects() == {}
    quotas.ok("rmi", "kept")


@possible
def test_limits_hold_over_engines_and_numbers_are_not_shared() -> None:
    with no_project_left(), engine_with() as own:
        own.ok("run", "-d", "--name", "one", "--storage-opt", "size=10m", "busybox", "sleep", "6000")
        own.ok("volume", "create", "-o", "size=12m", "data")
        before = projects()
        own.kill()
        own.start()
        assert {entry.limit for entry in projects().values()} == {10 * MB, 12 * MB} and projects().keys() == before.keys()
        own.ok("run", "-d", "--name", "two", "--storage-opt", "size=14m", "-v", "data:/data", "busybox", "sleep", "6000")
        assert sorted(entry.limit for entry in projects().values()) == [10 * MB, 12 * MB, 14 * MB]
        for name, path in (("one", "/file"), ("two", "/file"), ("two", "/data/file")):
            assert any(words in fill(own, name, path, 20) for words in FULL)
        # Somebody makes the table anew: a start sets what is missing.
        fd = os.open(own.root, os.O_RDONLY)
        for project in projects():
            quota.set_limit(fd, project, 0)
        os.close(fd)
        own.ok("restart", "-t", "0", "one", "two")
        assert sorted(entry.limit for entry in projects().values()) == [10 * MB, 12 * MB, 14 * MB]
        own.ok("rm", "-f", "one", "two")
        own.ok("volume", "rm", "data")


@possible
def test_an_engine_killed_while_it_removes_leaves_no_limit(tmp_path: Path) -> None:
    failpoints = Failpoints(str(tmp_path / "failpoints"))
    own = EngineProcess(environment=failpoints.environment)
    with no_project_left(), leak.nothing_left(own.snapshot):
        try:
            own.start()
            own.add_busybox()
            for name in ("snapshot.prepare.before-row", "container.remove.after-directory", "volume.remove.after-rename"):
                failpoints.arm(name, "kill")
                own.docker("create", "--name", "sized", "--storage-opt", "size=10m", "busybox")
                own.docker("volume", "create", "-o", "size=10m", "data")
                own.docker("rm", "sized")
                own.docker("volume", "rm", "data")
                assert own.process is not None and own.process.wait() != 0, name
                failpoints.clear()
                own.start()
                own.docker("rm", "sized")
                own.docker("volume", "rm", "data")
            own.terminate()
            own.start()
            assert projects() == {}
        finally:
            own.shut_down()


@possible
def test_a_default_of_the_engine(tmp_path: Path) -> None:
    with no_project_left(), engine_with("--storage-opt", "overlay2.size=10m") as own:
        own.ok("run", "-d", "--name", "default", "busybox", "sleep", "6000")
        own.ok("run", "-d", "--name", "own", "--storage-opt", "size=20m", "busybox", "sleep", "6000")
        own.ok("run", "-d", "--name", "any", "--storage-opt", "size=0", "busybox", "sleep", "6000")
        assert sorted(entry.limit for entry in projects().values()) == [10 * MB, 20 * MB]
        assert any(words in fill(own, "default", "/file", 15) for words in FULL)
        own.ok("exec", "own", "sh", "-c", FILL.format("/file", 15))
        own.ok("exec", "any", "sh", "-c", FILL.format("/file", 30))
        # Builds have no size.
        (tmp_path / "Dockerfile").write_text(f"FROM busybox\nRUN {FILL.format('/file', 30)}\n")
        own.ok("build", "-t", "built", str(tmp_path))
        own.ok("rm", "-f", "default", "own", "any")
        assert projects() == {}


@possible
def test_a_volume_cannot_hold_more_than_its_size(quotas: EngineProcess, tmp_path: Path) -> None:
    assert quotas.ok("volume", "create", "-o", "size=10m", "data") == "data"
    assert json.loads(quotas.ok("volume", "inspect", "-f", "{{json .Options}}", "data")) == {"size": "10m"}
    quotas.ok("run", "-d", "--name", "one", "-v", "data:/home", "busybox", "sleep", "6000")
    assert quotas.ok("exec", "one", "ls", "/home") == "worker", "what the image has there"
    assert kilobytes(quotas, "one", "/home")[0] == 10 << 10
    (tmp_path / "big").write_bytes(b"x" * 15 * MB)
    done = quotas.docker("cp", str(tmp_path / "big"), "one:/home/big")
    assert done.returncode != 0 and "space" in done.stderr, done.stderr
    assert kilobytes(quotas, "one", "/home")[1] <= 10 << 10
    quotas.docker("exec", "one", "rm", "-f", "/home/big")
    assert any(words in fill(quotas, "one", "/home/file", 20) for words in FULL)
    quotas.ok("exec", "one", "sh", "-c", FILL.format("/file", 20))
    quotas.ok("rm", "-f", "one")
    assert 9 * MB < (Path(quotas.root) / "volumes/data/_data/file").stat().st_size <= 10 * MB
    quotas.ok("volume", "rm", "data")
    assert projects() == {}
    mount = "type=volume,target=/data,volume-opt=size=5m"
    said = quotas.docker("run", "--rm", "--mount", mount, "busybox", "sh", "-c", FILL.format("/data/file", 20))
    assert said.returncode != 0 and any(words in said.stdout for words in FULL)
    await_projects({})


ESCAPE = """
import fcntl, os, struct, sys
def attributes(path):
    fd, buffer = os.open(path, os.O_RDONLY), bytearray(28)
    fcntl.ioctl(fd, 0x801c581f, buffer)
    return fd, struct.unpack('=5I8x', buffer)
def attempt(what, path, project, inherit):
    fd, (flags, a, b, _, c) = attributes(path)
    try:
        fcntl.ioctl(fd, 0x401c5820, struct.pack('=5I8x', flags | 0x200 if inherit else flags & ~0x200, a, b, project, c))
        print(what, 'ESCAPED')
    except OSError as error:
        print(what, error.strerror)
own = []
for place in sys.argv[1:]:
    open(place + '/file', 'w').close(); os.mkdir(place + '/folder')
    project = attributes(place + '/file')[1][3]
    own.append(project)
    for path in (place + '/file', place + '/folder', place):
        inherits = os.path.isdir(path)
        attempt(path + ' to none', path, 0, inherits)
        attempt(path + ' to another', path, project + 1, inherits)
        if inherits:
            attempt(path + ' not inherited', path, project, False)
    # The flag of chattr -P, by the older call.
    fd = os.open(place + '/folder', os.O_RDONLY); flags = bytearray(8); fcntl.ioctl(fd, 0x80086601, flags)
    value = struct.unpack('=Q', flags)[0] & ~0x20000000
    try:
        fcntl.ioctl(fd, 0x40086602, struct.pack('=Q', value))
        print('flags', 'ESCAPED' if attributes(place + '/folder')[1][0] & 0x200 == 0 else 'kept')
    except OSError as error:
        print('flags', error.strerror)
    open(place + '/folder/inside', 'w').close()
    assert attributes(place + '/folder/inside')[1][3] == attributes(place + '/file')[1][3] == project
print('projects', *own)
"""


@possible
@pytest.mark.parametrize(
    "rights",
    [
        (),
        ("--cap-add", "SYS_ADMIN", "--cap-add", "DAC_READ_SEARCH", "--security-opt", "seccomp=unconfined"),
    ],
    ids=["default", "more-capabilities"],
)
def test_no_container_takes_its_files_out_of_its_project(quotas: EngineProcess, rights: tuple[str, ...]) -> None:
    """The kernel lets only the first user namespace change projects, whatever root can do in its own."""
    quotas.ok("volume", "create", "-o", "size=10m", "data")
    program = f"import sys; sys.argv[1:] = ['/tmp', '/data']\n{ESCAPE}"
    done = quotas.python(program, "--storage-opt", "size=10m", "-v", "data:/data", *rights)
    assert done.returncode == 0, done.stderr
    *attempts, last = done.stdout.splitlines()
    assert len(attempts) == 18 and not [line for line in attempts if "ESCAPED" in line], done.stdout
    numbers = [int(word) for word in last.split()[1:]]
    assert len(set(numbers)) == 2 and min(numbers) >= 1 << 30, "it has seen what it tried to change"


@possible
def test_what_has_the_hosts_user_namespace_can_take_files_out(quotas: EngineProcess) -> None:
    """As with Docker: the guide says so. It shows, too, that the attempts above would be noticed."""
    done = quotas.python(f"import sys; sys.argv[1:] = ['/tmp']\n{ESCAPE}", "--storage-opt", "size=10m", "--userns", "host")
    assert "/tmp/file to none ESCAPED" in done.stdout.splitlines(), done
