"""The tar reader against the standard library's writer and the reverse; damage is always a clear error."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.errors import DataLoss
from berth.storage.compression import compress_gzip, detect, expand
from berth.storage.tar_reader import FILE, SYMLINK, Source, TarReader, check_header, parse_number, parse_pax, parse_time
from berth.storage.tar_writer import END, encode
from berth.storage.unpack import clean


def reader(data: bytes, piece: int = 1000) -> TarReader:
    chunks = iter([data[at : at + piece] for at in range(0, len(data), piece)])
    return TarReader(Source(lambda: next(chunks, b"")))


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=160).filter(
    lambda name: name.strip("/") and len(name.encode()) < 1000
)
numbers = st.integers(0, 2**32 - 2)


@given(names, names, numbers, numbers, st.integers(-(2**35), 2**35), st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
def test_what_the_standard_library_writes(name: str, link: str, uid: int, gid: int, mtime: int, form: int) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.uid, info.gid, info.mtime = tarfile.SYMTYPE, link, uid, gid, mtime
    member = reader(info.tobuf(form, "utf-8", "surrogateescape") + END).next()
    assert member is not None
    assert (member.name.rstrip(b"/"), member.link) == (name.encode().rstrip(b"/"), link.encode())
    assert (member.uid, member.gid, member.mtime, member.kind) == (uid, gid, mtime * 10**9, SYMLINK)


@given(
    st.binary(min_size=1, max_size=300).filter(lambda name: b"\0" not in name),
    numbers,
    st.integers(0, 2**60),
    st.integers(-(2**40), 2**40),
    st.dictionaries(st.sampled_from(["user.a", "user.b", "security.capability"]), st.binary(max_size=40)),
)
def test_what_we_write_is_read_back(name: bytes, uid: int, size: int, mtime: int, xattrs: dict[str, bytes]) -> None:
    data = encode(name, FILE, mode=0o4755, uid=uid, gid=7, size=size, mtime=mtime, xattrs=xattrs)
    assert len(data) % 512 == 0
    member = reader(data).next()
    assert member is not None
    assert (member.name, member.uid, member.size, member.mtime) == (name, uid, size, mtime * 10**9)
    assert (member.mode, member.gid, member.xattrs or {}) == (0o4755, 7, xattrs)
    header = tarfile.TarInfo.frombuf(data[-512:], "utf-8", "surrogateescape")
    assert header.mode == 0o4755 and header.uname == ""


def test_pax_only_where_it_is_needed() -> None:
    assert len(encode(b"a" * 100, FILE)) == 512
    assert len(encode(b"a" * 150 + b"/" + b"b" * 100, FILE)) == 512
    assert len(encode(b"a" * 101, FILE)) == 3 * 512
    assert len(encode(b"a", FILE, uid=0o7777777, mtime=0o77777777777)) == 512
    assert len(encode(b"a", FILE, uid=0o7777777 + 1)) == 3 * 512


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"0000644\0", 0o644),
        (b"   644 \0", 0o644),
        (b"\0" * 8, 0),
        (b"\x80\0\0\0\0\0\0\x05", 5),
        (b"\x80" + (10**15).to_bytes(11, "big"), 10**15),
        (b"\xff" * 12, -1),
    ],
)
def test_numbers(field: bytes, value: int) -> None:
    assert parse_number(field) == value


@pytest.mark.parametrize("field", [b"0000648\0", b"-1\0", b"+1\0", b"0o17\0", b"1_0\0", b"0x1\0", b"1 2\0"])
def test_what_is_no_number(field: bytes) -> None:
    with pytest.raises(DataLoss, match="stands where a number should be"):
        parse_number(field)


def test_times() -> None:
    assert [parse_time(text) for text in (b"1.5", b"-1.5", b"7", b"-0.25", b"3.1234567899")] == [
        1_500_000_000, -1_500_000_000, 7_000_000_000, -250_000_000, 3_123_456_789]  # fmt: skip
    for text in (b"x", b"1.x"):
        with pytest.raises(DataLoss):
            parse_time(text)


@pytest.mark.parametrize("data", [b"99 a=b\n", b"x a=b\n", b"6 a=b\n6 a=c", b"-1 a=b\n", b"7 a=b\n"])
def test_damaged_pax_headers(data: bytes) -> None:
    assert parse_pax(b"5 a=\n") == [(b"a", b"")]
    with pytest.raises(DataLoss, match="pax"):
        parse_pax(data)


def test_global_headers_hold_for_what_follows() -> None:
    record = b"18 uid=1234567890\n"
    assert len(record) == 18
    info = tarfile.TarInfo("pax_global_header")
    info.type, info.size = tarfile.XGLTYPE, len(record)
    data = info.tobuf() + record.ljust(512, b"\0") + encode(b"a", FILE) + encode(b"b", FILE, uid=0o7777777 + 1)
    tar = reader(data + END)
    assert [(m.name, m.uid) for m in iter(tar.next, None)] == [(b"a", 1234567890), (b"b", 0o7777777 + 1)]


def test_signed_checksums_of_old_writers() -> None:
    header = bytearray(encode(b"caf\xe9", FILE)[-512:])
    header[0] = 0xE9
    signed = sum(b - 256 if b > 127 else b for b in header[:148] + header[156:]) + 256
    header[148:156] = b"%06o\0 " % signed
    check_header(bytes(header))
    header[148:156] = b"%06o\0 " % (signed + 1)
    with pytest.raises(DataLoss, match="checksum"):
        check_header(bytes(header))


@settings(max_examples=200)
@given(st.data())
def test_damage_is_a_clear_error_or_nothing(data: st.DataObject) -> None:
    buffer = io.BytesIO()
    form = data.draw(st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name in ("a" * 120, "b"):
            info = tarfile.TarInfo(name)
            info.size = 700
            tar.addfile(info, io.BytesIO(b"x" * 700))
    damaged = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, 6 * 512))
        damaged[at] = data.draw(st.integers(0, 255))
    whole = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    tar_reader = reader(whole)
    null = os.open("/dev/null", os.O_WRONLY)
    try:
        while (member := tar_reader.next()) is not None:
            if member.kind == FILE and member.sparse is None and member.size < 10_000:
                tar_reader.copy_to(null)
    except DataLoss:
        pass
    finally:
        os.close(null)


def test_headers_are_bounded(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = b"L", 1 << 40
    with pytest.raises(DataLoss, match="extended header of"):
        reader(info.tobuf(tarfile.GNU_FORMAT)).next()


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        (b"./", b""), (b".", b""), (b"/", b""), (b"", b""), (b"a/b", b"a/b"), (b"./a", b"a"), (b"/a/", b"a"), (b"a/./b", b"a/b"),
        (b"a//b", b"a/b"), (b"../../a", b"a"), (b"a/../../b", b"b"), (b"..a/b..", b"..a/b.."), (b"a/..", b""), (b"a/.", b"a"),
        (b"./../x", b"x"), (b"././a", b"a"), (b"/./a", b"a"),
    ],
)  # fmt: skip
def test_names_are_cleaned(name: bytes, cleaned: bytes) -> None:
    assert clean(name) == cleaned


@given(st.binary(max_size=40))
def test_no_cleaned_name_leads_up(name: bytes) -> None:
    parts = clean(name).split(b"/")
    assert b".." not in parts and b"." not in parts and (b"" not in parts or parts == [b""])


def test_gzip_is_the_same_each_time() -> None:
    pieces = [os.urandom(1000) + bytes(50_000) for _ in range(10)]
    packed = b"".join(compress_gzip(iter(pieces)))
    assert packed == b"".join(compress_gzip(iter(pieces)))
    assert detect(packed) == "gzip"
    chunks = iter([packed[at : at + 7] for at in range(0, len(packed), 7)])
    assert b"".join(expand(lambda: next(chunks, b""))) == b"".join(pieces)


@pytest.mark.parametrize("data", [b"", b"x", b"plain text", bytes(600)])
def test_what_is_not_compressed_stays(data: bytes) -> None:
    chunks = iter([data])
    assert b"".join(expand(lambda: next(chunks, b""))) == data
