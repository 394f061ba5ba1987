from __future__ import annotations

import asyncio
import gzip
import json
import os
import struct
import subprocess
import threading
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.engine import log_files, logs
from berth.engine.log_files import Source
from berth.engine.logs import LogQuery
from berth.runtime.logfile import LogFile


def line(text: str, stream: str = "stdout", second: int = 0, attrs: dict[str, str] | None = None) -> bytes:
    record: dict[str, object] = {"log": text, "stream": stream, "time": f"2026-01-01T00:00:{second:02}.000000000Z"}
    if attrs:
        record["attrs"] = attrs
    return json.dumps(record).encode() + b"\n"


async def collect(
    path: Path, query: LogQuery, framed: bool = False, ended: asyncio.Future[object] | None = None
) -> bytes:
    return b"".join([piece async for piece in logs.stream(str(path), query, framed=framed, ended=ended)])


def read(path: Path, framed: bool = False, **options: object) -> bytes:
    return asyncio.run(collect(path, LogQuery(**options), framed))  # type: ignore[arg-type]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "c-json.log"
    (tmp_path / "c-json.log.2").write_bytes(line("1\n", second=1) + line("2\n", second=2))
    (tmp_path / "c-json.log.1").write_bytes(line("3\n", second=3))
    path.write_bytes(line("4\n", "stderr", 4) + line("5\n", second=5, attrs={"k": "v", "a": "b"}))
    return path


def test_all_files_in_order(log: Path) -> None:
    assert read(log) == b"1\n2\n3\n4\n5\n"


def test_frames(log: Path) -> None:
    assert read(log, framed=True, tail=2) == struct.pack(">BxxxL", 2, 2) + b"4\n" + struct.pack(">BxxxL", 1, 2) + b"5\n"


@pytest.mark.parametrize(
    ("tail", "text"), [(0, b""), (1, b"5\n"), (3, b"3\n4\n5\n"), (4, b"2\n3\n4\n5\n"), (9, b"1\n2\n3\n4\n5\n")]
)
def test_tail(log: Path, tail: int, text: bytes) -> None:
    assert read(log, tail=tail) == text


def test_streams_times_and_details(log: Path) -> None:
    assert read(log, stdout=False) == b"4\n" and read(log, stderr=False, tail=2) == b"5\n"
    moment = logs.parse_rfc3339("2026-01-01T00:00:03Z")
    assert read(log, since=moment) == b"3\n4\n5\n" and read(log, until=moment) == b"1\n2\n3\n"
    assert read(log, tail=1, timestamps=True, details=True) == b"2026-01-01T00:00:05.000000000Z a=b,k=v 5\n"


def test_a_torn_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "l"
    path.write_bytes(line("a\n") + b'{"log":"b\n' + line("c\n") + b'{"log":"unfinished')
    assert read(path) == b"a\nc\n"


def test_no_log_is_an_empty_one(tmp_path: Path) -> None:
    assert read(tmp_path / "nothing") == b"" and read(tmp_path / "nothing", tail=3) == b""


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.text(max_size=30), max_size=8), max_size=4), st.integers(0, 40))
def test_tail_is_the_end_of_everything(tmp_path_factory: pytest.TempPathFactory, parts: list[list[str]], count: int) -> None:
    directory = tmp_path_factory.mktemp("logs")
    for number, texts in enumerate(parts):
        name = "l" if number == len(parts) - 1 else f"l.{len(parts) - 1 - number}"
        (directory / name).write_bytes(b"".join(line(t + "\n") for t in texts))
    everything = [t + "\n" for texts in parts for t in texts]
    wanted = "".join(everything[len(everything) - count :] if count < len(everything) else everything) if count else ""
    assert read(directory / "l", tail=count).decode() == wanted


def test_tail_across_blocks(tmp_path: Path) -> None:
    path = tmp_path / "l"
    path.write_bytes(b"".join(line(f"{n} {'x' * 300}\n") for n in range(2000)))
    assert [part.split()[0] for part in read(path, tail=700).splitlines()] == [b"%d" % n for n in range(1300, 2000)]


def test_following_sees_rotation_and_ends_with_the_container(tmp_path: Path) -> None:
    async def case() -> None:
        path = tmp_path / "l"
        path.write_bytes(line("0\n"))
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        seen: list[bytes] = []

        async def reader() -> None:
            async for piece in logs.stream(str(path), LogQuery(follow=True), framed=False, ended=ended):
                seen.append(piece)

        async def until(count: int) -> None:
            for _ in range(5000):
                if len(b"".join(seen).splitlines()) >= count:
                    return
                await asyncio.sleep(0.001)

        task = asyncio.create_task(reader())
        await until(1)
        with path.open("ab") as file:
            file.write(line("1\n"))
        await until(2)
        with path.open("ab") as file:
            file.write(line("2\n"))
        path.rename(tmp_path / "l.1")
        path.write_bytes(line("3\n"))
        await until(4)
        with path.open("ab") as file:
            file.write(line("4\n"))
        ended.set_result(None)
        await task
        assert b"".join(seen) == b"0\n1\n2\n3\n4\n"

    asyncio.run(asyncio.wait_for(case(), 10))


def test_following_stops_at_until(tmp_path: Path) -> None:
    async def case() -> None:
        path = tmp_path / "l"
        path.write_bytes(line("0\n"))
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        query = LogQuery(follow=True, until=logs.parse_rfc3339("2026-01-01T00:00:01Z"))
        pieces = [p async for p in logs.stream(str(path), query, framed=False, ended=never)]
        assert pieces == [b"0\n"]

    asyncio.run(asyncio.wait_for(case(), 10))


@pytest.mark.parametrize(("tail", "told"), [(-1, ["0\n", "1\n"]), (1, ["1\n"]), (0, [])])
def test_without_following_the_log_is_told_as_it_is(tmp_path: Path, tail: int, told: list[str]) -> None:
    """A container may write faster than anybody reads; the line that it is writing is not one yet."""
    path = tmp_path / "l"
    path.write_bytes(line("0\n") + line("1\n") + line("2\n")[:9])
    source = Source(str(path), as_it_is=True)
    source.open()
    with path.open("ab") as file:
        file.write(line("2\n")[9:] + line("3\n"))
    if tail >= 0:
        source.skip_to_tail(tail)
    path.rename(tmp_path / "l.1")
    path.write_bytes(line("4\n"))
    texts = []
    while piece := source.read():
        texts += [record.log for record in logs.decode(piece)]
    source.close()
    assert texts == told


def test_following_loses_nothing_to_several_rotations(tmp_path: Path) -> None:
    path = tmp_path / "l"
    path.write_bytes(line("0\n"))
    source = Source(str(path))
    assert logs.decode(source.read())[0].log == "0\n" and source.read() == b""
    path.rename(tmp_path / "l.2")
    (tmp_path / "l.1").write_bytes(line("1\n"))
    path.write_bytes(line("2\n"))
    texts = []
    while piece := source.read():
        texts += [record.log for record in logs.decode(piece)]
    assert texts == ["1\n", "2\n"]
    source.close()


def test_a_follower_loses_nothing_while_files_are_rotated_compressed_and_removed(tmp_path: Path) -> None:
    """Behind by several rotations, it meets the file that it has open again as a compressed one."""
    path = tmp_path / "l"
    writer = LogFile(str(path), max_size=2000, max_files=6, compress=True)
    writer.write("stdout", b"first\n")
    source = Source(str(path))
    texts = [record.log for record in logs.decode(source.read())]
    for turn in range(8):
        for number in range(30):
            writer.write("stdout", f"{turn} {number:02}\n".encode())
        while piece := source.read():
            texts += [record.log for record in logs.decode(piece)]
    writer.close()
    while piece := source.read():
        texts += [record.log for record in logs.decode(piece)]
    source.close()
    assert texts == ["first\n", *(f"{turn} {number:02}\n" for turn in range(8) for number in range(30))]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["l", *(f"l.{n}.gz" for n in range(1, 6))]


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_rotation_while_the_files_are_opened_hides_none(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow machine it comes between the list of the files and their opening: each has the next one's name then."""
    path = tmp_path / "l"
    writer = LogFile(str(path), max_size=1000, max_files=20, compress=True)
    for number in range(40):
        writer.write("stdout", f"line {number:03}\n".encode())
    opened: list[int] = []

    class Rotating(log_files._File):
        def __init__(self, fd: int) -> None:
            super().__init__(fd)
            opened.append(fd)
            if len(opened) == at:
                writer.rotate()
                writer.write("stdout", b"line 040\n")

    monkeypatch.setattr(log_files, "_File", Rotating)
    source = Source(str(path))
    source.open()
    assert len(opened) > 3
    texts: list[str] = []
    while piece := source.read():
        texts += [record.log for record in logs.decode(piece)]
    source.close()
    writer.close()
    assert texts == [f"line {number:03}\n" for number in range(41)]


def test_a_log_in_the_middle_of_a_rotation_is_read_as_a_whole(tmp_path: Path) -> None:
    """The oldest are renamed first, so for a moment a number is missing. Names that only look like the log's are not it."""
    for name, text in (("l", "4"), ("l.2", "3"), ("l.3.gz", "2"), ("l.3", "2"), ("l.11", "1")):
        (tmp_path / name).write_bytes(line(text + "\n"))
    for name in ("l.gz", "l.4.gz.part", "l.x", "l.05", "ll", "l.1.2", "x.l.1"):
        (tmp_path / name).write_bytes(line("foreign\n"))
    assert read(tmp_path / "l") == b"1\n2\n3\n4\n"
    assert [os.path.basename(name) for name in log_files.names(str(tmp_path / "l"))] == ["l", "l.2", "l.3", "l.11"]


def test_compressed_files_are_read_like_the_others(tmp_path: Path) -> None:
    path = tmp_path / "l"
    writer = LogFile(str(path), max_size=1000, max_files=20, compress=True)
    for number in range(100):
        writer.write("stdout", f"line {number:03}\n".encode())
    writer.close()
    everything = [b"line %03d" % number for number in range(100)]
    assert read(path).splitlines() == everything
    for count in (0, 1, 9, 40, 100, 1000):
        assert read(path, tail=count).splitlines() == everything[100 - min(count, 100) :]
    packed = sorted(tmp_path.glob("l.*.gz"))
    assert len(packed) > 5 and subprocess.run(["gzip", "-t", *packed], check=False).returncode == 0


def test_a_damaged_compressed_file_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "l"
    writer = LogFile(str(path), max_size=1000, max_files=20, compress=True)
    for number in range(30):
        writer.write("stdout", f"line {number:03}\n".encode())
    writer.close()
    packed = tmp_path / "l.1.gz"
    packed.write_bytes(packed.read_bytes()[:60])
    assert read(path).splitlines()[-1] == b"line 029"


def test_what_has_compressed_well_is_not_read_at_once(tmp_path: Path) -> None:
    """A container chooses what its log expands to; the engine's memory is not its to fill."""
    path = tmp_path / "l"
    path.write_bytes(line("last\n"))
    with open(tmp_path / "l.1.gz", "wb") as file, gzip.GzipFile("1-2-3", "wb", 9, file) as packed:
        packed.write(line("0" * 8000 + "\n") * 8000)
    tracemalloc.start()
    try:
        assert read(path, tail=1) == b"last\n"
        assert len(read(path, tail=3).splitlines()[0]) == 8000
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_a_reader_that_ends_while_the_files_are_opened_leaves_none_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client may go at any moment, and the thread that opens the files for it cannot be stopped."""
    path = tmp_path / "l"
    path.write_bytes(line("0\n"))
    opening, opened, open_all = threading.Event(), [], log_files._open_all

    def slowly(name: str) -> list[log_files._File]:
        opening.set()
        time.sleep(0.05)
        files = open_all(name)
        opened.extend(file.fd for file in files)
        return files

    async def case() -> None:
        ended: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        reading = asyncio.create_task(collect(path, LogQuery(follow=True), ended=ended))
        await asyncio.to_thread(opening.wait)
        reading.cancel()
        await asyncio.wait([reading])
        assert opened
        for fd in opened:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)

    monkeypatch.setattr(log_files, "_open_all", slowly)
    asyncio.run(case())
