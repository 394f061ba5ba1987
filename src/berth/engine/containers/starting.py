"""Starting a container: gather, compile, launch, record.

    volumes and bind sources ── networks.attach ── id range ── /etc files ── spec ── Runtime.launch ── state running

What was taken before a step that fails is given back in reverse. Attach clients that came before the start go along with
the launch, so that they see the first byte of output.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from contextlib import AsyncExitStack

from msgspec import structs

from berth import failpoint, trace
from berth.contract.image import Image
from berth.contract.network import Attachment
from berth.contract.runtime import AttachStream, IOPlan, LaunchFailed, LaunchRequest, Task
from berth.contract.volume import Held
from berth.engine import idrange, runtimes
from berth.engine.containers import capability, cgroup_parent, isolation, logdriver, seccomp, spec
from berth.engine.containers.binds import check_sources, unmappable_binds
from berth.engine.containers.confinement import security_of
from berth.engine.containers.defaults import complete_host_config
from berth.engine.containers.isolation import Isolation
from berth.engine.containers.launcherror import CommandFailed, StartFailed, start_error
from berth.engine.containers.lifecycle import HAS_TASK, Status
from berth.engine.containers.linking import link_variables
from berth.engine.containers.parts import Parts
from berth.engine.containers.record import Container, ContainerRecord, MountRecord
from berth.engine.containers.signals import parse_signal
from berth.errors import BerthError, Conflict, DataLoss, InvalidArgument, NotModified, Unavailable
from berth.model import oci
from berth.model.endpoint import EndpointPlan, NetworkPlan
from berth.model.identifier import short_id
from berth.model.rootfs import Overlay
from berth.runtime import apparmor
from berth.storage.space import translate
from berth.wire.container import ContainerConfig, HostConfig

log = logging.getLogger("berth.containers")
ETC_FILES = (("hosts", "/etc/hosts"), ("hostname", "/etc/hostname"), ("resolv.conf", "/etc/resolv.conf"))


def check_startable(container: Container) -> None:
    """In Docker's words, why it cannot be started now."""
    status = container.status
    if status is Status.PAUSED:
        raise Conflict("cannot start a paused container, try unpause instead")
    if status is Status.RUNNING:
        raise NotModified(f"container {short_id(container.id)} is already started")
    if status in (Status.REMOVING, Status.DEAD) or container.deleting:
        raise Conflict("container is marked for removal and cannot be started")


class Launching:
    """Launches containers. The caller holds the container's lock."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def launch(self, container: Container) -> Task:
        """Start it and record that it runs. On failure the state has the error and the exit code that Docker gives."""
        self._parts.trace.request(container.id)
        streams = container.take_pending()
        handed = [False]
        try:
            async with AsyncExitStack() as undo:
                task = await self._launch(container, streams, undo, handed)
                undo.pop_all()
        except BerthError as error:
            if not handed[0]:
                _close(streams)
            container.state.error = error.message
            container.state.exit_code = error.code if isinstance(error, CommandFailed | StartFailed) else 128
            container.state.id_map = []
            self._parts.catalog.note(container)
            raise
        failpoint.hit("container.start.after-launch")
        container.task = task
        state = container.state
        if state.status is not Status.RUNNING:
            container.move(Status.RUNNING)
        state.started_at, state.pid, state.exit_code = task.started_at, task.pid, 0
        state.error, state.oom_killed, state.cause = "", False, None
        self._parts.catalog.note(container)
        self._parts.trace.launched(container.id)
        failpoint.hit("container.start.after-row")
        return task

    def prime(self, container: Container) -> None:
        """Of a container that was created: have its slot begin. What depends on the host's files, on other containers or on
        more than one network waits for the start."""
        record = container.record
        base = self._parts.runtime.slot_base(container.id)
        alone = len(record.endpoints) == 1 and not {"host", "none"} & record.endpoints.keys()
        if not base or not alone or container.status is not Status.CREATED or any(m.type != "tmpfs" for m in record.mounts):
            return
        separation = isolation.decide(record.host_config)
        id_map = self._own_map(record, base, [])
        if len(id_map) > 1:
            return
        try:
            files = self._write_files(record, Attachment(plan=None), separation, None)
            request = self._request(
                record, id_map, separation, None, self._mounts(record, {}), Attachment(plan=None), files, self._rootfs(record)
            )
            if self._parts.runtime.prime_slot(request):
                container.primed = (record.host_config, request)
        except (BerthError, OSError) as error:
            # The start will tell whom it concerns.
            log.debug("container %s was not primed: %s", short_id(container.id), error)

    def typical_request(self) -> LaunchRequest:
        """What `docker run` without options becomes."""
        host = complete_host_config(HostConfig())
        record = ContainerRecord(
            id="0" * 64, name="", created=0.0, image_id="", image_name="", config=ContainerConfig(cmd=["true"]), host_config=host
        )
        endpoint = EndpointPlan(kind="veth", parent="", host_name="", name="eth0", mac="", addresses=(), routes=())
        attachment = Attachment(plan=NetworkPlan(endpoints=(endpoint,)))
        id_map, rootfs = idrange.mapping(idrange.FIRST), Overlay(store=self._parts.config.root, layers=())
        return self._request(record, id_map, isolation.decide(host), None, [], attachment, (), rootfs)

    async def _launch(self, container: Container, streams: list[AttachStream], undo: AsyncExitStack, handed: list[bool]) -> Task:
        parts, record = self._parts, container.record
        separation = isolation.decide(record.host_config, unmappable_binds(record.mounts, parts.volumes))
        if parts.config.userns_fallback == "refuse":
            isolation.refuse_fallback(separation)
        partner = self._partner(container, separation)
        owners = check_sources(record.mounts)
        held = await self._hold_volumes(record, undo, handed)
        mounts = self._mounts(record, held)
        failpoint.hit("container.start.before-network")
        undo.push_async_callback(parts.networks.release, container.id)
        facts = structs.replace(container.facts(), link=parts.runtime.slot_link(container.id))
        attachment = await parts.networks.attach(facts)
        trace.mark("attached", container.id)
        reserved = list(attachment.reserved)
        undo.callback(lambda: None if handed[0] else _close_all(reserved))
        container.state.linked = self._linked(record, attachment)
        container.state.id_map = self._id_map(container, separation, partner, owners, undo)
        failpoint.hit("container.start.after-ids")
        files = self._write_files(record, attachment, separation, partner)
        failpoint.hit("container.start.after-files")
        request = self._primed(container, attachment)
        if request is None:
            id_map, rootfs = container.state.id_map, self._rootfs(record)
            request = self._request(record, id_map, separation, partner, mounts, attachment, files, rootfs)
            connections = [volume.connection for volume in held.values()]
            request = structs.replace(request, reserved=(*attachment.reserved, *connections))
        trace.mark("request-made", container.id)
        # The id map is on record before anything uses it: an engine killed right after the launch finds it there.
        parts.catalog.save(container)
        failpoint.hit("container.start.after-id-map")
        trace.mark("saved", container.id)
        await profile_loaded(request)
        handed[0] = True
        try:
            with parts.snapshots.mounting(record.id, record.storage_size):
                return await parts.runtime.launch(request, streams)
        except LaunchFailed as failure:
            raise start_error(failure, record.path) from failure

    def _primed(self, container: Container, attachment: Attachment) -> LaunchRequest | None:
        """The request of `prime`, unless the settings have been changed since, or the slot has gone."""
        primed, container.primed = container.primed, None
        if primed is None or primed[0] is not container.record.host_config:
            return None
        request = primed[1]
        if request.spec.linux.uid_mappings != container.state.id_map:
            return None
        return structs.replace(request, network=attachment.plan, reserved=attachment.reserved)

    def _partner(self, container: Container, separation: Isolation) -> Container | None:
        if not separation.joins:
            return None
        for kind, name in separation.joins.items():
            other = self._parts.catalog.get(name)
            if other.status not in HAS_TASK:
                raise Conflict(_cannot_join(kind, other))
            if kind == "ipc" and (other.record.host_config.ipc_mode or "private") not in ("shareable", "host"):
                raise Conflict(
                    f"can't join IPC of container {other.id}: non-shareable IPC "
                    "(hint: use IpcMode:shareable for the donor container)"
                )
        return other

    async def _hold_volumes(self, record: ContainerRecord, undo: AsyncExitStack, handed: list[bool]) -> dict[str, Held]:
        """The volumes in memory, by name. The container's shim says from the launch on that they are used."""
        held: dict[str, Held] = {}
        undo.callback(lambda: None if handed[0] else _close_all([volume.connection for volume in held.values()]))
        for name in dict.fromkeys(mount.name for mount in record.mounts if mount.type == "volume"):
            volume = await self._parts.volumes.hold(self._parts.volumes.get(name))
            if volume is not None:
                held[name] = volume
        return held

    def _mounts(self, record: ContainerRecord, held: dict[str, Held]) -> list[oci.Mount]:
        mounts = []
        for wanted in record.mounts:
            if wanted.type == "bind":
                mounts.append(spec.bind_mount(wanted))
            elif wanted.type == "tmpfs":
                mounts.append(spec.tmpfs_mount(wanted))
            elif wanted.type == "image":
                mounts.append(spec.image_mount(wanted, self._parts.snapshots.view(self._mounted_image(wanted).chain_id)))
            else:
                volume = self._parts.volumes.get(wanted.name)
                mounts.append(
                    self._parts.volumes.mount(
                        volume,
                        wanted.destination,
                        read_only=wanted.read_only,
                        subpath=wanted.subpath,
                        held=held.get(wanted.name),
                    )
                )
        return mounts

    def _mounted_image(self, wanted: MountRecord) -> Image:
        image = self._parts.images.find(wanted.source)
        if image is None:
            raise InvalidArgument(
                f"the image {wanted.name} ({wanted.source}) that is mounted at {wanted.destination} has been removed: "
                "make the container anew"
            )
        return image

    def _id_map(
        self,
        container: Container,
        separation: Isolation,
        partner: Container | None,
        owners: list[int],
        undo: AsyncExitStack,
    ) -> list[oci.IdMapping]:
        if separation.host_user:
            return []
        if partner is not None:
            if partner.uid_base:
                self._parts.ranges.adopt(partner.uid_base)
                undo.callback(self._parts.ranges.give_back, partner.uid_base)
            return list(partner.state.id_map)
        base = self._parts.runtime.slot_range(container.id) or self._parts.ranges.take()
        undo.callback(self._parts.ranges.give_back, base)
        undo.push_async_callback(self._parts.runtime.drop_slot, container.id)
        if container.primed is not None:
            known = container.primed[1].spec.linux.uid_mappings
            if known[0].host_id == base:
                return list(known)
        return self._own_map(container.record, base, owners)

    def _own_map(self, record: ContainerRecord, base: int, owners: list[int]) -> list[oci.IdMapping]:
        named = [record.image_id, *(mount.source for mount in record.mounts if mount.type == "image")]
        images = [image for image in map(self._parts.images.find, named) if image is not None]
        layer_ids = [number for image in images if image.chain_id for number in self._parts.layers.large_ids(image.chain_id)]
        user_ids = spec.large_user_ids(record.config.user or "", record.host_config.group_add or [])
        # The user's own ids come first in what counts: the map has room for 339 of them.
        return idrange.mapping(base, [*user_ids, *owners, *layer_ids])

    def _rootfs(self, record: ContainerRecord) -> Overlay:
        self._parts.snapshots.check(record.id, record.storage_size)
        return self._parts.snapshots.mounts(record.id)

    def _write_files(
        self, record: ContainerRecord, attachment: Attachment, separation: Isolation, partner: Container | None
    ) -> tuple[tuple[str, str], ...]:
        """The container's /etc/hosts, hostname and resolv.conf; those of the container whose network is joined."""
        taken = {m.destination for m in record.mounts}
        owner = partner.id if partner is not None and "network" in separation.joins else record.id
        directory = self._parts.directory(owner)
        if owner == record.id:
            contents = {"hosts": attachment.hosts, "resolv.conf": attachment.resolv_conf}
            contents["hostname"] = (record.config.hostname or "") + "\n"
            if not attachment.hosts and "network" in separation.host:
                contents["hosts"] = _read_host("/etc/hosts")
            if not attachment.resolv_conf and "network" in separation.host:
                contents["resolv.conf"] = _read_host("/etc/resolv.conf")
            for name, text in contents.items():
                path = f"{directory}/{name}"
                if os.path.isdir(path):
                    raise DataLoss(f"{path} is damaged: it is a directory, and should be the container's {name}: remove it")
                write_in_place(path, text)
        return tuple((f"{directory}/{name}", target) for name, target in ETC_FILES if target not in taken)

    def _request(
        self,
        record: ContainerRecord,
        id_map: list[oci.IdMapping],
        separation: Isolation,
        partner: Container | None,
        mounts: list[oci.Mount],
        attachment: Attachment,
        files: tuple[tuple[str, str], ...],
        rootfs: Overlay,
    ) -> LaunchRequest:
        config, host = record.config, record.host_config
        options = security_of(record)
        held = capability.effective(
            host.cap_add or [], host.cap_drop or [], privileged=bool(host.privileged), host_user=not id_map
        )
        around = spec.Surroundings(
            hostname=config.hostname or "",
            cgroups_path=cgroup_parent.place(
                host.cgroup_parent or "", self._parts.config.cgroup, record.id, self._parts.abilities
            ),
            id_map=id_map,
            mounts=mounts,
            seccomp=seccomp.filter_for(options, held),
            partner_pid=partner.task.pid if partner is not None and partner.task is not None else 0,
            new_network="network" not in separation.host and "network" not in separation.joins,
            linked=record.state.linked,
            default_ulimits=self._parts.config.default_ulimits,
        )
        compiled = spec.compile_spec(config, host, separation, options, around)
        size = host.console_size if config.tty and host.console_size and len(host.console_size) == 2 else [0, 0]
        return LaunchRequest(
            id=record.id,
            spec=compiled,
            rootfs=rootfs,
            directory=self._parts.directory(record.id),
            user=config.user or "",
            groups=tuple(host.group_add or ()),
            network=attachment.plan,
            io=IOPlan(
                terminal=bool(config.tty),
                open_stdin=bool(config.open_stdin),
                stdin_once=bool(config.stdin_once),
                height=size[0],
                width=size[1],
                log=logdriver.log_plan(config, host.log_config, self._parts.log_path(record.id), self._parts.config),
            ),
            reserved=attachment.reserved,
            init=bool(host.init),
            bind_files=files,
            stop_signal=parse_signal(config.stop_signal or "TERM"),
            runtime=runtimes.binary(self._parts.config, host.runtime or ""),
        )

    def _linked(self, record: ContainerRecord, attachment: Attachment) -> list[str]:
        """What the environment tells of the containers that this one is linked to."""
        found: list[str] = []
        for alias, identifier, address in attachment.links:
            found += link_variables(record.name, alias, address, self._parts.catalog.get(identifier).record.config)
        return found


def _cannot_join(kind: str, other: Container) -> str:
    """In Docker's words."""
    if kind == "network":
        return f"cannot join network namespace of a non running container: container {other.name} is {other.status}"
    told = f"container {other.id} is not running"
    return f"can't join IPC of container {other.id}: {told}" if kind == "ipc" else told


async def profile_loaded(request: LaunchRequest) -> None:
    """AppArmor's default profile is there when a launch needs it. StartFailed says why it is not."""
    profile = request.spec.process.apparmor_profile
    if profile != apparmor.DEFAULT_PROFILE or apparmor.is_loaded():
        return
    try:
        await asyncio.to_thread(apparmor.ensure, profile)
    except Unavailable as error:
        raise StartFailed(error.message, 128) from error


def write_in_place(path: str, text: str) -> None:
    """Rewrite a file that may be bind-mounted: the mount pins the inode, so it is never replaced."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        data = text.encode()
        try:
            os.pwrite(fd, data, 0)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            # To change a part of a block takes reading it. All is written anyway, so the block may be another one.
            os.ftruncate(fd, 0)
            os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))
        os.fchmod(fd, 0o644)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StartFailed(f"no space left on device while writing {path}: free some space on the data root", 128) from error
        raise StartFailed(translate(error, f"writing {path}").message, 128) from error
    finally:
        os.close(fd)


def _read_host(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _close(streams: list[AttachStream]) -> None:
    for stream in streams:
        os.close(stream.fd)
