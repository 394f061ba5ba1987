"""Which stages a target needs, and what each of them waits for. Pure: from a parsed Dockerfile to a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from berth.build.dockerfile.error import StepError
from berth.build.dockerfile.expansion import ExpansionError, expand
from berth.build.dockerfile.instruction import Copy, Dockerfile, Instruction, Run, Stage
from berth.build.scope import platform_arguments
from berth.errors import InvalidArgument

SCRATCH = "scratch"


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """`base` is the stage it builds on, or None and `image` names what it begins with (`scratch` for nothing)."""

    stage: Stage
    image: str
    base: int | None
    needs: tuple[int, ...]
    platform: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The stages to build, in the order of the file; the last one is the target. `first_step` numbers their FROM, from 1."""

    dockerfile: Dockerfile
    stages: tuple[PlannedStage, ...]
    target: int
    first_step: Mapping[int, int]
    steps: int

    def text(self) -> str:
        """A stable form for tests and for reading."""
        lines = []
        for planned in self.stages:
            base = f"stage {planned.base}" if planned.base is not None else planned.image
            needs = f" needs {', '.join(map(str, planned.needs))}" if planned.needs else ""
            lines.append(f"{planned.stage.index} {planned.stage.name or '-'} from {base}{needs}")
        return "\n".join(lines)


def find_stage(dockerfile: Dockerfile, name: str, before: int) -> int | None:
    """The stage that a name or a number means to instructions of stage `before`; None when it is the name of an image."""
    if name.isdigit():
        return int(name) if int(name) < before else None
    found = [stage.index for stage in dockerfile.stages[:before] if stage.name and stage.name == name.lower()]
    return found[-1] if found else None


def plan(dockerfile: Dockerfile, arguments: Mapping[str, str | None], target: str = "", wanted_platform: str = "") -> Plan:
    """Follow the target back to all it needs. `arguments` are the global ones."""
    goal = _target(dockerfile, target)
    planned: dict[int, PlannedStage] = {}
    todo = [goal]
    while todo:
        index = todo.pop()
        if index not in planned:
            planned[index] = _plan_stage(dockerfile, dockerfile.stages[index], arguments, wanted_platform)
            todo.extend(planned[index].needs)
    stages = tuple(planned[index] for index in sorted(planned))
    first, count = {}, 1
    for item in stages:
        first[item.stage.index] = count
        count += 1 + len(item.stage.steps)
    return Plan(dockerfile, stages, goal, first, count - 1)


def references(instruction: Instruction) -> list[str]:
    """The stages or images that an instruction copies or mounts from, as written."""
    match instruction:
        case Copy(from_=name) if name:
            return [name]
        case Run():
            return [mount.from_ for mount in instruction.mounts if mount.from_]
    return []


def _target(dockerfile: Dockerfile, target: str) -> int:
    if not target:
        return len(dockerfile.stages) - 1
    found = find_stage(dockerfile, target, len(dockerfile.stages))
    if found is None:
        names = ", ".join(stage.name for stage in dockerfile.stages if stage.name)
        known = f"the Dockerfile has {names}" if names else "the Dockerfile names no stages"
        raise InvalidArgument(f"failed to reach build target {target} in Dockerfile: {known}")
    return found


def _plan_stage(dockerfile: Dockerfile, stage: Stage, arguments: Mapping[str, str | None], wanted_platform: str) -> PlannedStage:
    known = platform_arguments(wanted_platform) | {name: value for name, value in arguments.items() if value is not None}
    try:
        image = expand(stage.base.image, known, dockerfile.escape)
        platform = expand(stage.base.platform, known, dockerfile.escape) or wanted_platform
    except ExpansionError as error:
        raise StepError(f"failed to process {stage.base.text!r}: {error}", stage.base.location) from None
    if not image:
        raise StepError(f"base name ({stage.base.image}) should not be blank: give the argument a value", stage.base.location)
    base = None if image.isdigit() else find_stage(dockerfile, image, stage.index)
    needs = {base} if base is not None else set()
    for step in stage.steps:
        for name in references(step):
            if name.lower() == stage.name or name == str(stage.index):
                raise StepError(f"invalid from flag value {name}: it refers to its own build stage", step.location)
            if name.isdigit() and int(name) >= stage.index:
                raise StepError(f"invalid from flag value {name}: there is no such stage before this one", step.location)
            found = find_stage(dockerfile, name, stage.index)
            if found is not None:
                needs.add(found)
    return PlannedStage(stage, image, base, tuple(sorted(needs)), platform)
