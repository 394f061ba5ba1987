"""Names that become paths (SECURITY row 23), and who may walk through the data root (row 31)."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from berth.engine.events import Events
from berth.errors import BerthError, InvalidArgument
from berth.model.descriptor import OCI_LAYER, Descriptor
from berth.model.digest import Digest
from support.canary import canary
from support.stores import Stores, archive, open_stores, stream, volume_service

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="layers keep owners: root is needed")

HEX = "a" * 64
DIGESTS = ["../../canary/file", "sha256:../../canary/file", f"sha256:{HEX[1:]}", f"sha256:{HEX}0", f"sha256:{HEX.upper()}",
           f"sha256:{HEX[1:]}\0", f"sha512:{HEX}", f"sha256:{HEX}/../x", f"sha256:{HEX}\n", "", "/", "sha256:"]  # fmt: skip
NAMES = ["../x", "..", ".", "", "a/b", "/etc", "a\0b", "-x", ".hidden", "x\n"]


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    with open_stores(tmp_path / "root") as made:
        yield made


@pytest.mark.parametrize("text", DIGESTS)
def test_only_digests_lead_to_content(stores: Stores, tmp_path: Path, text: str) -> None:
    digest = Digest(text)
    blob = Descriptor(media_type=OCI_LAYER, digest=digest, size=1)
    with canary(tmp_path / "canary"):
        for call in (stores.blobs.path, stores.blobs.read, stores.blobs.delete, stores.blobs.has, stores.layers.directory):
            with pytest.raises(InvalidArgument):
                call(digest)
        with pytest.raises(BerthError):
            asyncio.run(stores.layers.apply_blob(None, digest, blob))
        with pytest.raises(BerthError):
            asyncio.run(stores.layers.apply_blob(None, Digest(f"sha256:{HEX}"), blob))
        with pytest.raises(BerthError):
            asyncio.run(stores.layers.remove(digest))
        with pytest.raises(BerthError):
            asyncio.run(stores.snapshots.prepare("key", digest))
    assert stores.snapshots.keys() == []


@pytest.mark.parametrize("name", NAMES)
def test_only_names_become_directories(stores: Stores, tmp_path: Path, name: str) -> None:
    with canary(tmp_path / "canary"):
        for call in (stores.snapshots.prepare(name, None), stores.snapshots.remove(name)):
            with pytest.raises(InvalidArgument):
                asyncio.run(call)
        if name:
            service = volume_service(stores.root, stores.database, Events())
            with pytest.raises(InvalidArgument):
                service.create(name)
            assert os.listdir(stores.root / "volumes") == []


def test_nobody_walks_through_the_data_root() -> None:
    """Also where the root itself had been opened up by mistake: setuid programs of images are out of reach."""
    place = Path(tempfile.mkdtemp(prefix="berth-nobody-"))
    try:
        os.chmod(place, 0o755)
        with open_stores(place / "root") as stores:
            _look_as_nobody(stores)
    finally:
        shutil.rmtree(place)


def _look_as_nobody(stores: Stores) -> None:
    os.chmod(stores.root, 0o755)
    layer = asyncio.run(stores.layers.apply_tar(None, stream(archive(("su", "file", b"#!/bin/sh"), mode=0o4755))))
    asyncio.run(stores.snapshots.prepare("key", layer.chain_id))
    volume = volume_service(stores.root, stores.database, Events()).create("data")
    setuid = stores.fs(layer.chain_id) / "su"
    assert setuid.stat().st_mode & stat.S_ISUID
    for name in os.listdir(stores.root):
        # Each by itself: what is in them is closed as well.
        assert not os.path.isdir(stores.root / name) or not os.stat(stores.root / name).st_mode & 0o077, name
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    assert subprocess.run([*nobody, "ls", str(stores.root)], capture_output=True).returncode == 0
    for path in (setuid, stores.root / "containers/key", volume.mountpoint, stores.blobs.path(stores.blobs.write(b"secret"))):
        asked = subprocess.run([*nobody, "stat", str(path)], capture_output=True, text=True)
        assert asked.returncode != 0 and "Permission denied" in asked.stderr, path
