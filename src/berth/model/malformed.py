"""What decoding somebody else's JSON can raise."""

from __future__ import annotations

import msgspec

MALFORMED = (msgspec.MsgspecError, RecursionError, UnicodeError)
"""Not JSON or not of that shape; nested too deep; not UTF-8, which msgspec notices in some places only when it makes a string."""
