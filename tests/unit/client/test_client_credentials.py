"""Credentials out of Docker's configuration file."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from berth.client.credentials import credentials, forget, keep, registry_auth


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path / "config.json"


def test_none_without_a_file(config: Path) -> None:
    assert credentials("docker.io") == {}
    assert json.loads(base64.urlsafe_b64decode(registry_auth("docker.io"))) == {}


def test_from_the_file_with_the_hubs_odd_key(config: Path) -> None:
    secret = base64.b64encode(b"me:pass:word").decode()
    config.write_text(
        json.dumps({"auths": {"https://index.docker.io/v1/": {"auth": secret}, "r.example:5000": {"identitytoken": "t"}}})
    )
    assert credentials("docker.io") == {"username": "me", "password": "pass:word", "serveraddress": "https://index.docker.io/v1/"}
    assert credentials("r.example:5000") == {"identitytoken": "t", "serveraddress": "r.example:5000"}


def test_from_a_helper(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "docker-credential-test"
    helper.write_text('#!/bin/sh\nread server\necho "{\\"Username\\":\\"u\\",\\"Secret\\":\\"$server\\"}"\n')
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    config.write_text(json.dumps({"credHelpers": {"r.example": "test"}}))
    assert credentials("r.example") == {"username": "u", "password": "r.example", "serveraddress": "r.example"}


def test_a_helper_keeps_and_forgets(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "docker-credential-test"
    kept = tmp_path / "kept"
    helper.write_text(
        f'#!/bin/sh\ncase "$1" in store) cat > {kept};; get) cat {kept} 2>/dev/null;; erase) cat >/dev/null; rm {kept};; esac\n'
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    config.write_text(json.dumps({"credsStore": "test", "other": 1}))
    assert keep("r.example", "me", "secret") == "docker-credential-test"
    assert credentials("r.example") == {"username": "me", "password": "secret", "serveraddress": "r.example"}
    assert json.loads(config.read_text()) == {"credsStore": "test", "other": 1, "auths": {"r.example": {}}}
    keep("r.example", "me", "secret", "token")
    assert credentials("r.example") == {"identitytoken": "token", "serveraddress": "r.example"}
    assert forget("r.example") and not kept.exists()
    assert not forget("r.example")


def test_the_file_keeps_what_no_helper_does(config: Path) -> None:
    assert keep("r.example", "me", "secret", "token") == str(config)
    assert config.stat().st_mode & 0o777 == 0o600
    assert credentials("r.example") == {"identitytoken": "token", "serveraddress": "r.example"}
    assert "secret" not in config.read_text()
    assert forget("r.example") and credentials("r.example") == {}
