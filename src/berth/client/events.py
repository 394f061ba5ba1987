"""What happens in the engine, as it happens."""

from __future__ import annotations

from collections.abc import Iterator

from berth.client.decode import convert
from berth.client.engine import Engine, FilterMap, Progress, encode_filters
from berth.client.stream import json_lines
from berth.client.wireline import Response
from berth.wire.system import EventMessage


class EventStream:
    """Events."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def open(self, *, since: str | None = None, until: str | None = None, filters: FilterMap | None = None) -> Response:
        """The open stream. Closing it from another thread ends its readers."""
        query = {"since": since, "until": until, "filters": encode_filters(filters)}
        return self._engine.request("GET", "/events", query=query)

    def listen_raw(self, *, since: str | None = None, until: str | None = None, filters: FilterMap | None = None) -> Progress:
        """As the engine wrote them, for display. Ends at `until`, never without."""
        return json_lines(self.open(since=since, until=until, filters=filters))

    def listen(
        self, *, since: str | None = None, until: str | None = None, filters: FilterMap | None = None
    ) -> Iterator[EventMessage]:
        """Events from `since` on, then those to come, until `until` (both in seconds of the epoch)."""
        for message in self.listen_raw(since=since, until=until, filters=filters):
            yield convert(message, EventMessage)
