"""Executing a plan: operations run as soon as what they come after is done, several at a time."""

from __future__ import annotations

import io
import tarfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import msgspec

from berth.client.engine import Engine
from berth.client.exec import ExecConfig
from berth.client.networks import NetworkCreate
from berth.client.volumes import VolumeCreate
from berth.compose import label
from berth.compose.convert.endpoint import convert_ipam
from berth.compose.model import Network, Volume
from berth.compose.observe import Observed
from berth.compose.operation import (
    Await,
    Connect,
    CopyIn,
    CreateContainer,
    CreateNetwork,
    CreateVolume,
    Operation,
    Plan,
    Remove,
    RemoveImage,
    RemoveNetwork,
    RemoveVolume,
    Rename,
    Restart,
    RunHook,
    Start,
    Stop,
)
from berth.compose.progress import Progress
from berth.compose.waiting import await_service
from berth.errors import BerthError, Conflict, Forbidden, NotFound, NotModified

MAX_PARALLEL = 16


class Executor:
    """Executes plans of one project. `observed` gives ids of containers that exist; new ones are remembered."""

    def __init__(
        self, engine: Engine, project: str, observed: Observed, progress: Progress, *, parallel: int = MAX_PARALLEL
    ) -> None:
        self._engine = engine
        self._project = project
        self._progress = progress
        self._parallel = parallel if parallel > 0 else MAX_PARALLEL
        self._ids: dict[str, str] = {container.name: container.id for container in observed.containers}
        self._shown: dict[str, str] = {}
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Start nothing new; waits end soon."""
        self._cancelled.set()

    def run(self, plan: Plan) -> None:
        """Do everything. The first error is raised when what had begun is done; nothing that comes after it is begun."""
        for name in plan.unchanged:
            self._progress.step(f"Container {name}", "Running")
        waiting = {operation.id: set(operation.after) for operation in plan.operations}
        by_id = {operation.id: operation for operation in plan.operations}
        running: dict[Future[None], str] = {}
        failure: BaseException | None = None
        with ThreadPoolExecutor(self._parallel) as pool:
            try:
                while waiting or running:
                    if failure is None and not self._cancelled.is_set():
                        for name in [name for name, before in waiting.items() if not before]:
                            del waiting[name]
                            running[pool.submit(self._one, by_id[name])] = name
                    if not running:
                        break
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        name = running.pop(future)
                        error = future.exception()
                        failure = failure or error
                        for before in waiting.values():
                            before.discard(name)
            except BaseException:
                self.cancel()
                raise
        if failure is not None:
            raise failure

    def _one(self, operation: Operation) -> None:
        action = operation.action
        match action:
            case CreateNetwork():
                self._show(f"Network {action.network.name}", "Creating", "Created", lambda: self._create_network(action))
            case CreateVolume():
                self._show(
                    f"Volume {action.volume.name}",
                    "Creating",
                    "Created",
                    lambda: self._create_volume(action.volume, action.labels),
                )
            case CreateContainer():
                self._create_container(action)
            case Connect():
                self._engine.networks.connect(action.network, self._id(action.container), action.settings)
            case CopyIn():
                self._engine.containers.put_archive(self._id(action.container), "/", _tar(action))
            case Start():
                self._start(action.container)
            case Stop():
                self._show(self._subject(action.container), "Stopping", "Stopped", lambda: self._stop(action))
            case Restart():
                restart = self._engine.containers.restart
                self._show(
                    self._subject(action.container),
                    "Restarting",
                    "Started",
                    lambda: restart(self._id(action.container), timeout=action.timeout),
                )
            case Remove():
                self._remove(action)
            case Rename():
                self._engine.containers.rename(self._id(action.container), action.name)
                self._ids[action.name] = self._id(action.container)
                self._progress.step(f"Container {action.name}", "Recreated")
            case Await():
                await_service(self._engine, action, self._id, self._progress, self._cancelled)
            case RunHook():
                self._hook(action)
            case RemoveNetwork():
                self._remove_network(action)
            case RemoveVolume():
                self._show(
                    f"Volume {action.name}",
                    "Removing",
                    "Removed",
                    lambda: _if_there(lambda: self._engine.volumes.remove(action.name)),
                )
            case RemoveImage():
                self._remove_image(action)

    def _id(self, container: str) -> str:
        return self._ids.get(container, container)

    def _subject(self, container: str) -> str:
        return f"Container {container}"

    def _show(self, subject: str, doing: str, done: str, call: Callable[[], object]) -> None:
        self._progress.step(subject, doing)
        try:
            call()
        except BerthError:
            self._progress.step(subject, "Error")
            raise
        self._progress.step(subject, done)

    def _create_network(self, action: CreateNetwork) -> None:
        create_network(self._engine, action.network, dict(action.labels))

    def _create_volume(self, volume: Volume, labels: object) -> None:
        body = VolumeCreate(
            name=volume.name,
            driver=volume.driver,
            driver_opts=dict(volume.driver_opts) or None,
            labels=msgspec.convert(labels, dict[str, str]),
        )
        self._engine.volumes.create(body)

    def _create_container(self, action: CreateContainer) -> None:
        blueprint = action.blueprint
        subject = self._subject(action.replaces or blueprint.name)
        self._progress.step(subject, "Recreate" if action.replaces else "Creating")
        host = blueprint.body.host_config
        if host is not None:
            for attribute in ("network_mode", "ipc_mode", "pid_mode"):
                value = getattr(host, attribute)
                if value is not None and value.startswith("service:"):
                    setattr(host, attribute, "container:" + self._service_container(value.removeprefix("service:")))
            if host.volumes_from:
                host.volumes_from = [self._volumes_from(entry) for entry in host.volumes_from]
        try:
            answer = self._engine.containers.create(blueprint.body, name=blueprint.name, platform=blueprint.platform)
        except BerthError:
            self._progress.step(subject, "Error")
            raise
        self._ids[blueprint.name] = answer.id or blueprint.name
        for warning in answer.warnings or []:
            self._progress.warn(f"{blueprint.name}: {warning}")
        if not action.replaces:
            self._progress.step(subject, "Created")

    def _volumes_from(self, entry: str) -> str:
        if entry.startswith("container:"):
            return entry.removeprefix("container:")
        name, colon, mode = entry.removeprefix("service:").partition(":")
        return self._service_container(name) + colon + mode

    def _service_container(self, service: str) -> str:
        found = self._engine.containers.list(
            all=True, filters={"label": [*label.project_filter(self._project)["label"], f"{label.SERVICE}={service}"]}
        )
        if not found or not found[0].id:
            raise NotFound(f"no such container: the service {service!r} has none to join")
        return found[-1].id or ""

    def _start(self, container: str) -> None:
        self._show(self._subject(container), "Starting", "Started", lambda: self._engine.containers.start(self._id(container)))

    def _stop(self, action: Stop) -> None:
        _if_there(lambda: self._engine.containers.stop(self._id(action.container), timeout=action.timeout))

    def _remove(self, action: Remove) -> None:
        # A container whose removal is in progress answers with a conflict: what was asked for is happening.
        def remove() -> None:
            try:
                self._engine.containers.remove(self._id(action.container), force=action.force, volumes=action.volumes)
            except Conflict as error:
                if "already in progress" not in error.message:
                    raise

        self._show(self._subject(action.container), "Removing", "Removed", lambda: _if_there(remove))

    def _remove_network(self, action: RemoveNetwork) -> None:
        subject = f"Network {action.name}"
        self._progress.step(subject, "Removing")
        try:
            _if_there(lambda: self._engine.networks.remove(action.id or action.name))
        except (Forbidden, Conflict):
            self._progress.step(subject, "Resource is still in use")
        else:
            self._progress.step(subject, "Removed")

    def _remove_image(self, action: RemoveImage) -> None:
        subject = f"Image {action.name}"
        self._progress.step(subject, "Removing")
        try:
            self._engine.images.remove(action.name)
        except NotFound:
            self._progress.step(subject, "Warning: No resource found to remove")
        except Conflict:
            self._progress.step(subject, "Resource is still in use")
        else:
            self._progress.step(subject, "Removed")

    def _hook(self, action: RunHook) -> None:
        hook = action.hook
        config = ExecConfig(
            cmd=list(hook.command),
            user=hook.user,
            privileged=hook.privileged or None,
            working_dir=hook.working_dir,
            env=[f"{key}={value}" for key, value in hook.environment.items() if value is not None] or None,
            attach_stdout=True,
            attach_stderr=True,
        )
        exec_id = self._engine.execs.create(self._id(action.container), config)
        with self._engine.execs.start(exec_id, tty=False) as stream:
            output = b"".join(data for _, data in stream.frames())
        code = self._engine.execs.inspect(exec_id).exit_code
        if code:
            raise BerthError(
                f"{action.kind} hook of {action.container} exited with status code {code}: {output.decode(errors='replace')}"
            )


def create_network(engine: Engine, network: Network, labels: dict[str, str]) -> None:
    """Create a network as the project describes it."""
    body = NetworkCreate(
        name=network.name,
        check_duplicate=True,
        driver=network.driver,
        internal=network.internal or None,
        attachable=network.attachable or None,
        enable_ipv4=network.enable_ipv4,
        enable_ipv6=network.enable_ipv6,
        ipam=convert_ipam(network),
        options=dict(network.driver_opts) or None,
        labels=labels,
    )
    engine.networks.create(body)


def _if_there(call: Callable[[], object]) -> None:
    try:
        call()
    except (NotFound, NotModified):
        return


def _tar(action: CopyIn) -> bytes:
    target = io.BytesIO()
    now = int(time.time())
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for file in action.files:
            member = tarfile.TarInfo(file.path.lstrip("/"))
            member.size, member.mode, member.uid, member.gid, member.mtime = len(file.content), file.mode, file.uid, file.gid, now
            tar.addfile(member, io.BytesIO(file.content))
    return target.getvalue()
