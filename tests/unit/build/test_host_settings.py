"""What of the host's settings reaches RUN steps, and what never does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from berth.build import host_settings
from berth.build.host_settings import HostSettings, HostSettingsReader, apt_settings, npm_variables, pip_variables


def test_apt() -> None:
    dump = (
        'Acquire::Check-Valid-Until "false";\nAcquire::http::Proxy "http://user:secret@proxy:1";\n'
        'Acquire::https::Proxy "http://proxy:3128";\nAPT::Architecture "amd64";\nAcquire::Check-Date "";\n'
    )
    assert apt_settings(dump) == ['Acquire::Check-Valid-Until "false";', 'Acquire::https::Proxy "http://proxy:3128";']


def test_pip() -> None:
    listing = (
        "global.index-url='https://mirror.example/simple'\n:env:.find-links='/opt/wheels'\n"
        "global.extra-index-url='/a/folder'\nglobal.trusted-host='mirror.example'\n:env:.default-timeout='9'\n"
        "install.proxy='http://u:p@proxy:1'\n"
    )
    assert pip_variables(listing) == {
        "PIP_INDEX_URL": "https://mirror.example/simple",
        "PIP_TRUSTED_HOST": "mirror.example",
        "PIP_DEFAULT_TIMEOUT": "9",
    }


def test_npm() -> None:
    listing = '; "user" config from /x\n\nregistry = "https://mirror.example/npm/"\ncafile = "/x"\nyes = false\n'
    assert npm_variables(listing) == {"npm_config_registry": "https://mirror.example/npm/"}


def test_a_variable_of_the_image_wins() -> None:
    settings = HostSettings("/x", {"SSL_CERT_FILE": "/host", "PIP_CERT": "/host"})
    assert settings.environment(["SSL_CERT_FILE=/own"]) == ["SSL_CERT_FILE=/own", "PIP_CERT=/host"]
    assert settings.mounts()[0].destination == "/dev/berth-build"
    assert "ro" in settings.mounts()[0].options


def _read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, outputs: dict[str, str], own: bool) -> HostSettings:
    async def output(*command: str) -> str:
        return outputs.get(command[0], "")

    bundle = tmp_path / "bundle.pem"
    bundle.write_text("CERTS")
    if own:
        (tmp_path / "own.crt").write_text("x")
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setattr(host_settings, "_output", output)
    monkeypatch.setattr(host_settings, "BUNDLES", (str(bundle),))
    monkeypatch.setattr(host_settings, "OWN_CERTIFICATES", (str(tmp_path / "*.crt"),))
    return asyncio.run(HostSettingsReader(str(tmp_path / "settings"), mode).read())


def test_auto_does_nothing_on_a_plain_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _read(tmp_path, monkeypatch, "auto", {}, own=False) == host_settings.NO_SETTINGS


def test_auto_with_certificates_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _read(tmp_path, monkeypatch, "auto", {"apt-config": 'Acquire::Check-Date "0";'}, own=True)
    assert settings.variables is not None
    assert settings.variables["SSL_CERT_FILE"] == "/dev/berth-build/ca-certificates.crt"
    assert (tmp_path / "settings/ca-certificates.crt").read_text() == "CERTS"
    conf = (tmp_path / "settings/apt.conf").read_text()
    assert conf == 'Acquire::Check-Date "0";\nAcquire::https::CAInfo "/dev/berth-build/ca-certificates.crt";\n'


def test_off_and_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _read(tmp_path, monkeypatch, "off", {}, own=True) == host_settings.NO_SETTINGS
    assert _read(tmp_path, monkeypatch, "on", {}, own=False).variables is not None
