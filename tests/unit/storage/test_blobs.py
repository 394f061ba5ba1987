"""Blobs: verified, resumable, named by nothing but a digest."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from berth.errors import DataLoss, InvalidArgument, NotFound
from berth.model.digest import Digest, digest_of
from berth.storage.blob import BlobStore

DATA = os.urandom(3_000_000)
DIGEST = digest_of(DATA)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(str(tmp_path))


class Source:
    """Serves DATA (or something else) from an offset, and may break off."""

    def __init__(self, data: bytes = DATA, stop_at: int | None = None) -> None:
        self.data = data
        self.stop_at = stop_at
        self.asked: list[int] = []

    def __call__(self, offset: int) -> AsyncIterator[bytes]:
        self.asked.append(offset)
        return self._chunks(offset)

    async def _chunks(self, offset: int) -> AsyncIterator[bytes]:
        for at in range(offset, len(self.data), 70_000):
            if self.stop_at is not None and at > self.stop_at:
                raise ConnectionResetError("cut")
            yield self.data[at : at + 70_000]


def ingest(store: BlobStore, source: Callable[[int], AsyncIterator[bytes]], size: int = len(DATA)) -> list[int]:
    seen: list[int] = []
    asyncio.run(store.ingest(DIGEST, size, source, seen.append))
    return seen


def test_small_blobs(store: BlobStore) -> None:
    digest = store.write(b"config")
    assert store.write(b"config") == digest
    assert store.read(digest) == b"config" and store.has(digest) and store.size(digest) == 6
    assert [found for found, _, _ in store.walk()] == [digest]
    assert os.stat(store.path(digest)).st_mode & 0o777 == 0o600
    Path(store.path(digest)).write_bytes(b"change")
    assert not store.verify(digest)
    with pytest.raises(DataLoss, match="damaged on disk"):
        store.read(digest)
    store.write(b"config")
    assert store.read(digest) == b"config"
    store.delete(digest)
    store.delete(digest)
    with pytest.raises(NotFound):
        store.path(digest)


@pytest.mark.parametrize("digest", ["../../etc/passwd", "sha256:" + "a" * 63, "sha256:" + "A" * 64, "sha512:" + "a" * 64,
                                    "sha256:" + "a" * 63 + "\0", "sha256:" + "a" * 64 + "\n", "", "sha256:../../x"])  # fmt: skip
def test_only_digests_become_paths(store: BlobStore, digest: str) -> None:
    for call in (store.path, store.has, store.read, store.delete, store.location):
        with pytest.raises(InvalidArgument, match="invalid digest"):
            call(Digest(digest))
    with pytest.raises(InvalidArgument, match="invalid digest"):
        asyncio.run(store.ingest(Digest(digest), 1, Source()))


def test_a_download_that_is_cut_off_goes_on_where_it_was(store: BlobStore, tmp_path: Path) -> None:
    broken = Source(stop_at=1_500_000)
    with pytest.raises(ConnectionResetError):
        ingest(store, broken)
    have = os.stat(tmp_path / f"ingest/{DIGEST[7:]}.part").st_size
    assert 1_400_000 < have < 1_600_000
    source = Source()
    seen = ingest(store, source)
    assert source.asked == [have]
    assert seen[0] == have and seen[-1] == len(DATA)
    assert Path(store.path(DIGEST)).read_bytes() == DATA
    assert os.listdir(tmp_path / "ingest") == []


def test_what_is_complete_is_not_asked_for_again(store: BlobStore, tmp_path: Path) -> None:
    part = tmp_path / f"ingest/{DIGEST[7:]}.part"
    part.write_bytes(DATA)
    source = Source()
    ingest(store, source)
    assert source.asked == [] and store.has(DIGEST)
    ingest(store, source)
    assert source.asked == []
    Path(store.path(DIGEST)).write_bytes(b"damaged")
    ingest(store, source)
    assert source.asked == [0] and store.verify(DIGEST)


@pytest.mark.parametrize("present", [len(DATA), len(DATA) + 5])
def test_a_part_that_is_wrong_is_fetched_anew(store: BlobStore, tmp_path: Path, present: int) -> None:
    (tmp_path / f"ingest/{DIGEST[7:]}.part").write_bytes(bytes(present))
    source = Source()
    ingest(store, source)
    assert source.asked == [0] and store.verify(DIGEST)


@pytest.mark.parametrize(
    ("data", "text"),
    [(DATA[:-1] + b"x", "does not match its digest"), (DATA + b"x", "longer than"), (DATA[:-1], "was cut off after")],
)
def test_wrong_content_is_refused(store: BlobStore, tmp_path: Path, data: bytes, text: str) -> None:
    with pytest.raises(DataLoss, match=text):
        ingest(store, Source(data))
    assert not store.has(DIGEST)
    # Only what was cut off is worth keeping.
    assert bool(os.listdir(tmp_path / "ingest")) == ("cut off" in text)


def test_two_downloads_of_one_blob_are_one(store: BlobStore) -> None:
    sources = [Source(), Source()]

    async def both() -> None:
        await asyncio.gather(*(store.ingest(DIGEST, len(DATA), source) for source in sources))

    asyncio.run(both())
    assert sorted(len(source.asked) for source in sources) == [0, 1]


def test_the_sweep_keeps_parts_for_another_try(store: BlobStore, tmp_path: Path) -> None:
    ingest_directory = tmp_path / "ingest"
    for name, age in (("a" * 64 + ".part", 0), ("b" * 64 + ".part", 1000), ("c" * 64 + ".part", 1000), ("x.tmp", 0)):
        (ingest_directory / name).touch()
        os.utime(ingest_directory / name, (5000 - age, 5000 - age))
    assert store.sweep(frozenset([Digest("sha256:" + "c" * 64)]), parts_before=4500) == 2
    assert sorted(os.listdir(ingest_directory)) == ["a" * 64 + ".part", "c" * 64 + ".part"]
    assert store.sweep() == 2
