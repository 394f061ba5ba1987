"""Whom an address is open to."""

from __future__ import annotations

import pytest

from berth.model.exposure import Exposure, of_address, widest


@pytest.mark.parametrize(
    ("address", "exposure"),
    [
        ("127.0.0.1", "local"),
        ("127.9.9.9", "local"),
        ("::1", "local"),
        ("192.168.1.5", "lan"),
        ("10.0.0.1", "lan"),
        ("fd00::1", "lan"),
        ("fe80::1", "lan"),
        ("169.254.1.1", "lan"),
        ("", "any"),
        ("0.0.0.0", "any"),
        ("::", "any"),
        ("8.8.8.8", "any"),
        ("2001:4860::1", "any"),
    ],
)
def test_by_the_address(address: str, exposure: str) -> None:
    assert of_address(address) == exposure


def test_the_widest_counts() -> None:
    assert widest([Exposure.LOCAL, Exposure.ANY, Exposure.LAN]) is Exposure.ANY
    assert widest([Exposure.LAN, Exposure.LOCAL]) is Exposure.LAN
    assert widest([]) is None
