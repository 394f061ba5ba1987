"""Planning `down`, `stop` and `rm`: dependants first. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from berth.compose.model import Project, Service
from berth.compose.observe import Existing
from berth.compose.operation import Plan, Remove, RemoveImage, RemoveNetwork, RemoveVolume, RunHook, Stop


@dataclass(frozen=True)
class Down:
    """What `down` found and was asked for. Networks by name with their ids, in the engine as well as wanted away."""

    containers: tuple[Existing, ...]
    networks: Mapping[str, str]
    volumes: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    timeout: int | None = None
    anonymous_volumes: bool = False


def plan_stop(project: Project | None, containers: tuple[Existing, ...], timeout: int | None) -> tuple[Plan, dict[str, str]]:
    """Stop what runs, a service after those that depend on it. Also gives, by container, what its removal has to come after."""
    plan = Plan()
    ends: dict[str, str] = {}
    by_service: dict[str, list[Existing]] = {}
    for container in containers:
        by_service.setdefault(container.service, []).append(container)
    services: Mapping[str, Service] = {**project.services, **project.disabled} if project is not None else {}
    dependants = _dependants(services, by_service)
    order = _dependants_first(list(by_service), dependants)
    stopped: dict[str, list[str]] = {}
    for name in order:
        before = [each for dependant in dependants.get(name, ()) for each in stopped.get(dependant, [])]
        stopped[name] = []
        for container in by_service[name]:
            if not container.running:
                continue
            done = before
            for hook in services[name].pre_stop if name in services else ():
                done = [plan.add(RunHook(container.name, hook, "pre_stop"), done)]
            ends[container.name] = plan.add(Stop(container.name, timeout), done)
            stopped[name].append(ends[container.name])
    return plan, ends


def plan_down(project: Project | None, down: Down) -> Plan:
    """Stop and remove containers, then networks, volumes and images."""
    plan, ends = plan_stop(project, down.containers, down.timeout)
    removed = []
    for container in down.containers:
        after = [ends[container.name]] if container.name in ends else []
        removed.append(plan.add(Remove(container.name, volumes=down.anonymous_volumes, force=True), after))
    for name, network_id in down.networks.items():
        plan.add(RemoveNetwork(name, network_id), removed)
    for volume in down.volumes:
        plan.add(RemoveVolume(volume), removed)
    for image in down.images:
        plan.add(RemoveImage(image), removed)
    return plan


def _dependants_first(names: list[str], dependants: Mapping[str, set[str]]) -> list[str]:
    done: dict[str, None] = {}

    def visit(name: str, chain: tuple[str, ...]) -> None:
        if name in done or name in chain:
            return
        for dependant in sorted(dependants.get(name, ())):
            visit(dependant, (*chain, name))
        done[name] = None

    for name in names:
        visit(name, ())
    return [name for name in done if name in names]


def _dependants(services: Mapping[str, Service], by_service: Mapping[str, list[Existing]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, service in services.items():
        for dependency in service.dependencies:
            found.setdefault(dependency, set()).add(name)
    # Without the files, the containers' labels tell who depends on whom.
    for name, containers in by_service.items():
        if name in services:
            continue
        for container in containers:
            for entry in container.labels.get("com.docker.compose.depends_on", "").split(","):
                if entry:
                    found.setdefault(entry.split(":")[0], set()).add(name)
    return found
