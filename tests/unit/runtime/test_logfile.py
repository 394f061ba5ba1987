"""Docker's json-file records: their form, long lines, rotation, a full disk."""

from __future__ import annotations

import errno
import json
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.runtime import logfile
from berth.runtime.logfile import LogFile, records, split, timestamp


def lines_of(path):
    with open(path, "rb") as file:
        return [json.loads(line) for line in file.read().splitlines()]


def written(tmp_path, *writes, **options):
    log = LogFile(str(tmp_path / "log"), **options)
    for stream, data in writes:
        log.write(stream, data)
    log.close()
    return lines_of(tmp_path / "log")


def test_a_record_has_dockers_fields_in_dockers_order():
    text = records(b'hello "x"\n', "stdout", 1_700_000_000_000_000_001)
    assert text == b'{"log":"hello \\"x\\"\\n","stream":"stdout","time":"2023-11-14T22:13:20.000000001Z"}\n'


def test_attributes_are_in_every_record(tmp_path):
    found = written(tmp_path, ("stdout", b"a\nb\n"), attributes={"env": "x"})
    assert [record["attrs"] for record in found] == [{"env": "x"}, {"env": "x"}]


def test_time_is_rfc3339_with_nanoseconds():
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", timestamp(1_799_999_999_123_456_789))


@pytest.mark.parametrize(
    "text",
    [
        "a\nb\n",
        "\n\n",
        'quote " backslash \\ \\n\n',
        "tab\t bell\x07 esc\x1b[0m\r\n",
        "del \x7f here\nand\n",
        "ünïcödé €\n",
        "\x7f\n\x7f",
        "no end",
    ],
)
def test_one_record_a_line_and_the_texts_joined_are_the_output(text):
    found = [json.loads(line) for line in records(text.encode(), "stderr", 0).splitlines()]
    assert "".join(record["log"] for record in found) == text
    assert [record["log"] for record in found] == text.splitlines(keepends=True) or "\r" in text
    assert len(found) == text.count("\n") + (not text.endswith("\n"))


@pytest.mark.parametrize("text", ["", "\n", "\0", "\0\0\n", "\0" * 16384, "\0\n\0\n", "a\0"])
def test_zeros_are_what_they_were(text: str) -> None:
    assert "".join(json.loads(line)["log"] for line in records(text.encode(), "stdout", 0).splitlines()) == text


def test_bytes_that_are_not_utf8_are_replaced():
    assert json.loads(records(b"a\xff\xfeb\n", "stdout", 0))["log"] == "a\ufffd\ufffdb\n"


def test_an_unfinished_line_waits_for_its_end(tmp_path):
    log = LogFile(str(tmp_path / "log"))
    log.write("stdout", b"begin")
    log.write("stderr", b"other\n")
    assert [record["log"] for record in lines_of(tmp_path / "log")] == ["other\n"]
    log.write("stdout", b" end\nnext")
    log.finish("stdout")
    log.close()
    assert [record["log"] for record in lines_of(tmp_path / "log")] == ["other\n", "begin end\n", "next"]


def test_a_long_line_is_cut_at_16_kib_and_only_its_end_has_a_newline(tmp_path):
    found = written(tmp_path, ("stdout", b"x" * 40_000 + b"\nshort\n"))
    assert [len(record["log"]) for record in found] == [16384, 16384, 40_000 - 32768 + 1, 6]
    assert [record["log"][-1] for record in found] == ["x", "x", "\n", "\n"]


def test_a_long_line_is_not_cut_within_a_character(tmp_path):
    text = "x" + "€" * 10_000
    found = written(tmp_path, ("stdout", text.encode()))
    assert "".join(record["log"] for record in found) == text


@given(
    st.lists(st.binary(max_size=60) | st.sampled_from([b"\n", b"x" * 16384, b"y" * 30000]), max_size=12), st.integers(1, 50_000)
)
def test_splitting_loses_and_reorders_nothing(parts, size):
    data = b"".join(parts)
    rest, done = b"", b""
    for start in range(0, len(data), size):
        blocks, rest = split(rest + data[start : start + size])
        for block in blocks:
            assert block.endswith(b"\n") or 16384 - 3 <= len(block) <= 16384
        done += b"".join(blocks)
    assert done + rest == data
    assert b"\n" not in rest
    assert len(rest) <= 16384


def test_rotation_keeps_the_newest_files(tmp_path):
    log = LogFile(str(tmp_path / "log"), max_size=1000, max_files=3)
    for number in range(100):
        log.write("stdout", f"line {number:03}\n".encode())
    log.close()
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1", "log.2"]
    texts = [record["log"] for name in ("log.2", "log.1", "log") for record in lines_of(tmp_path / name)]
    assert texts == [f"line {number:03}\n" for number in range(100 - len(texts), 100)]
    assert all(os.path.getsize(tmp_path / name) < 1100 for name in os.listdir(tmp_path))


def test_a_block_larger_than_a_file_is_spread_over_files(tmp_path):
    log = LogFile(str(tmp_path / "log"), max_size=1000, max_files=100)
    log.write("stdout", b"".join(b"line %03d\n" % number for number in range(200)))
    log.close()
    names = ["log", *(f"log.{number}" for number in range(1, len(os.listdir(tmp_path))))]
    texts = [record["log"] for name in reversed(names) for record in lines_of(tmp_path / name)]
    assert texts == [f"line {number:03}\n" for number in range(200)]
    assert all(os.path.getsize(tmp_path / name) < 1100 for name in names)


def test_a_single_file_begins_again(tmp_path):
    found = written(tmp_path, *[("stdout", f"line {number:03}\n".encode()) for number in range(100)], max_size=1000, max_files=1)
    assert os.listdir(tmp_path) == ["log"]
    assert found[-1]["log"] == "line 099\n"
    assert len(found) < 20


def test_an_old_log_goes_on_and_half_a_record_at_its_end_is_dropped(tmp_path):
    written(tmp_path, ("stdout", b"first run\n"))
    with open(tmp_path / "log", "ab") as file:
        file.write(b'{"log":"torn')
    assert [record["log"] for record in written(tmp_path, ("stdout", b"second run\n"))] == ["first run\n", "second run\n"]


class FullDisk:
    """os.write that fails from a point on, after writing a part, until there is space again."""

    def __init__(self, monkeypatch):
        self.full = False
        self._write = os.write
        monkeypatch.setattr(logfile.os, "write", self.write)

    def write(self, fd, data):
        if self.full:
            if len(data) > 20:
                return self._write(fd, data[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._write(fd, data)


def test_a_full_disk_loses_whole_records_and_says_so_once(tmp_path, monkeypatch):
    disk = FullDisk(monkeypatch)
    log = LogFile(str(tmp_path / "log"))
    log.write("stdout", b"before\n")
    disk.full = True
    log.write("stdout", b"lost one\n")
    log.write("stdout", b"lost two\n")
    assert log.lost == 18
    disk.full = False
    log.write("stdout", b"after\n")
    log.write("stdout", b"later\n")
    log.close()
    texts = [record["log"] for record in lines_of(tmp_path / "log")]
    assert texts[0] == "before\n"
    assert "18 bytes of output were lost" in texts[1] and "No space left" in texts[1]
    assert texts[2:] == ["after\n", "later\n"]
    assert log.lost == 0


def test_a_rotation_that_fails_loses_no_record(tmp_path, monkeypatch):
    log = LogFile(str(tmp_path / "log"), max_size=200, max_files=2)

    def refuse(_source, _target):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(logfile.os, "rename", refuse)
    for number in range(20):
        log.write("stdout", f"line {number:03}\n".encode())
    log.close()
    assert [record["log"] for record in lines_of(tmp_path / "log")] == [f"line {number:03}\n" for number in range(20)]
