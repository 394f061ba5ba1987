"""Digests: `sha256:` and 64 lower-case hex digits (OCI image-spec, descriptor.md). Nothing else is accepted anywhere."""

from __future__ import annotations

import hashlib
import re
from typing import NewType

from berth.errors import InvalidArgument

Digest = NewType("Digest", str)

_PATTERN = re.compile(r"sha256:[0-9a-f]{64}\Z")


def parse_digest(text: str) -> Digest:
    """The digest, or InvalidArgument. Only sha256 is allowed, so a digest is always safe as a path component."""
    if not _PATTERN.match(text):
        raise InvalidArgument(f"invalid digest {text!r}: it must be sha256: and 64 lower-case hex digits")
    return Digest(text)


def digest_of(data: bytes) -> Digest:
    """The sha256 digest of the bytes."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def hex_of(digest: Digest) -> str:
    """The 64 hex digits."""
    return digest.removeprefix("sha256:")


def chain_id(diff_ids: tuple[Digest, ...]) -> Digest:
    """The chain id of a stack of layers, base first (OCI image-spec, config.md, "Layer ChainID")."""
    if not diff_ids:
        raise InvalidArgument("a chain id needs at least one layer")
    chain = diff_ids[0]
    for diff_id in diff_ids[1:]:
        chain = digest_of(f"{chain} {diff_id}".encode())
    return chain
