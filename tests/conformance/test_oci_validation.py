"""The Open Container Initiative's own tests of runtimes (runtime-tools), built by `make test-clients` where Go is installed: what
Debian's runc passes on this machine, berth-runtime passes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(sys.prefix, "oci-validation")
TESTS = sorted(path.stem for path in FOLDER.glob("*.t")) or ["not built"]
BERTH = str(Path(sys.executable).parent / "berth-runtime")
# What fails here and not with runc, and why.
_OTHERWISE = {
    "linux_ns_itype": {"inherit namespace mnt without type"},  # a container always has mounts of its own
    "linux_ns_path": {"set mnt namespace by path"},  # refused by name: the root filesystem would be made in another's
    # Sources of binds are opened before anything is mounted, and the kernel lists mounts by age.
    "mounts": {f"mounts[{number}]" for number in range(9, 17)},
}


def _failed(runtime: str, test: str) -> set[str]:
    """The checks of a test that fail with a runtime, by name; one that cannot be run fails as a whole."""
    program = [str(FOLDER / f"{test}.t")]
    done = subprocess.run(program, cwd=FOLDER, env=os.environ | {"RUNTIME": runtime}, capture_output=True, text=True, timeout=120)
    failed = re.findall(r"^not ok \d+ - (.*)$", done.stdout, re.MULTILINE)
    return {re.sub(r"^(mounts\[\d+\]).*", r"\1", name) for name in failed} or ({"all of it"} if done.returncode else set())


@pytest.mark.parametrize("test", TESTS)
def test_what_passes_with_runc_passes(test: str) -> None:
    if test == "not built":
        pytest.skip("the tests of runtime-tools are not there: make test-clients builds them where Go is installed")
    if shutil.which("runc") is None:
        pytest.skip("needs runc to compare with")
    theirs = _failed("runc", test)
    if theirs & {"all of it", "exit status 1"}:
        pytest.skip("runc itself cannot run it on this machine")
    assert _failed(BERTH, test) - theirs == _OTHERWISE.get(test, set())
