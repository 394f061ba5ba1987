"""The `filters` parameter of list, prune and events: a map from key to accepted values, in both encodings that clients send."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from berth.errors import InvalidArgument
from berth.model.malformed import MALFORMED


@dataclass(frozen=True, slots=True)
class Filters:
    """Keys and their values. Values of one key are alternatives; keys all have to match."""

    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @staticmethod
    def parse(text: str | None, allowed: Iterable[str]) -> Filters:
        """From JSON: {"key": ["value"]} or, from old clients, {"key": {"value": true}}. Unknown keys are refused."""
        if not text:
            return Filters()
        try:
            raw = msgspec.json.decode(text, type=dict[str, list[str] | dict[str, bool]])
        except MALFORMED as error:
            raise InvalidArgument(f"invalid filter: {error}") from error
        for key in raw:
            if key not in set(allowed):
                raise InvalidArgument(f"invalid filter '{key}'")
        return Filters({k: tuple(v if isinstance(v, list) else (name for name, on in v.items() if on)) for k, v in raw.items()})

    def get(self, key: str) -> tuple[str, ...]:
        """The values of the key, empty when it was not given."""
        return self.values.get(key, ())

    def __contains__(self, key: str) -> bool:
        return bool(self.values.get(key))

    def flag(self, key: str, default: bool = False) -> bool:
        """A boolean filter such as dangling."""
        found = self.get(key)
        if not found:
            return default
        if found[0] not in ("1", "0", "true", "false", "True", "False"):
            raise InvalidArgument(f"invalid filter '{key}=[{found[0]}]'")
        return found[0] in ("1", "true", "True")

    def match_labels(self, labels: Mapping[str, str] | None, key: str = "label") -> bool:
        """Every `label=key` or `label=key=value` has to match."""
        have = labels or {}
        for wanted in self.get(key):
            name, equals, value = wanted.partition("=")
            if name not in have or (equals and have[name] != value):
                return False
        return True
