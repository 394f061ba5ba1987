"""Images over the API."""

from __future__ import annotations

from typing import Any

import msgspec

from berth.client.credentials import registry_auth
from berth.client.engine import Engine, FilterMap, Progress, Strings, encode_filters
from berth.client.stream import progress
from berth.client.wireline import Body, Response
from berth.model.reference import parse
from berth.wire.image import ImageHistoryResponseItem, ImageInspect, ImageSummary

Removed = list[dict[str, str]]
History = list[ImageHistoryResponseItem]


def _platform(text: str | None) -> str | None:
    """`linux/arm64/v8` as the JSON that the newer endpoints want."""
    if not text:
        return None
    names = dict(zip(("os", "architecture", "variant"), text.split("/"), strict=False))
    return msgspec.json.encode(names).decode()


class Images:
    """`name` is a reference or an id, everywhere."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def list(
        self, *, all: bool = False, filters: FilterMap | None = None, digests: bool = False, manifests: bool = False
    ) -> list[ImageSummary]:
        """Summaries, newest first."""
        query = {
            "all": all or None,
            "filters": encode_filters(filters),
            "digests": digests or None,
            "manifests": manifests or None,
        }
        return self._engine.typed(list[ImageSummary], "GET", "/images/json", query=query)

    def inspect(self, name: str) -> ImageInspect:
        """What clients look at."""
        return self._engine.typed(ImageInspect, "GET", f"/images/{name}/json")

    def inspect_raw(self, name: str, *, platform: str | None = None) -> Any:
        """As the engine wrote it, for display."""
        return self._engine.json("GET", f"/images/{name}/json", query={"platform": _platform(platform)})

    def history(self, name: str, *, platform: str | None = None) -> History:
        """Its layers, newest first."""
        return self._engine.typed(
            list[ImageHistoryResponseItem], "GET", f"/images/{name}/history", query={"platform": _platform(platform)}
        )

    def pull(self, name: str, *, platform: str | None = None, all_tags: bool = False, auth: str | None = None) -> Progress:
        """Pull, yielding progress; iterate to the end. Credentials come from Docker's configuration file unless given."""
        reference = parse(name, default_tag=not all_tags)
        query = {
            "fromImage": reference.familiar_name,
            "tag": reference.digest or reference.tag,
            "platform": platform or None,
        }
        headers = {"X-Registry-Auth": auth if auth is not None else registry_auth(reference.domain)}
        return progress(self._engine.request("POST", "/images/create", query=query, headers=headers))

    def push(self, name: str, *, all_tags: bool = False, platform: str | None = None, auth: str | None = None) -> Progress:
        """Push, yielding progress; iterate to the end."""
        reference = parse(name, default_tag=not all_tags)
        headers = {"X-Registry-Auth": auth if auth is not None else registry_auth(reference.domain)}
        query = {"tag": reference.tag, "platform": _platform(platform)}
        return progress(self._engine.request("POST", f"/images/{reference.familiar_name}/push", query=query, headers=headers))

    def import_tar(
        self,
        tar: Body,
        *,
        repo: str | None = None,
        tag: str | None = None,
        source: str = "-",
        message: str | None = None,
        changes: Strings | None = None,
        platform: str | None = None,
    ) -> Progress:
        """An image from a file system tar; the last message's `status` is its id."""
        query = {"fromSrc": source, "repo": repo, "tag": tag, "message": message, "changes": changes, "platform": platform}
        headers = {"Content-Type": "application/x-tar"}
        return progress(self._engine.request("POST", "/images/create", query=query, body=tar, headers=headers))

    def tag(self, name: str, repo: str, tag: str | None = None) -> None:
        """Another name for it."""
        self._engine.raw("POST", f"/images/{name}/tag", query={"repo": repo, "tag": tag})

    def remove(self, name: str, *, force: bool = False, noprune: bool = False, platforms: Strings | None = None) -> Removed:
        """Untag, and delete what has no name left. The answer lists {"Untagged": ...} and {"Deleted": ...}."""
        wanted = [_platform(p) or "" for p in platforms or []]
        query = {"force": force or None, "noprune": noprune or None, "platforms": wanted or None}
        answer: Removed = self._engine.json("DELETE", f"/images/{name}", query=query) or []
        return answer

    def save(self, names: Strings, *, platforms: Strings | None = None) -> Response:
        """Images as one tar, in pieces."""
        return self._engine.request(
            "GET", "/images/get", query={"names": names, "platform": [_platform(p) or "" for p in platforms or []] or None}
        )

    def load(self, tar: Body, *, quiet: bool = False, platforms: Strings | None = None) -> Progress:
        """Load what `save` made, yielding progress."""
        headers = {"Content-Type": "application/x-tar"}
        return progress(
            self._engine.request(
                "POST",
                "/images/load",
                query={"quiet": quiet, "platform": [_platform(p) or "" for p in platforms or []] or None},
                body=tar,
                headers=headers,
            )
        )

    def search(self, term: str, *, limit: int | None = None, filters: FilterMap | None = None) -> Any:
        """Search the default registry."""
        return self._engine.json(
            "GET", "/images/search", query={"term": term, "limit": limit, "filters": encode_filters(filters)}
        )

    def prune(self, *, filters: FilterMap | None = None) -> Any:
        """Remove what is not used."""
        return self._engine.json("POST", "/images/prune", query={"filters": encode_filters(filters)})

    def commit(
        self,
        container: str,
        *,
        repo: str | None = None,
        tag: str | None = None,
        comment: str | None = None,
        author: str | None = None,
        pause: bool = True,
        changes: Strings | None = None,
        config: object = None,
    ) -> str:
        """An image from a container; its id."""
        query = {
            "container": container,
            "repo": repo,
            "tag": tag,
            "comment": comment,
            "author": author,
            "pause": pause,
            "changes": changes,
        }
        answer = self._engine.json("POST", "/commit", query=query, body=config if config is not None else {})
        return str(answer["Id"])
