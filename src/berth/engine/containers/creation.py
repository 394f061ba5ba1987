"""POST /containers/create: from a request to a recorded container.

Everything that can be refused is refused before anything is made; what was made by a create that fails later is undone.
With --rm the record is not flushed to disk before the answer: a container that a power cut takes away is no loss then.
"""

from __future__ import annotations

import logging
import os
import posixpath
import time
from collections.abc import Callable

import msgspec
from msgspec import field

from berth import failpoint
from berth.contract.image import Image
from berth.contract.volume import Volume
from berth.engine import runtimes, storage_options
from berth.engine.containers import cgroup_parent, confinement, isolation, logdriver, mounting, resource_check, spec
from berth.engine.containers.binds import unmappable_binds
from berth.engine.containers.defaults import complete_host_config, merge_image
from berth.engine.containers.isolation import Isolation
from berth.engine.containers.parts import Parts
from berth.engine.containers.record import Container, ContainerRecord, MountRecord
from berth.engine.containers.security import check_sysctls, parse_security_options
from berth.engine.containers.validation import check_config, check_host_config, check_joined
from berth.errors import BerthError, InvalidArgument, NotFound
from berth.model import extension
from berth.model.digest import Digest
from berth.model.exposure import Exposure, of_address
from berth.model.identifier import new_id, short_id
from berth.network.host import is_address
from berth.network.names import parse_links
from berth.wire.container import ContainerConfig, ContainerCreateResponse, HostConfig
from berth.wire.network import EndpointSettings, NetworkingConfig

log = logging.getLogger("berth.containers")

_KNOWN_DIRECTORIES = 1024


class CreateBody(ContainerConfig, kw_only=True, omit_defaults=True):
    """The body of the request. `mac_address` is where clients before API 1.44 put it, `runtime` where docker-py's
    create_container still does."""

    runtime: str | None = field(name="Runtime", default=None)
    mac_address: str | None = field(name="MacAddress", default=None)
    host_config: HostConfig | None = field(name="HostConfig", default=None)
    networking_config: NetworkingConfig | None = field(name="NetworkingConfig", default=None)


class Creation:
    """Makes containers. `prime` is called with one that may be started at once, as soon as its root filesystem is there."""

    def __init__(self, parts: Parts, prime: Callable[[Container], None]) -> None:
        self._parts = parts
        self._prime = prime
        # Working directories that images are known to have.
        self._there: set[tuple[Digest | None, str]] = set()

    async def create(self, name: str, body: CreateBody, platform: str = "") -> ContainerCreateResponse:
        """Docker's answer: the id, and warnings."""
        if not body.image:
            raise InvalidArgument("Config cannot be empty in order to create a container")
        image = self._parts.images.get_for(body.image, platform)
        base = image.document.config
        extensions = extension.asked(body.labels or {}, (base.labels if base else None) or {})
        config, host, warnings = self._complete(body, image)
        size = self._storage_size(host)
        mounts = mounting.wanted_mounts(config, host, self._mounts_of)
        mounting.resolve_images(mounts, self._parts.images)
        separation = self._isolation(host, mounts)
        self._check_links(host)
        if "network" in separation.host and host.port_bindings:
            warnings.append("Published ports are discarded when using host network mode")
        warnings += isolation.warnings(separation)
        if self._parts.config.warn_exposure:
            warnings += exposure_warnings(host, self._parts.config.publish_address)
        # With a slot's id the container can be started from there.
        fits = not (separation.host_user or separation.host or separation.joins)
        fits = fits and not runtimes.binary(self._parts.config, host.runtime or "")
        identifier = (self._parts.runtime.claim_slot() if fits else "") or new_id()
        try:
            config.hostname = config.hostname or self._hostname(separation, identifier)
            record = ContainerRecord(
                id=identifier,
                name=self._parts.catalog.claim_name(name, identifier),
                created=time.time(),
                image_id=image.id,
                image_name=body.image,
                config=config,
                host_config=host,
                endpoints=_endpoints(body, host),
                mounts=mounts,
                no_new_privileges=self._parts.config.no_new_privileges,
                extensions=extensions,
                storage_size=size,
            )
            record.path, *record.args = spec.command(config)
            await self._record(record, image)
        except BaseException:
            await self._parts.runtime.drop_slot(identifier)
            raise
        return ContainerCreateResponse(id=identifier, warnings=warnings)

    def _complete(self, body: CreateBody, image: Image) -> tuple[ContainerConfig, HostConfig, list[str]]:
        asked = ContainerConfig(**{f: getattr(body, f) for f in ContainerConfig.__struct_fields__})
        endpoints = (body.networking_config.endpoints_config if body.networking_config else None) or {}
        has_mac = bool(body.mac_address or any(endpoint and endpoint.mac_address for endpoint in endpoints.values()))
        check_joined(asked, body.host_config, has_mac=has_mac)
        config = merge_image(asked, image.document.config)
        host = complete_host_config(body.host_config or HostConfig(), self._parts.config.default_runtime)
        host.log_config = logdriver.with_defaults(host.log_config, self._parts.config)
        check_config(config)
        check_host_config(host, config)
        host, warnings = resource_check.check(host, self._parts.abilities, len(os.sched_getaffinity(0)))
        host = resource_check.with_default_swap(host)
        cgroup_parent.check(host.cgroup_parent or "", self._parts.abilities)
        options = parse_security_options(host.security_opt or [], privileged=bool(host.privileged))
        warnings += confinement.check_labels(options)
        return config, host, warnings

    def _storage_size(self, host: HostConfig) -> int:
        size = storage_options.container_size(host.storage_opt, self._parts.config.storage_size)
        if size:
            self._parts.snapshots.check_sizes("--storage-opt size: the size of the container cannot be limited")
        return size

    def _isolation(self, host: HostConfig, mounts: list[MountRecord]) -> Isolation:
        separation = isolation.decide(host, unmappable_binds(mounts, self._parts.volumes))
        if self._parts.config.userns_fallback == "refuse":
            isolation.refuse_fallback(separation)
        isolation.check_partner(separation, {n: self._other(n).id for n in separation.joins.values()})
        check_sysctls(host.sysctls or {}, separation.host)
        return separation

    def _hostname(self, separation: Isolation, identifier: str) -> str:
        if "network" in separation.joins:
            return self._parts.catalog.get(separation.joins["network"]).record.config.hostname or ""
        if separation.host & {"network", "uts"}:
            return os.uname().nodename
        return short_id(identifier)

    def _check_links(self, host: HostConfig) -> None:
        """Links of the default bridge are to containers that exist; what other networks call others is answered by DNS."""
        if host.network_mode not in (None, "", "default", "bridge"):
            return
        for target, _ in parse_links(host.links):
            if self._parts.catalog.find(target) is None:
                raise InvalidArgument(f"could not get container for {target}: No such container: {target}")

    def _mounts_of(self, reference: str) -> list[MountRecord]:
        return self._other(reference).record.mounts

    def _other(self, reference: str) -> Container:
        """A container that the request names. NotFound would tell the docker CLI that the image is missing, so it is not that."""
        container = self._parts.catalog.find(reference)
        if container is None:
            raise InvalidArgument(f"No such container: {reference}")
        return container

    async def _record(self, record: ContainerRecord, image: Image) -> None:
        parts, container = self._parts, Container(record)
        anonymous: list[str] = []
        try:
            record.endpoints = self._check_networks(container)
            failpoint.hit("container.create.before-volumes")
            anonymous = mounting.make_volumes(record.id, record.mounts, record.host_config, parts.volumes)
            failpoint.hit("container.create.after-volumes")
            await parts.snapshots.prepare(record.id, image.chain_id, record.storage_size)
            failpoint.hit("container.create.after-snapshot")
            os.makedirs(parts.directory(record.id), mode=0o700, exist_ok=True)
            await self._copy_up(record.mounts, image)
            failpoint.hit("container.create.after-copy-up")
            await self._make_working_directory(container, image)
            parts.catalog.add(container)
            failpoint.hit("container.create.after-row")
            # A row whose directory a power cut takes away would be a damaged container.
            directory = parts.directory(record.id)
            flushed = None if container.auto_remove else parts.catalog.flush(f"{directory}/upper", directory)
            # Beside the flush, the answer and the way of the next request.
            self._prime(container)
            if flushed is not None:
                await flushed
        except BaseException:
            self._withdraw(container)
            await self._undo(record.id, anonymous)
            raise
        failpoint.hit("container.create.after-flush")
        parts.emit(container, "create")

    def _check_networks(self, container: Container) -> dict[str, EndpointSettings]:
        """A network that does not exist is the start's error, as with Docker: it may be made until then."""
        try:
            return self._parts.networks.check(container.facts())
        except NotFound:
            return container.record.endpoints

    def _withdraw(self, container: Container) -> None:
        """Its row, if it is there already, and its name."""
        if self._parts.catalog.find(container.id) is None:
            self._parts.catalog.release_name(container.name)
            return
        try:
            with self._parts.catalog.removing(container):
                pass
        except BerthError as error:
            log.warning("the container %s, which was not made, cannot be forgotten: %s", short_id(container.id), error)

    async def _undo(self, identifier: str, anonymous: list[str]) -> None:
        self._parts.networks.forget(identifier)
        try:
            await self._parts.snapshots.remove(identifier)
            for name in anonymous:
                await self._parts.volumes.remove(name, force=True)
        except BerthError as error:
            log.warning("could not clean up after the failed create of %s: %s", short_id(identifier), error)

    async def _copy_up(self, mounts: list[MountRecord], image: Image) -> None:
        """Fill new volumes with what the image has at their destination."""
        volumes = self._parts.volumes
        wanted: list[tuple[MountRecord, Volume]] = []
        for record in mounts:
            if record.type == "volume" and "nocopy" not in record.options and not record.subpath:
                volume = volumes.get(record.name)
                if volumes.is_empty(volume):
                    wanted.append((record, volume))
        if not wanted or image.chain_id is None:
            return
        async with self._parts.trees.of_overlay(self._parts.snapshots.view(image.chain_id)) as tree:
            for record, volume in wanted:
                await tree.copy_out(record.destination, volume.mountpoint)

    async def _make_working_directory(self, container: Container, image: Image) -> None:
        """As Docker does when a container is created: clients copy files there before they start it, and where the root
        filesystem is read-only it could not be made later. What is mounted there is made by the launch."""
        path = posixpath.normpath(container.record.config.working_dir or "/")
        known = (image.chain_id, path)
        if path == "/" or known in self._there or any(mount.covers(path) for mount in container.record.mounts):
            return
        async with self._parts.trees.of_overlay(self._parts.overlay(container)) as tree:
            try:
                await tree.stat(f"{path}/")
            except NotFound:
                await tree.make_directories(path)
                return
            except InvalidArgument:
                raise InvalidArgument(f"Cannot mkdir: {path} is not a directory") from None
        if len(self._there) >= _KNOWN_DIRECTORIES:
            self._there.clear()
        self._there.add(known)


def exposure_warnings(host: HostConfig, default: str) -> list[str]:
    """What is published for others than this host. Docker's clients print warnings: the engine gives these when told to. What
    is no address is refused by the networks."""
    found = []
    for port, bindings in (host.port_bindings or {}).items():
        for binding in bindings or []:
            address = binding.host_ip or default
            if is_address(address or "0.0.0.0") and of_address(address) is not Exposure.LOCAL:
                where = address if address not in ("", "0.0.0.0", "::") else "all addresses of this host"
                found.append(
                    f"port {port} is open on {where}, whatever the host's firewall shows: "
                    "give it the address 127.0.0.1 if only this host needs it"
                )
    return found


def _endpoints(body: CreateBody, host: HostConfig) -> dict[str, EndpointSettings]:
    asked = dict((body.networking_config.endpoints_config if body.networking_config else None) or {})
    mode = host.network_mode or "bridge"
    if "default" in asked:
        asked.setdefault("bridge", asked.pop("default"))
    endpoints = {name: settings or EndpointSettings() for name, settings in asked.items()}
    if mode not in endpoints and not mode.startswith("container:") and not body.network_disabled:
        endpoints = {mode: EndpointSettings(), **endpoints}
    if body.mac_address and mode in endpoints and not endpoints[mode].mac_address:
        endpoints[mode] = msgspec.structs.replace(endpoints[mode], mac_address=body.mac_address)
    return endpoints
