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
    helper = (config.get("credHelpers") or {}).get(key) or config.get("credsStore")
    if helper:
        found = _from_helper(str(helper), key)
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


def _from_helper(helper: str, key: str) -> dict[str, str]:
    import subprocess

    try:
        done = subprocess.run(
            [f"docker-credential-{helper}", "get"], input=key.encode(), capture_output=True, timeout=60, check=False
        )
    except FileNotFoundError as error:
        raise InvalidArgument(
            f"the credential helper docker-credential-{helper} named in {config_path()} is not installed"
        ) from error
    if done.returncode != 0:
        return {}
    found = msgspec.json.decode(done.stdout)
    user, secret = str(found.get("Username", "")), str(found.get("Secret", ""))
    if user == "<token>":
        return {"identitytoken": secret, "serveraddress": key}
    return {"username": user, "password": secret, "serveraddress": key}
