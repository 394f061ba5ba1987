"""Host ids: the ranges that containers get, and who else claims them."""

from __future__ import annotations

from collections.abc import Iterator

from berth.doctor.check import Scene, listed, note, ok, warning
from berth.engine.idrange import BLOCKS, CLAIMS, FIRST, LAST, SLOTS_PER_BLOCK, subordinate_ranges
from berth.wire.doctor import Finding

_TIGHT = 4


def ranges(scene: Scene) -> Iterator[Finding]:
    """How many blocks of ids are claimed on this host, and by which engines."""
    scene.need_root("which engine has claimed which host ids")
    claims = {name: scene.host.text(f"{CLAIMS}/{name}") or "" for name in scene.host.names(CLAIMS) if name.isdigit()}
    alive = {name: owner for name, owner in claims.items() if scene.host.exists(owner)}
    free = BLOCKS - len(alive)
    facts = {"first": FIRST, "last": LAST, "blocks": BLOCKS, "claimed": alive, "containers_per_block": SLOTS_PER_BLOCK}
    words = (
        f"host ids {FIRST} to {LAST}: {len(alive)} of {BLOCKS} blocks are claimed, each for {SLOTS_PER_BLOCK} running containers"
    )
    if free < _TIGHT:
        yield warning(
            words,
            why="A container that finds no range of its own does not start.",
            change=f"remove the data roots of engines that are not used any more: {listed(sorted(set(alive.values())))}",
            facts=facts,
        )
    else:
        yield ok(words, facts=facts)


def subordinate(scene: Scene) -> Iterator[Finding]:
    """Ids that were given to users for their own containers."""
    overlapping = []
    for path in ("/etc/subuid", "/etc/subgid"):
        for line in (scene.host.text(path) or "").splitlines():
            if any(first <= LAST and last >= FIRST for first, last in subordinate_ranges(line)):
                overlapping.append(f"{line.strip()} in {path}")
    if overlapping:
        yield note(
            f"users have ids in the range that containers are given: {listed(overlapping)}",
            why="berth leaves these ids out, so it has fewer of its own.",
            change=f"give those users ids outside of {FIRST} to {LAST}",
            facts={"overlapping": overlapping},
        )
    else:
        yield ok("no user has been given ids that containers get (/etc/subuid, /etc/subgid)")


def accounts(scene: Scene) -> Iterator[Finding]:
    """Real users whose own id lies in the range."""
    inside = []
    for line in (scene.host.text("/etc/passwd") or "").splitlines():
        parts = line.split(":")
        if len(parts) > 2 and parts[2].isdigit() and FIRST <= int(parts[2]) <= LAST:
            inside.append(f"{parts[0]} ({parts[2]})")
    if inside:
        yield warning(
            f"users of this host have ids that containers are given: {listed(inside)}",
            why="A process that leaves its container would be that user.",
            change=f"give them ids outside of {FIRST} to {LAST} (usermod -u)",
            facts={"users": inside},
        )
    else:
        yield ok("no user of this host has an id that containers are given (/etc/passwd)")
