"""What berth can do with a container beyond Docker's API, and how any client asks for it.

One scheme for all: the label `berth.NAME` of a container, which every Docker client and Compose file can set; the flag
`--NAME` of `berth run` and `create`, which sets that label; the option `--NAME` of berthd, for containers without it. Labels
of an image count for nothing: who made the image does not decide about the host.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from msgspec import Struct

from berth.errors import InvalidArgument
from berth.model.units import parse_duration

PREFIX = "berth."
_NUMBER = re.compile(r"\d+(\.\d+)?\Z")


class Settings(Struct, frozen=True, kw_only=True):
    """What holds for a container. Times in seconds.

    `health_on_failure` is what happens to one that is unhealthy, no sooner than `health_cooldown` after its start. The delay
    before a restart is `restart_delay`, each time multiplied by `restart_factor` up to `restart_max_delay`, until a run has
    lasted for `restart_window`. `exec_on_disconnect`: whether what `exec` started goes on without its client.
    """

    health_on_failure: str = "none"
    health_cooldown: float = 60.0
    restart_delay: float = 0.1
    restart_factor: float = 2.0
    restart_max_delay: float = 60.0
    restart_window: float = 10.0
    exec_on_disconnect: str = "keep"


@dataclass(frozen=True, slots=True)
class Extension:
    """One of the settings: its text form, and what is wrong with a text that is not of that form."""

    name: str
    metavar: str
    help: str
    read: Callable[[str], object]

    @property
    def field(self) -> str:
        """Its name in Settings."""
        return self.name.replace("-", "_")


def _choice(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in choices:
            raise InvalidArgument(f"it is one of {', '.join(choices)}")
        return text

    return read


def _seconds(text: str) -> float:
    seconds = parse_duration(text) / 1e9
    if seconds < 0:
        raise InvalidArgument("it cannot be negative")
    return seconds


def _delay(text: str) -> float:
    seconds = _seconds(text)
    if seconds < 0.01:
        raise InvalidArgument("it is at least 10ms: a container that ends at once would take all of a processor")
    return seconds


def _factor(text: str) -> float:
    if not _NUMBER.match(text) or not 1 <= float(text) <= 1000:
        raise InvalidArgument("it is a number from 1 to 1000")
    return float(text)


EXTENSIONS = (
    Extension(
        "health-on-failure",
        "none|kill|restart|stop",
        "What to do with a container that turns unhealthy",
        _choice("none", "kill", "restart", "stop"),
    ),
    Extension("health-cooldown", "DURATION", "How long after a start nothing is done about bad health (1m)", _seconds),
    Extension("restart-delay", "DURATION", "Delay before the first restart by the policy (100ms)", _delay),
    Extension("restart-factor", "N", "By what the delay is multiplied each time (2)", _factor),
    Extension("restart-max-delay", "DURATION", "The longest delay before a restart (1m)", _delay),
    Extension("restart-window", "DURATION", "How long a run has to last for the delay to begin anew (10s)", _seconds),
    Extension(
        "exec-on-disconnect", "keep|kill", "What becomes of an exec whose client goes without detaching", _choice("keep", "kill")
    ),
)
_BY_NAME = {extension.name: extension for extension in EXTENSIONS}


def read(values: Mapping[str, str], prefix: str = PREFIX) -> Settings:
    """From texts by name. InvalidArgument names the label, or with `prefix` "--" the option."""
    found: dict[str, object] = {}
    for name, text in values.items():
        extension = _BY_NAME.get(name)
        if extension is None:
            raise InvalidArgument(f"unknown label {PREFIX}{name}: there are {', '.join(PREFIX + known for known in _BY_NAME)}")
        try:
            found[extension.field] = extension.read(text)
        except InvalidArgument as error:
            raise InvalidArgument(f"invalid {prefix}{name} {text!r}: {error.message}") from None
    return Settings(**found)  # type: ignore[arg-type]  # each reader gives its field's type


def of_record(values: Mapping[str, str]) -> Settings:
    """Of what was checked when it was stored; what a later version may have stored is left out."""
    return read({name: text for name, text in values.items() if name in _BY_NAME})


def asked(labels: Mapping[str, str], inherited: Mapping[str, str]) -> dict[str, str]:
    """What the labels of a request ask for, by name. A client that repeats an image's label does not ask for anything."""
    found = {
        name.removeprefix(PREFIX): value
        for name, value in labels.items()
        if name.startswith(PREFIX) and inherited.get(name) != value
    }
    read(found)
    return found
