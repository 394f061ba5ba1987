"""What the launch path and the resolver process load: each megabyte of it is one per host or per container."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[3] / "src"


def loaded_by(module: str) -> set[str]:
    program = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); import {module}; print(' '.join(sys.modules))"
    output = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    return set(output.split())


def test_netlink_loads_next_to_nothing() -> None:
    loaded = loaded_by("berth.kernel.nfnetlink")
    assert not loaded & {"typing", "dataclasses", "socket", "enum", "re", "ctypes", "asyncio", "json"}
    assert {name for name in loaded if name.startswith("berth")} == {
        "berth",
        "berth.kernel",
        "berth.kernel.netlink",
        "berth.kernel.nfnetlink",
    }


def test_resolver_loads_no_framework() -> None:
    loaded = loaded_by("berth.network.resolver")
    assert not loaded & {"typing", "dataclasses", "asyncio", "logging", "msgspec", "dnslib", "ipaddress", "subprocess"}
