"""What of a launch can be done before anything is known of the container but its shape. Lean.

A plan's steps come in two parts. The early ones build /proc, /dev and /sys, with masks and all, on a staging tmpfs of
init's own, and need nothing but namespaces, ids and a control group; the late ones begin with the root filesystem, and
the first thing that they put onto it are these trees, each moved with all that is mounted below. When everything is
mounted, init waits for its limits and links. Where its only link was made ahead too (`veth`), it configures that one by
itself, and waits for what is done outside as late as it can: before the filter is loaded.

A launch does both in one go, the early part while the setter-up prepares what the late part needs. A slot of the warm
pool has done its early part long ago: a plan with the same `shape` can go on from there.
"""

from __future__ import annotations

import os

from berth.kernel import mount
from berth.runtime.failure import record
from berth.runtime.init import STEPS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from berth.runtime.init import Init, Step

    Plan = dict[str, Any]

# Mounts there are kept apart from the image's files: procfs and sysfs cannot be links, and /dev is our own.
_TREES = ("/proc", "/dev", "/sys")
# What every container gets that has a network of its own; a user's come when the network is there.
_SYSCTLS = ("net/ipv4/ping_group_range", "net/ipv4/ip_unprivileged_port_start")
_ROOT = "root"
# Init does these without waiting for its links.
_MOUNTING = ("root", "mount", "attach", "cgroup")
# Nobody is needed for these, and nothing that is only known at the start; the second ones where init has its procfs already,
# since no other one can be made when the host's tree is gone.
_QUIET = ("root", "trees", "mount", "attach", "cgroup", "mask", "protect", "open-label", "label")
_QUIET_AFTER_SYSCTL = (*_QUIET, "pivot", "hostname", "domainname", "bound")
# From here on init may not be able to hear its setter-up.
_CLOSING = ("no-new-privileges", "seccomp", "capabilities", "execve")


def split(plan: Plan, veth: str = "") -> tuple[list[Step], list[Step]]:
    """The early and the late steps of a plan. `veth`: the name of its only link, where that has been made ahead."""
    early: list[Step] = []
    late: list[Step] = []
    trees: list[str] = []
    closed: set[str] = set()
    network: dict[str, Any] | None = None
    for name, arguments in plan["steps"]:
        path = _path(arguments)
        tree = path[: path.find("/", 1)] if path.find("/", 1) > 0 else path
        if tree not in closed and _is_early(name, arguments, path, tree, trees, plan):
            early.append((name, arguments))
            if path and path == tree:
                trees.append(path)
            continue
        if name == "network":
            network = {**arguments, "loopback": False}
            if arguments["loopback"]:
                early.append(("loopback", {}))
            continue
        late.append((name, arguments))
        if name == "root":
            # The list grows until the last early step is found.
            late.append(("trees", {"paths": trees}))
        # After a step that is late in a tree, what follows there is late too.
        if path:
            closed.add(tree)
    if veth:
        _insert(late, _quiet_names(early), ("network", network or {}))
        _insert(late, tuple(name for name, _ in late if name not in _CLOSING), ("linked", {"network": None}))
    else:
        _insert(late, (*_MOUNTING, "trees"), ("linked", {"network": network}))
    return early, late


def _insert(steps: list[Step], after: tuple[str, ...], step: Step) -> None:
    """Behind the steps at the beginning whose names are in `after`."""
    place = next((index for index, (name, _) in enumerate(steps) if name not in after), len(steps))
    steps.insert(place, step)


def _quiet_names(early: list[Step]) -> tuple[str, ...]:
    return _QUIET_AFTER_SYSCTL if any(name == "sysctl" for name, _ in early) else _QUIET


def quiet(early: list[Step], late: list[Step]) -> int:
    """How many of the late steps can be done before it is known when, with what streams and where in the network."""
    names = _quiet_names(early)
    return next((index for index, (name, _) in enumerate(late) if name not in names), len(late))


def veth(plan: Plan) -> str:
    """The name of the link that can be made ahead: the only one, of the usual kind."""
    links = plan["links"]
    return links[0]["name"] if len(links) == 1 and links[0]["kind"] == "veth" else ""


def _path(arguments: dict[str, Any]) -> str:
    path = arguments.get("target") or arguments.get("path") or ""
    return path if isinstance(path, str) else ""


def _is_early(name: str, arguments: dict[str, Any], path: str, tree: str, trees: list[str], plan: Plan) -> bool:
    if name in ("identity", "loopback"):
        return True
    if name == "sysctl":
        return arguments["name"] in _SYSCTLS
    if tree not in _TREES or not {"", ".", ".."}.isdisjoint(path.split("/")[1:]):
        return False
    if path == tree and path not in trees:
        return name == "mount" or (name == "attach" and bool(plan["sources"][arguments["source"]]["kind"] == "dev"))
    return path != tree and tree in trees and name in ("mount", "cgroup", "mask", "protect")


def sources(steps: list[Step]) -> list[int]:
    """Which of the plan's sources early steps need."""
    return [arguments["source"] for name, arguments in steps if name == "attach"]


def shape(plan: Plan) -> dict[str, Any] | None:
    """What two plans must have in common for one to go on where the other has got to; None for a plan that no slot can serve:
    one that joins namespaces, is not alone with its ids, or has more of them than the range."""
    if plan["namespaces"]["join"] or plan["time"] is not None or not plan["maps"] or plan["maps"]["uid"].count("\n") != 1:
        return None
    early = split(plan)[0]
    return {
        "namespaces": plan["namespaces"]["new"],
        "seccomp": plan["seccomp"],
        "devices": plan["devices"],
        "veth": veth(plan),
        "early": [list(step) for step in early],
        "sources": [plan["sources"][index] for index in sources(early)],
    }


def with_program(steps: list[Any], program: bytes) -> list[Step]:
    """The steps with the compiled filter, which travels apart from them."""
    return [(name, {**arguments, "program": program} if name == "seccomp" else arguments) for name, arguments in steps]


def run(steps: list[Step], state: Init) -> list[str | int] | None:
    """Carry out early steps; what failed, as a record, or None."""
    name = ""
    try:
        for name, arguments in steps:
            if name in ("mount", "attach") and state.root < 0:
                _stage(state)
            STEPS[name](state, **arguments)
    except BaseException as error:
        return record(name, error)
    return None


def _stage(state: Init) -> None:
    """A tmpfs to build on, attached, since Linux 6.1 moves mounts onto attached ones only; the root's own place is beside."""
    mount.make_private()
    state.root = state.staging = mount.new_mount("tmpfs", (("mode", "755"), ("size", "64k")))
    mount.move_mount(state.staging, state.place)
    os.mkdir(_ROOT, 0o700, dir_fd=state.staging)
    os.close(state.place)
    state.place = os.open(_ROOT, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=state.staging)
