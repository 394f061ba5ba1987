"""Image references: [domain/]path[:tag][@digest], by the grammar of the distribution project.

`parse` fills in what a user leaves out (docker.io, library/, :latest); `familiar` takes it away again for display.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from berth.errors import InvalidArgument
from berth.model.digest import Digest, parse_digest

DEFAULT_DOMAIN = "docker.io"
_LEGACY_DOMAIN = "index.docker.io"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z")
_DOMAIN = re.compile(
    r"(?:(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
    r"(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?\Z"
)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
_HEX64 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class Reference:
    """A normalized reference. `tag` and `digest` may both be None only for a bare repository name."""

    domain: str
    path: str
    tag: str | None = None
    digest: Digest | None = None

    @property
    def repository(self) -> str:
        """domain/path."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The repository as Docker shows it: docker.io/library/debian is `debian`."""
        if self.domain != DEFAULT_DOMAIN:
            return self.repository
        return self.path.removeprefix("library/")

    @property
    def familiar(self) -> str:
        """The whole reference as Docker shows it."""
        text = self.familiar_name
        if self.tag is not None:
            text += ":" + self.tag
        if self.digest is not None:
            text += "@" + self.digest
        return text

    def __str__(self) -> str:
        tail = (f":{self.tag}" if self.tag is not None else "") + (f"@{self.digest}" if self.digest is not None else "")
        return self.repository + tail


def parse(text: str, *, default_tag: bool = True) -> Reference:
    """A reference from what a user types. With `default_tag`, a missing tag and digest become `latest`."""
    invalid = InvalidArgument(f"invalid reference format: {text!r}")
    if not text or len(text) > 1024 or _HEX64.match(text):
        raise invalid
    rest, at, digest_text = text.partition("@")
    digest = parse_digest(digest_text) if at else None
    tag: str | None = None
    slash, colon = rest.rfind("/"), rest.rfind(":")
    if colon > slash:
        rest, tag = rest[:colon], rest[colon + 1 :]
        if not _TAG.match(tag):
            raise invalid
    domain, path = _split_domain(rest)
    if path != path.lower():
        raise InvalidArgument(f"invalid reference format: repository name ({path}) must be lowercase")
    if not _DOMAIN.match(domain) or not _PATH.match(path) or len(path) > 255:
        raise invalid
    if tag is None and digest is None and default_tag:
        tag = "latest"
    return Reference(domain, path, tag, digest)


def _split_domain(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        domain, path = first, rest
    else:
        domain, path = DEFAULT_DOMAIN, name
    if domain == _LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = "library/" + path
    return domain, path
