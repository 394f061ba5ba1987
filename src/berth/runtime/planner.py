"""The engine's face of planning: requests into plans, new limits and readings of a running container."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from berth.contract.runtime import ExecRequest, LaunchRequest, Stats
from berth.kernel.file import write_text
from berth.model.oci import Resources
from berth.runtime import cgroup_limits, cgroup_stats
from berth.runtime.cgroup import directory
from berth.runtime.cgroup_realtime import grant
from berth.runtime.foreign_plan import compile_foreign
from berth.runtime.plan import Compiler

if TYPE_CHECKING:
    from berth.runtime.cgroup import Group
    from berth.runtime.cgroup_layout import Layout


class NativePlanner:
    """Plans for the launcher of this host. `root` is the data root, `run` the run directory, `layout` the control groups
    to use (by default what the host has)."""

    def __init__(self, root: str, run: str, layout: Layout | None = None) -> None:
        self._run = run
        self._compiler = Compiler(run, root, layout)

    def launch_plan(self, request: LaunchRequest) -> dict[str, Any]:
        """The plan of a container. InvalidArgument when it cannot be."""
        plan = compile_foreign(request, self._compiler, self._run) if request.runtime else self._compiler.launch(request)
        _grant_realtime(plan["cgroup"], request.spec.linux.resources)
        return plan

    def with_network(self, plan: dict[str, Any], request: LaunchRequest) -> dict[str, Any]:
        """The plan of a container, for one of its request without a network."""
        return self._compiler.with_network(plan, request)

    def exec_plan(self, request: ExecRequest) -> dict[str, Any]:
        """The plan of a further process."""
        return self._compiler.exec(request)

    def update(self, group: Group, resources: Resources) -> None:
        """Change the limits of a running container. OSError names the file that the kernel refused to change."""
        _grant_realtime(group, resources)
        for controller, name, value, optional in cgroup_limits.ordered(group, resources):
            try:
                write_text(f"{directory(group, controller)}/{name}", value)
            except FileNotFoundError:
                if not optional:
                    raise

    def stats(self, group: Group) -> Stats:
        """A reading. OSError when the group is gone."""
        return cgroup_stats.read(group)


def _grant_realtime(group: Group, resources: Resources | None) -> None:
    cpu = resources.cpu if resources is not None else None
    if cpu is not None and cpu.realtime_runtime and "cpu" in group["roots"]:
        grant(group, cpu.realtime_runtime, cpu.realtime_period or 0)
