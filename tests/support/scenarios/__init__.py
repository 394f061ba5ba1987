"""The operations of the failpoint matrix: what is there before, what is done, and what must hold whoever was killed in between.

Each scenario names the points that it comes by. `verify` is called when an engine serves again: the operation was done or
it was not, never half; then it is tried again, and has to work. `clean` takes everything away: the matrix compares.
"""

from __future__ import annotations

from support.scenarios.container import Change, Create, Exec, Pause, Remove, Rotate, RunAndRemove, Start, StartJoined, Stop
from support.scenarios.engine import FirstStart, Restart
from support.scenarios.foreign import OTHER_RUNTIMES
from support.scenarios.image import Build, Commit, Import, Load, LoadIndex, Pull, PullIndex, RemoveImage, RemovePlatforms, Tag
from support.scenarios.network import Connect, NetworkLife, Ports, VolumeLife
from support.scenarios.world import Scenario, World

__all__ = ["SCENARIOS", "Scenario", "World"]

SCENARIOS: tuple[type[Scenario], ...] = (
    Create, Start, StartJoined, Stop, RunAndRemove, Remove, VolumeLife, NetworkLife, Ports, Connect, Exec, Pause, Change, Import,
    Load, Pull, PullIndex, LoadIndex, RemovePlatforms, Commit, Build, Tag, RemoveImage, Rotate, Restart, FirstStart,
    *OTHER_RUNTIMES,
)  # fmt: skip
