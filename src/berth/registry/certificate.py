"""Authorities and client certificates for single registries, where Docker's users put them.

<directory>/<host[:port]>/*.crt             authorities, besides those of the host's trust store
<directory>/<host[:port]>/NAME.cert, .key   a client certificate
"""

from __future__ import annotations

import glob
import os
import ssl
from collections.abc import Sequence

from berth.errors import InvalidArgument

CERTIFICATES = ("/etc/berth/certs.d", "/etc/docker/certs.d")


def host_context(host: str, directories: Sequence[str]) -> ssl.SSLContext | None:
    """The TLS settings for a registry; None where the host's trust store is all there is. `host` is part of a reference
    or of the configuration, so it has no slash and no dots in a row."""
    for directory in directories:
        folder = f"{directory}/{host}"
        if os.path.isdir(folder):
            return _load(folder)
    return None


def _load(folder: str) -> ssl.SSLContext | None:
    authorities = sorted(glob.glob(f"{glob.escape(folder)}/*.crt"))
    clients = sorted(glob.glob(f"{glob.escape(folder)}/*.cert"))
    if not authorities and not clients:
        return None
    context = ssl.create_default_context()
    for path in authorities:
        try:
            context.load_verify_locations(path)
        except (OSError, ssl.SSLError) as error:
            raise InvalidArgument(f"the certificate {path} cannot be read: {error}") from error
    for path in clients:
        key = path.removesuffix(".cert") + ".key"
        try:
            context.load_cert_chain(path, key)
        except (OSError, ssl.SSLError) as error:
            raise InvalidArgument(f"the client certificate {path} with its key {key} cannot be read: {error}") from error
    return context
