"""Planning `up` and `create`: from what is wanted and what exists to a list of operations. Pure.

Services are taken dependencies first. A container is kept when its configuration hash and its image are those wanted;
otherwise it is replaced: the new one is made under a temporary name, the old one is stopped only when everything the new
one waits for is ready, then it is removed and the new one takes its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from berth.compose import label
from berth.compose.convert.container import Place, convert_container
from berth.compose.convert.endpoint import endpoint, ordered_networks
from berth.compose.fingerprint import config_hash, resource_hash
from berth.compose.load.consistency import service_order
from berth.compose.model import Network, Project, Service, Volume
from berth.compose.observe import Existing, Observed
from berth.compose.operation import (
    Await,
    Connect,
    CopyIn,
    CreateContainer,
    CreateNetwork,
    CreateVolume,
    Plan,
    Remove,
    Rename,
    Restart,
    RunHook,
    Start,
    Stop,
)
from berth.errors import InvalidArgument, NotFound


@dataclass(frozen=True)
class Wishes:
    """What the user asked for. `services` empty means all; `images` are the ids of the images to use, by service."""

    services: tuple[str, ...] = ()
    scale: Mapping[str, int] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    dependencies: bool = True
    force_recreate: bool = False
    no_recreate: bool = False
    always_recreate_dependencies: bool = False
    remove_orphans: bool = False
    ignore_orphans: bool = False
    renew_anonymous: bool = False
    start: bool = True
    timeout: int | None = None


def container_name(project: Project, service: Service, number: int) -> str:
    """The name of a service's container."""
    return service.container_name or f"{project.name}-{service.name}-{number}"


def selected_services(project: Project, names: tuple[str, ...], *, dependencies: bool = True) -> list[str]:
    """The services named (all without names) with what they need, dependencies first. Raises NotFound for unknown ones."""
    for name in names:
        if name not in project.services:
            raise NotFound(f"no such service: {name}")
    if not names:
        return service_order(project.services)
    chosen: dict[str, None] = {}
    pending = list(names)
    while pending:
        name = pending.pop(0)
        if name in chosen or name not in project.services:
            continue
        chosen[name] = None
        if dependencies:
            pending.extend(project.services[name].dependencies)
    return [name for name in service_order(project.services) if name in chosen]


def plan_up(project: Project, observed: Observed, wishes: Wishes) -> Plan:
    """The plan that brings the chosen services to what the files say."""
    if wishes.force_recreate and wishes.no_recreate:
        raise InvalidArgument("--force-recreate and --no-recreate are incompatible")
    planner = _Planner(project, observed, wishes)
    for name in selected_services(project, wishes.services, dependencies=wishes.dependencies):
        planner.service(project.services[name])
    planner.orphans()
    return planner.plan


class _Planner:
    def __init__(self, project: Project, observed: Observed, wishes: Wishes) -> None:
        self.project = project
        self.observed = observed
        self.wishes = wishes
        self.plan = Plan()
        # By service: what has to be done before others may rely on it, its containers' names, whether any was replaced.
        self.made: dict[str, list[str]] = {}
        self.started: dict[str, list[str]] = {}
        self.names: dict[str, list[str]] = {}
        self.replaced: set[str] = set()

    def service(self, service: Service) -> None:
        """Plan all containers of one service."""
        wanted = self.wishes.scale.get(service.name, service.replicas)
        if service.container_name and wanted > 1:
            raise InvalidArgument(f'service "{service.name}" has a container_name and cannot have {wanted} containers')
        name, made = service.name, self._resources(service)
        self.made[name], self.started[name], self.names[name] = [], [], []
        existing = self.observed.of_service(name)
        for surplus in existing[wanted:]:
            self._discard(surplus)
        kept = existing[:wanted]
        taken = {container.number for container in kept}
        free = (number for number in range(1, wanted + len(taken) + 1) if number not in taken)
        ready = self._ready(service) if self.wishes.start else []
        for container in kept:
            if self._differs(service, container):
                self._replace(service, container, made, ready)
            else:
                self._keep(service, container, ready)
        for _ in range(wanted - len(kept)):
            self._create(service, next(free), made, ready)

    def _resources(self, service: Service) -> list[str]:
        done: list[str] = []
        for key in service.networks:
            network = self.project.networks[key]
            if network.name in self.observed.networks:
                self._compare("Network", network, self.observed.networks[network.name])
                continue
            if network.external:
                raise NotFound(f"network {network.name} declared as external, but could not be found")
            labels = label.resource_labels(self.project, label.NETWORK, key, network.labels, resource_hash(network))
            done.append(self.plan.add(CreateNetwork(key, network, labels)))
        for key in [m.source for m in service.volumes if m.type == "volume" and m.source]:
            volume = self.project.volumes[key]
            if volume.name in self.observed.volumes:
                self._compare("Volume", volume, self.observed.volumes[volume.name])
                continue
            if volume.external:
                raise NotFound(f'external volume "{volume.name}" not found')
            labels = label.resource_labels(self.project, label.VOLUME, key, volume.labels, resource_hash(volume))
            done.append(self.plan.add(CreateVolume(volume, labels)))
        for joined in service.joined_services:
            done += self.made.get(joined, [])
        return done

    def _compare(self, word: str, resource: Network | Volume, labels: Mapping[str, str]) -> None:
        """Tell when something exists that is not what the files describe. It is used as it is: others may depend on it."""
        notice = ""
        if resource.external:
            return
        if labels.get(label.PROJECT) != self.project.name:
            notice = f"{word} {resource.name} exists and was not created for this project: say `external: true` to use it"
        elif labels.get(label.CONFIG_HASH) not in (None, resource_hash(resource)):
            notice = f"{word} {resource.name} exists with other settings than the files have: `down` and `up` apply them"
            notice += " (with -v: the data is lost)" if word == "Volume" else ""
        if notice and notice not in self.plan.notices:
            self.plan.notices.append(notice)

    def _ready(self, service: Service) -> list[str]:
        """What to wait for before a container of the service starts."""
        done: list[str] = []
        for name, dependency in service.dependencies.items():
            if name not in self.names or not self.names[name]:
                continue
            started = self.started[name]
            if dependency.condition == "service_started":
                done += started
            else:
                wait = Await(name, tuple(self.names[name]), dependency.condition, dependency.required)
                done.append(self.plan.add(wait, started))
        return done

    def _differs(self, service: Service, container: Existing) -> bool:
        if self.wishes.no_recreate:
            return False
        chosen = not self.wishes.services or service.name in self.wishes.services
        if self.wishes.force_recreate and (chosen or self.wishes.always_recreate_dependencies):
            return True
        if any(name in self.replaced for name in service.joined_services):
            return True
        if container.config_hash != config_hash(self.project, service):
            return True
        image = self.wishes.images.get(service.name)
        return bool(image) and container.image_id != image

    def _keep(self, service: Service, container: Existing, ready: list[str]) -> None:
        self.names[service.name].append(container.name)
        if not self.wishes.start:
            return
        restarts = container.running and any(d.restart and name in self.replaced for name, d in service.dependencies.items())
        if restarts:
            self.started[service.name].append(self.plan.add(Restart(container.name, self.wishes.timeout), ready))
        elif container.state in ("running", "restarting"):
            self.plan.unchanged.append(container.name)
        else:
            self._start(service, container.name, ready)

    def _create(self, service: Service, number: int, made: list[str], ready: list[str]) -> None:
        name = container_name(self.project, service, number)
        done = self._build(service, number, name, name, {}, None, made)
        self.made[service.name] += done
        self.names[service.name].append(name)
        if self.wishes.start:
            self._start(service, name, [*done, *ready])

    def _replace(self, service: Service, old: Existing, made: list[str], ready: list[str]) -> None:
        self.replaced.add(service.name)
        name = container_name(self.project, service, old.number)
        temporary = f"{old.id[:12]}_{name}"
        inherited = {} if self.wishes.renew_anonymous else dict(old.anonymous)
        done = self._build(service, old.number, temporary, name, inherited, old, made)
        before = done
        if old.running:
            before = [self.plan.add(Stop(old.name, self.wishes.timeout), [*done, *ready])]
        removed = self.plan.add(Remove(old.name, volumes=self.wishes.renew_anonymous), before)
        renamed = self.plan.add(Rename(temporary, name), [removed])
        self.made[service.name].append(renamed)
        self.names[service.name].append(name)
        if self.wishes.start:
            self._start(service, name, [renamed, *ready])

    def _build(
        self,
        service: Service,
        number: int,
        name: str,
        final: str,
        inherited: Mapping[str, str],
        old: Existing | None,
        made: list[str],
    ) -> list[str]:
        labels = label.container_labels(
            self.project,
            service,
            number=number,
            config_hash=config_hash(self.project, service),
            image_id=self.wishes.images.get(service.name),
            oneoff=False,
        )
        place = Place(final, self.project.image_name(service), labels, inherited)
        blueprint = convert_container(self.project, service, place)
        if name != final:
            blueprint = type(blueprint)(name, blueprint.body, blueprint.platform, blueprint.uploads)
        created = self.plan.add(CreateContainer(blueprint, final if old is not None else None), made)
        done = [created]
        for key in ordered_networks(service)[1:]:
            settings = endpoint(self.project, service, key, final)
            done.append(self.plan.add(Connect(name, self.project.networks[key].name, settings), [created]))
        if blueprint.uploads:
            done.append(self.plan.add(CopyIn(name, blueprint.uploads), [created]))
        return done

    def _start(self, service: Service, name: str, after: list[str]) -> None:
        done = self.plan.add(Start(name), after)
        for hook in service.post_start:
            done = self.plan.add(RunHook(name, hook, "post_start"), [done])
        self.started[service.name].append(done)

    def _discard(self, container: Existing) -> None:
        before: list[str] = []
        if container.running:
            before.append(self.plan.add(Stop(container.name, self.wishes.timeout)))
        self.plan.add(Remove(container.name), before)

    def orphans(self) -> None:
        """Containers of services that the files do not have."""
        known = {*self.project.services, *self.project.disabled}
        found = [c for c in self.observed.containers if c.service not in known and not c.oneoff]
        if self.wishes.remove_orphans:
            for container in found:
                self._discard(container)
        elif found and not self.wishes.ignore_orphans:
            names = ", ".join(container.name for container in found)
            self.plan.notices.append(
                f"Found orphan containers ([{names}]) for this project. If you removed or renamed this service in your compose "
                "file, you can run this command with the --remove-orphans flag to clean it up."
            )
