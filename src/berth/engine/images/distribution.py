"""Questions to registries that pull nothing: what a reference means there, and the search of an index."""

from __future__ import annotations

from typing import Any

from berth.engine.images.resolve import first_answer, translate
from berth.errors import BerthError, InvalidArgument, Unavailable
from berth.model.descriptor import Platform
from berth.model.filters import Filters
from berth.model.reference import Reference
from berth.registry.access import Registries
from berth.registry.client import Fetched, RegistryClient
from berth.registry.credential import Credentials
from berth.registry.manifest import MAX_CONFIG, parse_config
from berth.wire.document import IndexDocument
from berth.wire.image import DistributionInspect, OCIDescriptor, OCIPlatform

SEARCH_FILTERS = ("is-automated", "is-official", "stars")
MAX_RESULTS = 100
_DEFAULT_RESULTS = 25


async def distribution(registries: Registries, reference: Reference, credentials: Credentials) -> DistributionInspect:
    """GET /distribution/{name}/json."""
    async with first_answer(registries, reference, credentials) as (client, top):
        assert isinstance(top, Fetched)
        try:
            platforms = await _platforms(client, top)
        except BerthError as error:
            raise translate(error, reference) from error
    descriptor = OCIDescriptor(media_type=top.media_type, digest=top.digest, size=len(top.data))
    return DistributionInspect(
        descriptor=descriptor,
        platforms=[
            OCIPlatform(architecture=platform.architecture, os=platform.os, variant=platform.variant or None)
            for platform in platforms
        ],
    )


async def _platforms(client: RegistryClient, top: Fetched) -> list[Platform]:
    if isinstance(top.document, IndexDocument):
        return [entry.platform for entry in top.document.manifests if entry.platform is not None]
    data = await client.small_blob(top.document.config, MAX_CONFIG, "the image's configuration")
    document = parse_config(data)
    return [Platform(architecture=document.architecture, os=document.os, variant=document.variant or "")]


async def search(
    registries: Registries, term: str, limit: int, filters: Filters, credentials: Credentials
) -> list[dict[str, Any]]:
    """GET /images/search. Unavailable, with what to do, where the index cannot be reached."""
    if not term:
        raise InvalidArgument("a term to search for is needed")
    if not 0 <= limit <= MAX_RESULTS:
        raise InvalidArgument(f"limit {limit} is outside the range of [1, {MAX_RESULTS}]")
    stars = max((_number(value) for value in filters.get("stars")), default=0)
    official = filters.flag("is-official") if "is-official" in filters else None
    try:
        found = await registries.search(term, limit or _DEFAULT_RESULTS, credentials)
    except Unavailable as error:
        raise Unavailable(f"the search needs a registry's index, which does not answer: {error.message}") from error
    return [
        {
            "name": str(item.get("name", "")),
            "description": str(item.get("description") or ""),
            "is_official": bool(item.get("is_official")),
            "is_automated": False,
            "star_count": _number(item.get("star_count") or 0),
        }
        for item in found
        if _number(item.get("star_count") or 0) >= stars and official in (None, bool(item.get("is_official")))
    ]


def _number(value: object) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise InvalidArgument(f"invalid filter 'stars={value}'") from None
