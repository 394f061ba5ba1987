"""Trees that a container made hard to remove."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from berth.kernel.fs import remove_tree
from support.stores import Stores


@pytest.mark.parametrize("flag", ["+i", "+a"])
def test_flags_that_forbid_removal_are_taken_off(tmp_path: Path, flag: str) -> None:
    top = tmp_path / "top"
    (top / "directory").mkdir(parents=True)
    (top / "directory/file").touch()
    (top / "directory/link").symlink_to("file")
    paths = [str(top / "directory/file"), str(top / "directory"), str(top)]
    if subprocess.run(["chattr", flag, *paths], capture_output=True).returncode:
        pytest.skip(f"this filesystem or user cannot set {flag}")
    with pytest.raises(PermissionError):
        os.unlink(top / "directory/file")
    remove_tree(str(top))
    assert os.listdir(tmp_path) == []


async def test_a_snapshot_with_such_files_is_removed(stores: Stores) -> None:
    view = await stores.snapshots.prepare("key", None)
    upper = Path(view.store) / str(view.upper)
    (upper / "f").touch()
    if subprocess.run(["chattr", "+i", str(upper / "f")], capture_output=True).returncode:
        pytest.skip("this filesystem or user cannot set +i")
    await stores.snapshots.remove("key")
    assert os.listdir(stores.root / "containers") == []
