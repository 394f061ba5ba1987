"""A row of a list as templates and `--format json` see it."""

from __future__ import annotations

from typing import Any

import msgspec


class Row(dict[str, Any]):
    """What a template of a list is run on: placeholders by name. A callable value is a method with arguments: `.Label "x"`."""

    @property
    def plain(self) -> dict[str, Any]:
        """The values without the methods, in the order in which Docker writes them as JSON."""
        return {name: value for name, value in sorted(self.items()) if not callable(value)}


def json_text(value: Any) -> str:
    """Compact JSON. A row is written as Docker does: sorted, and with < > & escaped."""
    if isinstance(value, Row):
        text = msgspec.json.encode(value.plain).decode()
        return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return msgspec.json.encode(value).decode()
