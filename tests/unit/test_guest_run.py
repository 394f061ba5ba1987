"""How the guest lane chooses between the processor's virtualization and emulation."""

from __future__ import annotations

import os

import pytest
from scripts import guest_run


@pytest.mark.parametrize(
    ("module", "device", "wanted"),
    [
        ("kvm_intel", True, ["-accel", "kvm", "-cpu", "host"]),
        ("kvm_amd", True, ["-accel", "kvm", "-cpu", "host"]),
        # The device is there and answers, but runs only kernels made for it.
        ("kvm_pvm", True, ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "Nehalem"]),
        ("kvm_intel", False, ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "Nehalem"]),
    ],
)
def test_kvm_is_used_where_it_runs_an_ordinary_kernel(
    module: str, device: bool, wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "isdir", lambda path: path == "/sys/module/" + module)
    monkeypatch.setattr(os, "access", lambda path, mode: device and path == "/dev/kvm")
    assert guest_run.processor() == wanted
