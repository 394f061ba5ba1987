"""Registry credentials as Docker keeps them: ~/.docker/config.json (or DOCKER_CONFIG), and its credential helpers."""

from __future__ import annotations

import base64
import os
from typing import Any

import msgspec

from berth.errors import InvalidArgument

HUB_KEY = "https://index.docker.io/v1/"


def config_path() -> str:
    """Where Docker's configuration file is."""
    folder = os.environ.get("DOCKER_CONFIG") or os.path.join(os.path.expanduser("~"), ".docker")
    return os.path.join(folder, "config.json")


def read_config() -> dict[str, Any]:
    """Docker's configuration file; empty when there is none."""
    try:
        with open(config_path(), "rb") as file:
            found = msgspec.json.decode(file.read())
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError) as error:
        raise InvalidArgument(f"cannot read {config_path()}: {error}") from error
    return found if isinstance(found, dict) else {}


def server_key(domain: str) -> str:
    """The key under which a registry's credentials are kept."""
    return HUB_KEY if domain in ("docker.io", "index.docker.io", "registry-1.docker.io") else domain


def credentials(domain: str) -> dict[str, str]:
    """User name and password (or identity token) for a registry; empty when there are none."""
    config = read_config()
    key = server_key(domain)
    if helper := _helper(config, key):
        found = _from_helper(helper, key)
        if found:
            return found
    entry = (config.get("auths") or {}).get(key) or (config.get("auths") or {}).get(f"https://{key}")
    return _from_entry(entry, key) if isinstance(entry, dict) else {}


def encode_auth(values: dict[str, str]) -> str:
    """The value of an X-Registry-Auth header."""
    return base64.urlsafe_b64encode(msgspec.json.encode(values)).decode()


def registry_auth(domain: str) -> str:
    """The X-Registry-Auth header for a registry; an empty object when no credentials are kept."""
    return encode_auth(credentials(domain))


def all_registries() -> str:
    """The X-Registry-Config header for builds: every registry whose credentials are in the file."""
    config = read_config()
    keys = set(config.get("auths") or {}) | set(config.get("credHelpers") or {})
    found = {key: credentials("docker.io" if key == HUB_KEY else key.removeprefix("https://")) for key in sorted(keys)}
    return encode_auth({key: value for key, value in found.items() if value})  # type: ignore[misc]


def _from_entry(entry: dict[str, Any], key: str) -> dict[str, str]:
    if entry.get("identitytoken"):
        return {"identitytoken": str(entry["identitytoken"]), "serveraddress": key}
    if not entry.get("auth"):
        return {}
    try:
        user, _, password = base64.b64decode(str(entry["auth"])).decode().partition(":")
    except ValueError as error:
        raise InvalidArgument(f"the credentials of {key} in {config_path()} are damaged: log in again") from error
    return {"username": user, "password": password, "serveraddress": key}


def keep(key: str, user: str, secret: str, token: str = "") -> str:
    """Remember a registry's credentials: with the helper that is set up for it, else in the file. What keeps them, in words."""
    config = read_config()
    auths = config.setdefault("auths", {})
    if helper := _helper(config, key):
        entry = {"ServerURL": key, "Username": "<token>" if token else user, "Secret": token or secret}
        code, output = _ask_helper(helper, "store", msgspec.json.encode(entry))
        if code:
            raise InvalidArgument(f"docker-credential-{helper} did not store the credentials of {key}: {output.strip()}")
        auths[key] = {}
        _write(config)
        return f"docker-credential-{helper}"
    auths[key] = {"auth": base64.b64encode(f"{user}:{'' if token else secret}".encode()).decode()}
    if token:
        auths[key]["identitytoken"] = token
    _write(config)
    return config_path()


def forget(key: str) -> bool:
    """Forget a registry's credentials. Whether there were any."""
    config = read_config()
    had = (config.get("auths") or {}).pop(key, None) is not None
    if helper := _helper(config, key):
        # An entry that is not there is an error of the helper, and none of ours.
        code, _ = _ask_helper(helper, "erase", key.encode())
        had = had or code == 0
    if had:
        _write(config)
    return had


def _write(config: dict[str, Any]) -> None:
    import json

    path = config_path()
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    part = f"{path}.{os.getpid()}"
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        json.dump(config, file, indent="\t")
    os.replace(part, path)


def _helper(config: dict[str, Any], key: str) -> str:
    return str((config.get("credHelpers") or {}).get(key) or config.get("credsStore") or "")


def _ask_helper(helper: str, action: str, data: bytes) -> tuple[int, str]:
    """Exit code and output of a credential helper, a program of Docker's protocol."""
    import subprocess

    try:
        done = subprocess.run([f"docker-credential-{helper}", action], input=data, capture_output=True, timeout=60, check=False)
    except FileNotFoundError as error:
        raise InvalidArgument(
            f"the credential helper docker-credential-{helper} named in {config_path()} is not installed"
        ) from error
    return done.returncode, (done.stdout or done.stderr).decode(errors="replace")


def _from_helper(helper: str, key: str) -> dict[str, str]:
    code, output = _ask_helper(helper, "get", key.encode())
    if code:
        return {}
    try:
        found = msgspec.json.decode(output)
    except msgspec.MsgspecError as error:
        raise InvalidArgument(f"docker-credential-{helper} gave an answer that is no JSON: {error}") from error
    user, secret = str(found.get("Username", "")), str(found.get("Secret", ""))
    if user == "<token>":
        return {"identitytoken": secret, "serveraddress": key}
    return {"username": user, "password": secret, "serveraddress": key}
