"""One repository of one registry: manifests, blobs, tags, uploads (OCI distribution-spec 1.1).

Everything that is fetched is verified against its digest and its size before anybody gets to see it as whole.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from urllib.parse import quote

import aiohttp
import msgspec
from msgspec import Struct
from yarl import URL

from berth.errors import BerthError, DataLoss, NotFound, Unavailable
from berth.model.descriptor import Descriptor
from berth.model.digest import Digest, digest_of, parse_digest
from berth.model.malformed import MALFORMED
from berth.registry.manifest import ACCEPT, MAX_MANIFEST, media_type_of, parse_manifest
from berth.registry.transport import Transport, read_limited
from berth.wire.document import IndexDocument, ManifestDocument

_CHUNK = 1 << 18
_TRIES = 6
_MAX_TAGS = 100_000
_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="?next"?')
_BROKEN = (aiohttp.ClientError, TimeoutError, OSError)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A manifest or an index as the registry has it."""

    data: bytes
    digest: Digest
    media_type: str
    document: ManifestDocument | IndexDocument


def next_page(link: str) -> str | None:
    """The address in a Link header with rel="next"."""
    found = _NEXT.search(link)
    return found[1] if found else None


class _Tags(Struct, frozen=True):
    tags: list[str] | None = None


class RegistryClient:
    """`delay` is the pause in seconds after the first cut-off; it doubles with each that follows without progress."""

    def __init__(self, transport: Transport, path: str, *, delay: float = 0.5) -> None:
        self.transport = transport
        self.path = path
        self.delay = delay

    def _url(self, rest: str) -> str:
        return f"/v2/{self.path}/{rest}"

    # Manifests

    async def manifest(self, reference: str) -> Fetched:
        """By tag or digest. NotFound, DataLoss."""
        headers = {"Accept": ", ".join(ACCEPT)}
        async with self.transport.request("GET", self._url(f"manifests/{reference}"), headers=headers) as response:
            try:
                data = await read_limited(response, MAX_MANIFEST, f"the manifest of {self.path}")
            except _BROKEN as error:
                raise Unavailable(f"the connection broke while the manifest of {self.path} was read: {error}") from error
            content_type = response.headers.get("Content-Type", "")
            told = response.headers.get("Docker-Content-Digest", "")
        digest = digest_of(data)
        wanted = reference if reference.startswith("sha256:") else told
        if wanted.startswith("sha256:") and wanted != digest:
            raise DataLoss(f"the manifest of {self.path} does not match its digest: expected {wanted}, got {digest}")
        document = parse_manifest(data, content_type)
        return Fetched(data, digest, media_type_of(document, content_type), document)

    async def manifest_digest(self, reference: str) -> Digest | None:
        """The digest that a tag has now, by HEAD; None when the registry does not tell. NotFound."""
        headers = {"Accept": ", ".join(ACCEPT)}
        async with self.transport.request("HEAD", self._url(f"manifests/{reference}"), headers=headers) as response:
            told = response.headers.get("Docker-Content-Digest", "")
        try:
            return parse_digest(told)
        except BerthError:
            return None

    async def put_manifest(self, reference: str, data: bytes, media_type: str) -> None:
        """Store a manifest under a tag or its digest."""
        url = self._url(f"manifests/{quote(reference)}")
        async with self.transport.request(
            "PUT", url, headers={"Content-Type": media_type}, body=lambda: data, expect=(200, 201, 202)
        ):
            pass

    async def tags(self) -> list[str]:
        """All tags, page by page."""
        found: list[str] = []
        target: str | None = self._url("tags/list")
        while target is not None and len(found) < _MAX_TAGS:
            async with self.transport.request("GET", target) as response:
                data = await read_limited(response, MAX_MANIFEST, f"the list of tags of {self.path}")
                following = next_page(response.headers.get("Link", ""))
                base = str(response.url)
            try:
                page = msgspec.json.decode(data, type=_Tags).tags or []
            except MALFORMED as error:
                raise DataLoss(f"the list of tags of {self.path} cannot be read: {error}") from error
            found += page
            target = self.transport.resolve(following, base) if following and page else None
        return found

    # Blobs

    async def small_blob(self, descriptor: Descriptor, limit: int, what: str) -> bytes:
        """A configuration, whole and verified."""
        if descriptor.size > limit:
            raise DataLoss(f"{what} has {descriptor.size} bytes, more than the {limit} that are allowed")
        data = bytearray()
        async for piece in self.blob(descriptor):
            data += piece
        if digest_of(bytes(data)) != descriptor.digest:
            raise DataLoss(f"{what} does not match its digest {descriptor.digest}")
        return bytes(data)

    async def blob(self, descriptor: Descriptor, offset: int = 0) -> AsyncIterator[bytes]:
        """The bytes from `offset` to the end, as many as the descriptor says. What is cut off is gone on with by Range.
        The digest is for the caller to check."""
        position, failures = offset, 0
        while position < descriptor.size:
            start = position
            try:
                async for piece in self._blob_once(descriptor, position):
                    position += len(piece)
                    if position > descriptor.size:
                        raise DataLoss(f"{descriptor.digest} is longer than the {descriptor.size} bytes its manifest tells")
                    yield piece
                reason = "the connection was closed early"
            except _BROKEN as error:
                reason = str(error) or type(error).__name__
            except Unavailable as error:
                reason = error.message
            if position >= descriptor.size:
                return
            failures = 1 if position > start else failures + 1
            if failures >= _TRIES:
                raise Unavailable(
                    f"download of {descriptor.digest} failed after {position} of {descriptor.size} bytes: {reason}: try again, "
                    "what is here already is kept"
                )
            await asyncio.sleep(self.delay * 2 ** (failures - 1))

    async def _blob_once(self, descriptor: Descriptor, position: int) -> AsyncIterator[bytes]:
        headers = {"Range": f"bytes={position}-"} if position else {}
        async with self.transport.request(
            "GET", self._url(f"blobs/{descriptor.digest}"), headers=headers, expect=(200, 206)
        ) as response:
            skip = position
            if response.status == 206:
                given = response.headers.get("Content-Range", f"bytes {position}-")
                if not given.startswith(f"bytes {position}-"):
                    raise DataLoss(f"the registry sent another range of {descriptor.digest} than it was asked for ({given})")
                skip = 0
            async for piece in response.content.iter_chunked(_CHUNK):
                if skip >= len(piece):
                    skip -= len(piece)
                    continue
                yield piece[skip:]
                skip = 0

    async def has_blob(self, digest: Digest) -> int | None:
        """The size of a blob that the repository has, None without."""
        try:
            async with self.transport.request("HEAD", self._url(f"blobs/{digest}")) as response:
                return int(response.headers.get("Content-Length") or 0)
        except NotFound:
            return None

    async def mount(self, digest: Digest, source: str) -> str | None:
        """Have the registry take a blob over from another repository of its own. None when it did, else the address of
        an upload to go on with."""
        query = f"blobs/uploads/?mount={quote(digest)}&from={quote(source, safe='')}"
        async with self.transport.request("POST", self._url(query), expect=(201, 202)) as response:
            return None if response.status == 201 else self._location(response)

    async def start_upload(self) -> str:
        """The address of a new upload."""
        async with self.transport.request("POST", self._url("blobs/uploads/"), expect=(202,)) as response:
            return self._location(response)

    async def upload(self, location: str, body: Callable[[], AsyncIterator[bytes]], digest: Callable[[], Digest]) -> None:
        """Send a blob. `digest` is asked after the last byte, so it may be computed on the way."""
        headers = {"Content-Type": "application/octet-stream"}
        async with self.transport.request("PATCH", location, headers=headers, body=body, expect=(202, 204)) as response:
            location = self._location(response)
        target = str(URL(location, encoded=True).update_query(digest=digest()))
        async with self.transport.request("PUT", target, headers={**headers, "Content-Length": "0"}, expect=(201, 204)):
            pass

    def _location(self, response: aiohttp.ClientResponse) -> str:
        given = response.headers.get("Location")
        if given is None:
            raise Unavailable(f"the registry {self.transport.endpoint.host} did not tell where to upload to")
        return self.transport.resolve(given, str(response.url))
