"""Operations: what a plan is made of. One operation is one request to the engine (or one wait); `after` names the
operations that have to be done before it. The text form is stable: tests and --dry-run show it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from berth.compose.convert.container import Blueprint
from berth.compose.convert.mount import Upload
from berth.compose.model import Hook, Network, Volume
from berth.errors import Internal
from berth.wire.network import EndpointSettings


@dataclass(frozen=True)
class CreateNetwork:
    """Create a network of the project."""

    key: str
    network: Network
    labels: Mapping[str, str]


@dataclass(frozen=True)
class CreateVolume:
    """Create a volume of the project."""

    volume: Volume
    labels: Mapping[str, str]


@dataclass(frozen=True)
class CreateContainer:
    """Create a container. `replaces` is the name shown when it takes another one's place."""

    blueprint: Blueprint
    replaces: str | None = None


@dataclass(frozen=True)
class Connect:
    """Attach a container to a further network."""

    container: str
    network: str
    settings: EndpointSettings


@dataclass(frozen=True)
class CopyIn:
    """Put files into a container that does not run yet."""

    container: str
    files: tuple[Upload, ...]


@dataclass(frozen=True)
class Start:
    """Start a container."""

    container: str


@dataclass(frozen=True)
class Stop:
    """Stop a container within `timeout` seconds, or its own grace period."""

    container: str
    timeout: int | None = None


@dataclass(frozen=True)
class Restart:
    """Restart a container, because what it depends on was replaced."""

    container: str
    timeout: int | None = None


@dataclass(frozen=True)
class Remove:
    """Remove a container; with its anonymous volumes if `volumes`."""

    container: str
    volumes: bool = False
    force: bool = False


@dataclass(frozen=True)
class Rename:
    """Give a container its final name."""

    container: str
    name: str


@dataclass(frozen=True)
class Await:
    """Wait until all these containers meet a condition of depends_on. When `required` is False, failing is only a warning."""

    service: str
    containers: tuple[str, ...]
    condition: str
    required: bool = True


@dataclass(frozen=True)
class RunHook:
    """Run a command inside a container."""

    container: str
    hook: Hook
    kind: str


@dataclass(frozen=True)
class RemoveNetwork:
    """Remove a network."""

    name: str
    id: str


@dataclass(frozen=True)
class RemoveVolume:
    """Remove a volume."""

    name: str


@dataclass(frozen=True)
class RemoveImage:
    """Remove an image."""

    name: str


Action = (
    CreateNetwork
    | CreateVolume
    | CreateContainer
    | Connect
    | CopyIn
    | Start
    | Stop
    | Restart
    | Remove
    | Rename
    | Await
    | RunHook
    | RemoveNetwork
    | RemoveVolume
    | RemoveImage
)


@dataclass(frozen=True)
class Operation:
    """An action with its place in the order. `id` is its text and unique in a plan."""

    id: str
    action: Action
    after: tuple[str, ...] = ()


@dataclass
class Plan:
    """Operations in an order in which they could be done one by one, and containers that stay as they are."""

    operations: list[Operation] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def add(self, action: Action, after: Iterable[str] = ()) -> str:
        """Add an operation; its id. What it comes after has to be there already."""
        name = describe(action)
        known = {operation.id for operation in self.operations}
        if name in known:
            return name
        before = tuple(dict.fromkeys(after))
        for each in before:
            if each not in known:
                raise Internal(f"the plan puts {name!r} after {each!r}, which is not in it")
        self.operations.append(Operation(name, action, before))
        return name

    def lines(self) -> Iterator[str]:
        """The stable text form, one line per operation."""
        for operation in self.operations:
            yield operation.id + (f"  [after {'; '.join(operation.after)}]" if operation.after else "")

    def __str__(self) -> str:
        return "\n".join(self.lines())


def describe(action: Action) -> str:
    """One line that names the action and what it is done to."""
    match action:
        case CreateNetwork(network=network):
            return f"create network {network.name}"
        case CreateVolume(volume=volume):
            return f"create volume {volume.name}"
        case CreateContainer(blueprint=blueprint):
            return f"create container {blueprint.name}"
        case Connect(container=container, network=network_name):
            return f"connect {container} to {network_name}"
        case CopyIn(container=container, files=files):
            return f"copy {', '.join(file.path for file in files)} into {container}"
        case Start(container=container):
            return f"start {container}"
        case Stop(container=container):
            return f"stop {container}"
        case Restart(container=container):
            return f"restart {container}"
        case Remove(container=container):
            return f"remove container {container}"
        case Rename(container=container, name=name):
            return f"rename {container} to {name}"
        case Await(service=service, condition=condition, required=required):
            return f"wait for {service}: {condition}" + ("" if required else " (optional)")
        case RunHook(container=container, hook=hook, kind=kind):
            return f"run {kind} in {container}: {' '.join(hook.command)}"
        case RemoveNetwork(name=name):
            return f"remove network {name}"
        case RemoveVolume(name=name):
            return f"remove volume {name}"
        case RemoveImage(name=name):
            return f"remove image {name}"
