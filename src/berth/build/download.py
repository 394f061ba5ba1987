"""Files from the network: sources of ADD, and contexts given as an address. http and https only."""

from __future__ import annotations

import email.utils
import hashlib
import posixpath
import urllib.parse
from dataclasses import dataclass

import aiohttp

from berth.errors import InvalidArgument, NotImplementedKind, Unavailable

MAX_SIZE = 8 * 1024**3
_GIT_HINT = "give an archive of the tree, or clone it first and send the folder as the context"


@dataclass(frozen=True, slots=True)
class Download:
    """A finished one; `digest` in hex, `mtime` from Last-Modified or 0, `content_type` without parameters."""

    path: str
    size: int
    digest: str
    mtime: float
    content_type: str


def is_url(source: str) -> bool:
    """Whether a source of ADD is an address. NotImplementedKind for those of git."""
    if source.startswith(("git@", "git://", "ssh://")) or (source.startswith(("http://", "https://")) and is_git(source)):
        raise NotImplementedKind(f"git sources are not supported ({redacted(source)}): {_GIT_HINT}")
    return source.startswith(("http://", "https://"))


def is_git(address: str) -> bool:
    """Whether an http address is that of a git repository, by Docker's rule: its path ends in .git."""
    return urllib.parse.urlsplit(address).path.endswith(".git")


def redacted(address: str) -> str:
    """The address without user and password, for messages."""
    parts = urllib.parse.urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def file_name(address: str) -> str:
    """The name that a download gets in a directory; only ever the last component of the address's path."""
    name = posixpath.basename(urllib.parse.unquote(urllib.parse.urlsplit(address).path))
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise InvalidArgument(f"cannot determine filename for source {redacted(address)}: give the destination a file name")
    return name


async def download(address: str, path: str, what: str) -> Download:
    """Fetch to a new file. Unavailable and InvalidArgument say what went wrong; `what` names the instruction."""
    shown = redacted(address)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=120)
    digest, size = hashlib.sha256(), 0
    try:
        async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as session, session.get(address) as response:
            if response.status >= 400:
                raise InvalidArgument(f"{what} failed: failed to GET {shown} with status {response.status} {response.reason}")
            with open(path, "xb") as file:
                async for piece in response.content.iter_chunked(256 * 1024):
                    size += len(piece)
                    if size > MAX_SIZE:
                        raise InvalidArgument(f"{what} failed: {shown} is larger than {MAX_SIZE} bytes")
                    digest.update(piece)
                    file.write(piece)
            modified = email.utils.parsedate_to_datetime(
                response.headers.get("Last-Modified", "") or "Thu, 01 Jan 1970 00:00:00 GMT"
            )
            return Download(path, size, digest.hexdigest(), modified.timestamp(), response.content_type)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise Unavailable(f"{what} failed: {shown} could not be fetched: {error or type(error).__name__}") from error
