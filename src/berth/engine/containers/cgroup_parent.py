"""Where a container's control group is: --cgroup-parent as a path, or as the name of a systemd slice."""

from __future__ import annotations

import os
import re

from berth.contract.runtime import Abilities
from berth.errors import InvalidArgument

_SLICE = re.compile(r"(?:-|[A-Za-z0-9_:.\\@]+(?:-[A-Za-z0-9_:.\\@]+)*)\.slice\Z")


def check(parent: str, host: Abilities) -> None:
    """InvalidArgument when no group can be made there."""
    place(parent, "", "", host)


def place(parent: str, default: str, identifier: str, host: Abilities) -> str:
    """The path of a container's group in every hierarchy. `default` is where the engine's own are, `parent` the user's wish."""
    if not parent:
        return f"/{default.strip('/')}/{identifier}"
    parts = [part for part in parent.split("/") if part]
    if ".." in parts or "." in parts or "\0" in parent:
        raise InvalidArgument(f"invalid cgroup-parent {parent}: it must be a path like /groups/web, without . and ..")
    if len(parts) == 1 and parts[0].endswith(".slice"):
        # Not in the slice itself: systemd takes controllers back from a slice of which it knows nobody who needs them (at
        # daemon-reload, for one), and with them the limits. It cannot from one whose child hands them down.
        return f"{_slice(parts[0], host)}/{default.strip('/')}/{identifier}"
    return "/" + "/".join([*parts, identifier])


def _slice(name: str, host: Abilities) -> str:
    """system-web.slice is /system.slice/system-web.slice; the name of the root slice is -.slice."""
    if not host.slices:
        raise InvalidArgument(
            f"cgroup-parent {name} is a slice of systemd, which does not run here or keeps this engine in a subtree of its own: "
            "give a path like /groups/web"
        )
    if not _SLICE.match(name):
        raise InvalidArgument('cgroup-parent for systemd cgroup should be a valid slice named as "xxx.slice"')
    words = name.removesuffix(".slice").split("-")
    path = "" if name == "-.slice" else "".join(f"/{'-'.join(words[: n + 1])}.slice" for n in range(len(words)))
    if not os.path.isdir(host.slices + path):
        raise InvalidArgument(f"cgroup-parent {name} is not active: systemctl start {name}")
    return path
