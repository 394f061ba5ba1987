"""The launch half is forked for every container: what it imports is what every shim carries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import berth

NAMES = (
    "__future__ __main__ _abc _codecs _collections_abc _ctypes _frozen_importlib _frozen_importlib_external _imp _io _signal",
    "_socket _stat _struct _thread _warnings _weakref abc binascii builtins codecs ctypes ctypes._endian encodings",
    "encodings.aliases encodings.utf_8 errno fcntl gc genericpath io marshal os os.path posix posixpath resource stat struct",
    "sys time types zipimport",
)
ALLOWED = frozenset(" ".join(NAMES).split())


def test_launch_imports_an_allow_list_only() -> None:
    root = Path(berth.__file__).parent.parent
    code = f"import sys; sys.path.insert(0, {str(root)!r}); import berth.runtime.launch; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.split() if not name.startswith("berth")}
    assert loaded <= ALLOWED, sorted(loaded - ALLOWED)


def test_launch_half_imports_kernel_and_runtime_only() -> None:
    root = Path(berth.__file__).parent.parent
    code = f"import sys; sys.path.insert(0, {str(root)!r}); import berth.runtime.launch; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    ours = {name for name in done.stdout.split() if name.startswith("berth.")}
    assert {name.split(".")[1] for name in ours} == {"failpoint", "kernel", "runtime", "trace"}
