"""Sectors that cannot be read any more under each kind of file that an engine keeps, while it runs and when it starts: whoever
needs that file is told which it is, nobody else notices, nothing half done is left, and what is fetched again is well again.

The disk is a filesystem of the kernel's on a device that gives errors (support/bad_sectors.py): nothing in berth is replaced.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import audit, leak
from support.bad_sectors import BadDisk
from support.engine import EngineProcess, busybox_tar
from support.registry import registry

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a filesystem: needs root"),
    pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="needs mkfs.ext4 (e2fsprogs)"),
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse"),
]
ERROR = "input/output error"


def other_tar() -> bytes:
    """The test image with one file more: it shares no layer with it."""
    out = io.BytesIO(busybox_tar())
    with tarfile.open(fileobj=out, mode="a") as tar:
        tar.addfile(tarfile.TarInfo("other"))
    return out.getvalue()


@dataclass
class Place:
    """An engine on a disk that can go bad, with `runs`, which runs, and `victim`, which has said "said" and ended with 3."""

    disk: BadDisk
    engine: EngineProcess
    victim: str = ""

    @property
    def root(self) -> Path:
        return Path(self.engine.root)

    def refuse(self, *words: str, names: str, input: bytes | None = None) -> str:
        """A command that fails for the disk, and names the file."""
        done = self.engine.docker(*words, input=input)
        said = (done.stdout + done.stderr).replace("Input/output", "input/output")
        assert done.returncode != 0 and ERROR in said and names in said, (words, done)
        assert "internal error" not in said, (words, done)
        return said

    def break_off(self, *words: str, names: str) -> None:
        """A command whose answer had begun: the connection is broken, and the engine's log names the file."""
        done = self.engine.docker(*words)
        assert done.returncode != 0 and "unexpected EOF" in done.stderr, (words, done)
        last = self.engine.log_text().splitlines()[-1]
        assert "was broken off" in last and ERROR in last and names in last, last

    def others_work(self) -> None:
        """Nobody else has noticed, and the log of the engine has no bug in it."""
        assert self.engine.ok("exec", "runs", "echo", "inside") == "inside"
        assert self.engine.ok("run", "--rm", "other", "echo", "new") == "new"
        assert set(self.engine.ok("ps", "-a", "--format", "{{.Names}}").split()) == {"runs", "victim"}
        assert "Traceback" not in self.engine.log_text(), self.engine.log_text()

    def layer_of(self, image: str) -> Path:
        """The only layer of an image."""
        (diff_id,) = self.engine.ok("image", "inspect", "-f", '{{join .RootFS.Layers " "}}', image).split()
        return self.root / "layers" / diff_id.removeprefix("sha256:") / "fs"

    def blob(self, digest: str) -> Path:
        return self.root / "blobs/sha256" / digest.removeprefix("sha256:")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("unreadable")
    disk = BadDisk(directory)
    engine = EngineProcess("--pool-size", "0", root=f"{disk.place}/root")
    try:
        with leak.nothing_left(engine.snapshot):
            try:
                engine.start()
                engine.add_busybox("one")
                # From elsewhere: it has a blob.
                engine.ok("save", "-o", f"{directory}/one.tar", "one")
                engine.ok("rmi", "one")
                engine.ok("load", "-i", f"{directory}/one.tar")
                engine.ok("import", "-", "other", input=other_tar())
                engine.ok("run", "-d", "--name", "runs", "other", "sleep", "100000")
                program = "echo said; echo mine > /root/mine; exit 3"
                assert engine.docker("run", "--name", "victim", "one", "sh", "-c", program).returncode == 3
                found = Place(disk, engine)
                found.victim = engine.ok("inspect", "-f", "{{.Id}}", "victim")
                yield found
                engine.ok("rm", "-fv", "runs", "victim")
            finally:
                engine.shut_down()
    finally:
        disk.close()


@pytest.fixture(autouse=True)
def well_again(place: Place) -> Iterator[None]:
    """Whatever was spoiled, everybody else goes on meanwhile; when it can be read again all is as before, and nothing is left."""
    before = {name: sorted(os.listdir(place.root / name)) for name in ("layers", "ingest", "volumes", "containers")}
    yield
    try:
        place.others_work()
    finally:
        place.disk.heal()
    assert {name: sorted(os.listdir(place.root / name)) for name in before} == before
    audit.await_consistency(place.engine)
    assert place.engine.docker("start", "-a", "victim").returncode == 3
    assert place.engine.ok("run", "--rm", "-v", "/etc", "one", "cat", "/etc/group").startswith("root")


def test_a_file_of_a_layer(place: Place, tmp_path: Path) -> None:
    place.disk.spoil(place.layer_of("one") / "etc/passwd")
    place.refuse("run", "--rm", "-u", "worker", "one", "true", names="/etc/passwd")
    place.refuse("cp", "victim:/etc/passwd", "-", names="passwd")
    place.break_off("export", "-o", f"{tmp_path}/x", "victim", names="etc/passwd")
    place.refuse("run", "--rm", "-v", "/etc", "one", "true", names="passwd")
    place.refuse("build", "-", names="passwd", input=b"FROM other\nCOPY --from=one /etc/passwd /x\n")
    place.refuse("build", "-", names="/etc/passwd", input=b"FROM one\nUSER worker\nRUN true\n")
    assert place.engine.ok("image", "inspect", "-f", "{{.Os}}", "one") == "linux"


def test_a_program_of_a_layer(place: Place) -> None:
    """Its first page: the kernel cannot execute it. A later one: it has a bus error, as on any host."""
    name = "new/program"
    place.engine.ok("build", "-q", "-t", "programs", "-", input=b"FROM other\nRUN mkdir /new && cp /bin/busybox /new/program\n")
    try:
        (path,) = (layer / "fs" / name for layer in (place.root / "layers").iterdir() if (layer / "fs" / name).exists())
        place.disk.spoil(path, 0, 4096)
        said = place.refuse("run", "--rm", "programs", "/new/program", "true", names="/new/program")
        assert 'exec: "/new/program"' in said
        place.disk.heal()
        place.disk.forget(path)
        place.disk.spoil(path, 4096)
        done = place.engine.docker("run", "--rm", "programs", "/new/program", "true")
        assert done.returncode == 128 + 7 or done.returncode == 128 + 11, done
    finally:
        place.disk.heal()
        place.engine.ok("rmi", "programs")
        place.engine.ok("builder", "prune", "-af")


def test_a_file_that_a_container_has_written(place: Place, tmp_path: Path) -> None:
    path = place.root / "containers" / place.victim / "upper/root/mine"
    place.disk.spoil(path)
    place.refuse("commit", "victim", "committed", names="root/mine")
    place.refuse("cp", "victim:/root/mine", "-", names="mine")
    place.break_off("export", "-o", f"{tmp_path}/x", "victim", names="root/mine")
    assert "A /root/mine" in place.engine.ok("diff", "victim")
    assert place.engine.docker("start", "-a", "victim").returncode == 3


def test_content_of_an_image_while_it_is_sent(place: Place, tmp_path: Path) -> None:
    """It is told; and who fetches the image again has it whole again."""
    engine = place.engine
    largest = max((place.root / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    with registry(tmp_path / "registry") as host:
        engine.ok("tag", "one", f"{host}/one")
        place.disk.spoil(largest, 100_000, 4096)
        place.break_off("save", "-o", f"{tmp_path}/x", "one", names=largest.name)
        place.refuse("push", f"{host}/one", names=largest.name)
        found = engine.berth("doctor", "--deep", "--severity", "problem").stdout
        assert largest.name in found and "cannot be read any more" in " ".join(found.split())
        # What doctor says: remove it, and load or pull the image again.
        largest.unlink()
        engine.ok("load", "-i", str(place.disk.place.parent / "one.tar"))
        place.disk.forget(largest)
        engine.ok("push", f"{host}/one")
        engine.ok("rmi", f"{host}/one")


def test_content_of_a_layer_that_has_to_be_unpacked_again(place: Place, tmp_path: Path) -> None:
    """What is here already is read to see whether it is whole: when it cannot be read it is not, and comes anew."""
    engine, archive = place.engine, f"{tmp_path}/third.tar"
    engine.ok("build", "-q", "-t", "third", "-", input=b"FROM one\nRUN echo more > /more\n")
    engine.ok("save", "-o", archive, "third")
    engine.ok("rmi", "third")
    engine.ok("builder", "prune", "-af")
    places = place.root / "layers", place.root / "blobs/sha256"
    before = [set(path.iterdir()) for path in places]
    engine.ok("load", "-i", archive)
    (layer,), blobs = (set(path.iterdir()) - known for path, known in zip(places, before, strict=True))
    shutil.rmtree(layer)
    for blob in blobs:
        place.disk.spoil(blob)
    engine.ok("load", "-i", archive)
    for blob in blobs:
        place.disk.forget(blob)
        assert blob.read_bytes()
    assert engine.ok("run", "--rm", "third", "cat", "/more") == "more"
    engine.ok("rmi", "third")


def test_the_configuration_of_an_image(place: Place, tmp_path: Path) -> None:
    """It is in memory while the engine runs; the next one cannot have it."""
    engine = place.engine
    identifier = engine.ok("image", "inspect", "-f", "{{.Id}}", "one")
    path = place.blob(identifier)
    engine.kill()
    place.disk.spoil(path)
    engine.start()
    place.refuse("image", "inspect", "one", names=path.name)
    place.refuse("run", "--rm", "one", "true", names=path.name)
    place.refuse("save", "-o", f"{tmp_path}/x", "one", names=path.name)
    assert "other" in engine.ok("images", "--format", "{{.Repository}}")
    place.refuse("start", "-a", "victim", names=path.name)
    engine.ok("load", "-i", str(place.disk.place.parent / "one.tar"))
    place.disk.forget(path)
    assert engine.ok("image", "inspect", "-f", "{{.Id}}", "one") == identifier


def test_a_log(place: Place) -> None:
    """Reading it is told in the stream, as Docker does; it is no reason not to run again."""
    path = place.root / "containers" / place.victim / f"{place.victim}-json.log"
    place.disk.spoil(path)
    for words in (), ("-n", "1"), ("-f",), ("--since", "1h"):
        said = place.refuse("logs", *words, "victim", names=path.name)
        assert "Error grabbing logs" in said
    done = place.engine.docker("start", "-a", "victim")
    assert done.returncode == 3 and done.stdout == "said\n", done


@pytest.mark.parametrize("name", ["hosts", "hostname", "resolv.conf"])
def test_a_file_that_is_written_anew(place: Place, name: str) -> None:
    """The engine knows what belongs there."""
    place.disk.spoil(place.root / "containers" / place.victim / name)
    assert place.engine.docker("start", "-a", "victim").returncode == 3
    place.disk.forget(place.root / "containers" / place.victim / name)
    assert (place.root / "containers" / place.victim / name).read_text()


@pytest.mark.parametrize("name", ["exit.json", "events.jsonl"])
def test_a_record(place: Place, name: str) -> None:
    """The next engine starts without it."""
    path = place.root / name if name == "events.jsonl" else place.root / "containers" / place.victim / name
    pid = place.engine.ok("inspect", "-f", "{{.State.Pid}}", "runs")
    place.engine.kill()
    place.disk.spoil(path)
    place.engine.start()
    assert place.engine.ok("inspect", "-f", "{{.State.Pid}}", "runs") == pid
    assert place.engine.ok("inspect", "-f", "{{.State.ExitCode}}", "victim") == "3"
    assert place.engine.docker("events", "--since", "1", "--until", "2").returncode == 0


def test_an_exit_record_that_nobody_has_read_yet(place: Place) -> None:
    """Ended while no engine ran, and how cannot be known: the container has ended all the same, and can be started again."""
    engine = place.engine
    engine.ok("run", "-d", "--name", "ends", "other", "sh", "-c", "sleep 2; exit 4")
    key = engine.ok("inspect", "-f", "{{.Id}}", "ends")
    pid = int(engine.ok("inspect", "-f", "{{.State.Pid}}", "ends"))
    record = place.root / "containers" / key / "exit.json"
    engine.kill()
    deadline = time.monotonic() + 20
    while not record.exists() or os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    place.disk.spoil(record)
    engine.start()
    try:
        assert engine.ok("inspect", "-f", "{{.State.Status}}", "ends") == "exited"
        assert engine.ok("inspect", "-f", "{{.State.ExitCode}}", "ends") in ("137", "4")
        assert engine.docker("start", "-a", "ends").returncode == 4
    finally:
        engine.ok("rm", "-f", "ends")


def test_the_database_at_the_start(place: Place) -> None:
    """There is no engine without it; its containers go on, and it says what to do."""
    engine = place.engine
    pid = engine.ok("inspect", "-f", "{{.State.Pid}}", "runs")
    for name in "berth.db", "berth.db-wal":
        engine.kill()
        place.disk.spoil(place.root / name)
        engine.spawn()
        assert engine.process is not None and engine.process.wait(20) == 1, name
        last = engine.log_text().splitlines()[-1]
        place.disk.heal()
        engine.start()
        assert f"{place.root}/berth.db cannot be read ({place.root}/{name}: {ERROR})" in last and "dmesg" in last, last
        assert engine.ok("inspect", "-f", "{{.State.Pid}}", "runs") == pid


def test_pages_of_the_database_while_it_runs(place: Place) -> None:
    """More of it than SQLite keeps in memory. What needs a page that is gone is refused in words; the rest goes on."""
    engine = place.engine
    for n in range(4):
        with engine.client as client:
            body = json.dumps({"Name": f"vessel{n}", "Labels": {"much": "x" * 1_000_000}}).encode()
            client.request("POST", "/volumes/create", body=body, headers={"Content-Type": "application/json"}).read()
    place.disk.spoil(place.root / "berth.db")
    place.disk.spoil(place.root / "berth.db-wal")
    refused = 0
    try:
        for words in (
            ("images", "-a"), ("volume", "ls"), ("ps", "-a"), ("network", "ls"), ("create", "one"), ("system", "df"),
            ("tag", "one", "again"), ("volume", "create", "more"), ("volume", "inspect", "vessel0"), ("history", "one"),
        ):  # fmt: skip
            done = engine.docker(*words)
            said = (done.stdout + done.stderr).lower()
            assert "internal error" not in said, (words, done, engine.log_text())
            if done.returncode:
                refused += 1
                assert "berth.db" in said and "dmesg" in said, (words, done)
        engine.ok("kill", "-s", "CONT", "runs")
    finally:
        place.disk.heal()
        engine.kill()
        engine.start()
        engine.docker("rm", *engine.ok("ps", "-aq", "-f", "status=created").split())
        engine.docker("rmi", "again")
        engine.docker("volume", "rm", "more", *(f"vessel{n}" for n in range(4)))
    assert refused, "nothing needed a page of the disk: this test looks at nothing"
