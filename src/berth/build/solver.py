"""Runs the stages of a plan: each as soon as those it needs are done, a few at a time, all of them ended when one fails."""

from __future__ import annotations

import asyncio
import os

from berth.build.graph import PlannedStage
from berth.build.job import Job
from berth.build.progress import Progress
from berth.build.stage import StageBuilder
from berth.build.state import State

PARALLEL = max(2, min(4, os.cpu_count() or 2))


async def solve(job: Job, progress: Progress) -> State:
    """The state of the target. On an error, and when cancelled, every stage has ended before this raises."""
    slots = asyncio.Semaphore(PARALLEL)
    tasks = []
    loop = asyncio.get_running_loop()
    for planned in job.plan.stages:
        job.results[planned.stage.index] = loop.create_future()
    for planned in job.plan.stages:
        tasks.append(asyncio.create_task(_run(job, planned, progress, slots), name=f"build stage {planned.stage.index}"))
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task in done and task.exception() is not None:
                task.result()
        return job.results[job.plan.target].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for future in job.results.values():
            future.cancel()


async def _run(job: Job, planned: PlannedStage, progress: Progress, slots: asyncio.Semaphore) -> None:
    """One stage. A stage of the file only ever waits for earlier ones, and those come first in the queue for a slot."""
    for index in planned.needs:
        await asyncio.shield(job.results[index])
    channel = progress.channel(planned.stage.index)
    async with slots:
        state = await StageBuilder(job, planned, channel).run()
    await channel.finish()
    job.results[planned.stage.index].set_result(state)
