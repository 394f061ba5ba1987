"""update: limits and the restart policy of containers that exist."""

from __future__ import annotations

import sys
from typing import Any

import click

from berth.cli.command import declare
from berth.cli.run.request import cpus, parse_restart
from berth.cli.session import each, engine
from berth.model.units import parse_size
from berth.wire.container import HostConfig


@declare("update")
@click.option("--blkio-weight", type=int, help="Block IO (relative weight), between 10 and 1000, or 0 to disable")
@click.option("--cpu-period", type=int, help="Limit CPU CFS (Completely Fair Scheduler) period")
@click.option("--cpu-quota", type=int, help="Limit CPU CFS (Completely Fair Scheduler) quota")
@click.option("--cpu-rt-period", type=int, help="Limit the CPU real-time period in microseconds")
@click.option("--cpu-rt-runtime", type=int, help="Limit the CPU real-time runtime in microseconds")
@click.option("-c", "--cpu-shares", type=int, help="CPU shares (relative weight)")
@click.option("--cpus", help="Number of CPUs")
@click.option("--cpuset-cpus", help="CPUs in which to allow execution (0-3, 0,1)")
@click.option("--cpuset-mems", help="MEMs in which to allow execution (0-3, 0,1)")
@click.option("-m", "--memory", help="Memory limit")
@click.option("--memory-reservation", help="Memory soft limit")
@click.option("--memory-swap", help="Swap limit equal to memory plus swap: -1 to enable unlimited swap")
@click.option("--pids-limit", type=int, help="Tune container pids limit (set -1 for unlimited)")
@click.option("--restart", help="Restart policy to apply when a container exits")
@click.argument("names", nargs=-1, required=True, metavar="CONTAINER...")
def update(names: tuple[str, ...], **options: Any) -> None:
    """Update configuration of one or more containers."""
    if all(value is None for value in options.values()):
        raise click.UsageError("you must provide one or more flags when using this command")
    swap = options["memory_swap"]
    changes = HostConfig(
        blkio_weight=options["blkio_weight"],
        cpu_period=options["cpu_period"],
        cpu_quota=options["cpu_quota"],
        cpu_realtime_period=options["cpu_rt_period"],
        cpu_realtime_runtime=options["cpu_rt_runtime"],
        cpu_shares=options["cpu_shares"],
        nano_cpus=cpus(options["cpus"]) if options["cpus"] is not None else None,
        cpuset_cpus=options["cpuset_cpus"],
        cpuset_mems=options["cpuset_mems"],
        memory=parse_size(options["memory"]) if options["memory"] else None,
        memory_reservation=parse_size(options["memory_reservation"]) if options["memory_reservation"] else None,
        memory_swap=None if swap is None else -1 if swap == "-1" else parse_size(swap),
        pids_limit=options["pids_limit"],
        restart_policy=parse_restart(options["restart"]) if options["restart"] else None,
    )
    target = engine()

    def change(name: str) -> str:
        for warning in (target.containers.update(name, changes) or {}).get("Warnings") or []:
            print(f"WARNING: {warning}", file=sys.stderr)
        return name

    each(names, change)


COMMANDS = {"update": update}
