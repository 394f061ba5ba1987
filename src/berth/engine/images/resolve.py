"""From a reference to a manifest: which server answers, which entry of an index fits, in Docker's words when nothing does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from berth.errors import BerthError, DataLoss, Forbidden, InvalidArgument, NotFound, Unauthenticated, Unavailable
from berth.model.descriptor import Descriptor, Platform
from berth.model.digest import Digest
from berth.model.reference import Reference
from berth.registry.access import Registries
from berth.registry.client import Fetched, RegistryClient
from berth.registry.credential import Credentials
from berth.registry.manifest import choose
from berth.registry.refusal import ManifestUnknown
from berth.wire.document import IndexDocument, ManifestDocument

_MAX_NESTING = 3


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a reference means now. `top` is what the tag or digest names; `chain` are the documents from there to the
    manifest, both included."""

    client: RegistryClient
    top: Fetched
    chain: tuple[Fetched, ...]

    @property
    def manifest(self) -> ManifestDocument:
        """The manifest of one image."""
        document = self.chain[-1].document
        assert isinstance(document, ManifestDocument)
        return document


@asynccontextmanager
async def first_answer(
    registries: Registries,
    reference: Reference,
    credentials: Credentials,
    known: frozenset[Digest] = frozenset(),
    *,
    mirrors: bool = True,
) -> AsyncIterator[tuple[RegistryClient, Fetched | Digest]]:
    """The first server that has the reference: mirrors are passed over when they fail, the registry's error is raised.
    Only a digest comes when the reference still means one of those that are `known`: that was asked for with HEAD, which
    registries do not count as a pull."""
    async with registries.open(reference, credentials, mirrors=mirrors) as clients:
        for client in clients:
            wanted = reference.digest or reference.tag or "latest"
            try:
                unchanged = await _digest_by_head(client, wanted) if known else None
                found = unchanged if unchanged and unchanged in known else await client.manifest(wanted)
            except BerthError as error:
                if client.transport.endpoint.mirror:
                    continue
                raise translate(error, reference) from error
            yield client, found
            return


async def _digest_by_head(client: RegistryClient, wanted: str) -> Digest | None:
    try:
        return await client.manifest_digest(wanted)
    except Unavailable:
        raise
    except BerthError:
        # Not every server answers HEAD as it answers GET; what GET says counts.
        return None


async def follow(client: RegistryClient, top: Fetched, platform: Platform, reference: Reference) -> Resolved:
    """From an index to the manifest for the platform."""
    chain = [top]
    while isinstance(document := chain[-1].document, IndexDocument):
        if len(chain) > _MAX_NESTING:
            raise DataLoss(f"the index of {reference.familiar} is nested too deep")
        entry = choose(document, platform, reference.familiar)
        try:
            chain.append(await _entry(client, entry))
        except BerthError as error:
            raise translate(error, reference) from error
    return Resolved(client, top, tuple(chain))


async def _entry(client: RegistryClient, entry: Descriptor) -> Fetched:
    found = await client.manifest(entry.digest)
    if len(found.data) != entry.size or found.media_type != entry.media_type:
        raise DataLoss(f"the manifest {entry.digest} is not what its index says it is")
    return found


def translate(error: BerthError, reference: Reference) -> BerthError:
    """The registry's refusal as Docker tells it to who wanted to pull."""
    name = reference.familiar_name
    if isinstance(error, ManifestUnknown):
        return NotFound(f"manifest for {reference.familiar} not found: {error.message}")
    if isinstance(error, NotFound | Unauthenticated | Forbidden):
        text = error.message
        if isinstance(error, Unauthenticated) and "no basic auth credentials" not in text:
            text = text if text != "unauthorized: authentication required" else _DENIED
        return NotFound(f"pull access denied for {name}, repository does not exist or may require 'docker login': {text}")
    if isinstance(error, InvalidArgument):
        return InvalidArgument(f"the registry refused {reference.familiar}: {error.message}")
    return error


_DENIED = "denied: requested access to the resource is denied"
