"""The closed set of error kinds. Concrete errors subclass a kind next to the code that raises them.

    BerthError
    ├── InvalidArgument      400   the request makes no sense, whatever the state
    │   └── OutOfRange       400   a value outside its limits
    ├── Unauthenticated      401
    ├── Forbidden            403
    ├── NotFound             404
    ├── AlreadyExists        409
    ├── Conflict             409   makes sense, but not in the present state
    ├── NotModified          304   already so
    ├── NotImplementedKind   501   known, and honestly not there yet
    ├── ResourceExhausted    500   no space, no addresses, no ports
    ├── Unavailable          503   try again later
    ├── DeadlineExceeded     500
    ├── DataLoss             500   content that does not match its digest, a store that is damaged
    └── Internal             500   a bug: traceback in the log

Callers catch kinds. Each edge maps kinds to its own codes in one table. Nobody compares message text inside berth, but
the wording is compatibility: Docker's clients read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class BerthError(Exception):
    """An error with a message for the user: what happened, to what, and what to do next."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@contextmanager
def prefixed(words: str) -> Iterator[None]:
    """Errors of the block say first what was tried; their kind stays."""
    try:
        yield
    except BerthError as error:
        error.message = words + error.message
        error.args = (error.message,)
        raise


class InvalidArgument(BerthError):
    """The request makes no sense, whatever the state."""


class OutOfRange(InvalidArgument):
    """A value is outside its limits."""


class Unauthenticated(BerthError):
    """Credentials are missing or wrong."""


class Forbidden(BerthError):
    """The caller may not do this."""


class NotFound(BerthError):
    """The thing named does not exist."""


class AlreadyExists(BerthError):
    """The name is taken."""


class Conflict(BerthError):
    """The request makes sense, but not in the present state."""


class NotModified(BerthError):
    """The thing is already in the state asked for."""


class NotImplementedKind(BerthError):
    """The feature is known and not there yet."""


class ResourceExhausted(BerthError):
    """No space, no addresses, no ports, too many of something."""


class Unavailable(BerthError):
    """A peer does not answer; trying again may help."""


class DeadlineExceeded(BerthError):
    """It took longer than the caller allowed."""


class DataLoss(BerthError):
    """Content does not match its digest, or the store is damaged."""


class Internal(BerthError):
    """A bug in berth."""
