"""The host's network settings for RUN steps: what package managers need behind a proxy, a mirror, or a CA of the site's own.

Nothing of it enters the image, its history or the cache key. A directory with the CA bundle and a piece of apt
configuration is mounted read-only at /dev/berth-build: /dev is a tmpfs of the step, so the mount point leaves no trace in
the layer, and no package can write over it (as one writes over /etc/ssl/certs/ca-certificates.crt). The rest are variables of the
RUN process alone; a variable that the image or the Dockerfile sets itself is left alone.

`auto` (the default) does it when the host has CA certificates of its own, or one of its tools has settings that are not
its defaults. Addresses with a password in them are secrets and stay on the host.
"""

from __future__ import annotations

import asyncio
import glob
import os
import re
import shutil
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass

from berth.kernel.fs import replace_atomically
from berth.model.oci import Mount

MOUNT_POINT = "/dev/berth-build"

OWN_CERTIFICATES = ("/usr/local/share/ca-certificates/*.crt", "/etc/pki/ca-trust/source/anchors/*")
BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_CA_VARIABLES = (
    "SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
)
_APT_KEYS = re.compile(
    r"(Acquire::(?:Check-Valid-Until|Check-Date|Max-FutureTime|Retries|https?::Proxy|https?::Timeout)) \"([^\"\\]*)\";\Z"
)
_PIP_KEYS = {
    "index-url": "PIP_INDEX_URL",
    "extra-index-url": "PIP_EXTRA_INDEX_URL",
    "trusted-host": "PIP_TRUSTED_HOST",
    "default-timeout": "PIP_DEFAULT_TIMEOUT",
    "timeout": "PIP_DEFAULT_TIMEOUT",
    "proxy": "PIP_PROXY",
}
_NPM_KEYS = {"registry": "npm_config_registry", "proxy": "npm_config_proxy", "https-proxy": "npm_config_https_proxy"}
_NPM_LINE = re.compile(r'([a-z-]+) = "([^"]*)"')
_TOOL_TIMEOUT = 30.0
_VALID = 300.0
_ON, _OFF = ("on", "1", "true", "yes"), ("off", "0", "false", "no")


@dataclass(frozen=True, slots=True)
class HostSettings:
    """`directory` is what to mount, empty for nothing at all."""

    directory: str = ""
    variables: Mapping[str, str] | None = None

    def mounts(self) -> tuple[Mount, ...]:
        """The mounts of a RUN step."""
        if not self.directory:
            return ()
        options = ["rbind", "ro", "nosuid", "nodev"]
        return (Mount(destination=MOUNT_POINT, type="bind", source=self.directory, options=options),)

    def environment(self, env: list[str]) -> list[str]:
        """The process's environment with the variables added that it does not have."""
        names = {entry.partition("=")[0] for entry in env}
        return [*env, *(f"{name}={value}" for name, value in (self.variables or {}).items() if name not in names)]


NO_SETTINGS = HostSettings()


class HostSettingsReader:
    """Reads the settings when a build needs them, and again after some minutes. `directory` is where the mounted files are."""

    def __init__(self, directory: str, mode: str) -> None:
        self._directory = directory
        self._mode = mode.lower()
        self._lock = asyncio.Lock()
        self._read_at = 0.0
        self._settings = NO_SETTINGS

    async def read(self) -> HostSettings:
        """The settings, or none at all where they are off."""
        if self._mode in _OFF:
            return NO_SETTINGS
        async with self._lock:
            if not self._read_at or time.monotonic() - self._read_at > _VALID:
                self._settings = await self._collect()
                self._read_at = time.monotonic()
            return self._settings

    async def _collect(self) -> HostSettings:
        apt, pip, npm = await asyncio.gather(
            _output("apt-config", "dump"),
            _output("pip", "config", "list"),
            _output("npm", "config", "list"),
        )
        apt_lines, variables = apt_settings(apt), pip_variables(pip) | npm_variables(npm)
        own = any(glob.glob(pattern) for pattern in OWN_CERTIFICATES)
        if self._mode not in _ON and not (own or apt_lines or variables):
            return NO_SETTINGS
        bundle = next((path for path in (os.environ.get("SSL_CERT_FILE", ""), *BUNDLES) if os.path.isfile(path)), "")
        os.makedirs(self._directory, mode=0o755, exist_ok=True)
        os.chmod(self._directory, 0o755)
        if bundle:
            with open(bundle, "rb") as file:
                replace_atomically(f"{self._directory}/ca-certificates.crt", file.read())
            inside = f"{MOUNT_POINT}/ca-certificates.crt"
            variables |= dict.fromkeys(_CA_VARIABLES, inside)
            apt_lines = [*apt_lines, f'Acquire::https::CAInfo "{inside}";']
        if apt_lines:
            replace_atomically(f"{self._directory}/apt.conf", "".join(line + "\n" for line in apt_lines).encode())
            variables["APT_CONFIG"] = f"{MOUNT_POINT}/apt.conf"
        return HostSettings(self._directory, variables)


def apt_settings(dump: str) -> list[str]:
    """From `apt-config dump`: the lines about the network that are not apt's defaults."""
    found = []
    for line in dump.splitlines():
        match = _APT_KEYS.match(line.strip())
        if match is not None and match[2] and not _has_password(match[2]):
            found.append(f'{match[1]} "{match[2]}";')
    return found


def pip_variables(listing: str) -> dict[str, str]:
    """From `pip config list`: what is not a default and useful in a container. Folders on the host's disk are not."""
    found: dict[str, str] = {}
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        variable = _PIP_KEYS.get(key.strip().rpartition(".")[2])
        value = value.strip().strip("'\"")
        if variable is None or not value or _has_password(value):
            continue
        if key.strip().endswith("index-url") and not value.startswith(("http://", "https://")):
            continue
        found[variable] = value.replace("\\n", " ").strip()
    return found


def npm_variables(listing: str) -> dict[str, str]:
    """From `npm config list`, which shows only what was set."""
    found = {}
    for line in listing.splitlines():
        match = _NPM_LINE.match(line.strip())
        if match is not None and match[1] in _NPM_KEYS and match[2] and not _has_password(match[2]):
            found[_NPM_KEYS[match[1]]] = match[2]
    return found


def _has_password(value: str) -> bool:
    return any("@" in urllib.parse.urlsplit(word).netloc for word in value.split() if "://" in word)


async def _output(*command: str) -> str:
    """What a tool of the host prints, empty when it is not there, fails, or does not end."""
    if shutil.which(command[0]) is None:
        return ""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, cwd="/"
    )
    try:
        data, _ = await asyncio.wait_for(process.communicate(), _TOOL_TIMEOUT)
    except TimeoutError:
        process.kill()
        await process.wait()
        return ""
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    return data.decode("utf-8", "replace") if process.returncode == 0 else ""
