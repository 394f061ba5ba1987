"""Fetching an archive from a web server, for `docker import URL`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
from yarl import URL

from berth.errors import InvalidArgument, Unavailable
from berth.registry.transport import new_session, proxy_for, unreachable

_CHUNK = 1 << 18
_REDIRECTS = 5


async def download(url: str) -> AsyncIterator[bytes]:
    """The bytes behind an http or https address. InvalidArgument, Unavailable."""
    if "://" not in url:
        url = f"http://{url}"
    try:
        address = URL(url)
    except ValueError:
        address = URL()
    if address.scheme not in ("http", "https") or not address.host:
        raise InvalidArgument(f"invalid source {url!r}: it must be - or an http(s) address")
    async with new_session() as session:
        try:
            async with session.get(address, max_redirects=_REDIRECTS, proxy=proxy_for(url)) as response:
                if response.status != 200:
                    raise Unavailable(f"{url} cannot be fetched: the server answered {response.status}")
                async for piece in response.content.iter_chunked(_CHUNK):
                    yield piece
        except UnicodeError as error:
            raise InvalidArgument(f"invalid source {url!r}: {error}") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise unreachable("GET", url, error) from error
