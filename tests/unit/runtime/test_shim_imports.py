"""The launcher is forked for every container: what it imports is what every shim carries."""

from __future__ import annotations

import subprocess
import sys

from berth.runtime.fork_server import package_root

LAUNCH = "_ctypes binascii ctypes ctypes._endian errno fcntl gc resource struct types _struct _socket _stat _collections_abc"
JSON = """
    _collections _functools _json _operator _sre collections copyreg enum functools itertools json json.decoder json.encoder
    json.scanner keyword operator re re._casefix re._compiler re._constants re._parser reprlib
"""
OWN = "__future__ genericpath os os.path posixpath select signal stat"
ALLOWED = frozenset(f"{LAUNCH} {JSON} {OWN}".split())


def test_the_launcher_imports_an_allow_list_only():
    code = (
        "import sys; before = set(sys.modules); sys.path.insert(0, sys.argv[1]); import berth.runtime.launcher;"
        "import berth.runtime.launch; print(*(set(sys.modules) - before))"
    )
    command = [sys.executable, "-I", "-S", "-c", code, package_root()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.split())
    ours = {name for name in loaded if name.split(".")[0] == "berth"}
    assert {name.split(".")[1] for name in ours if "." in name} == {"failpoint", "kernel", "runtime", "trace"}
    assert loaded - ours <= ALLOWED, sorted(loaded - ours - ALLOWED)
