"""StepService: one command on a snapshot without a container record, isolated as a default container is."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import AsyncExitStack

from berth import failpoint
from berth.contract.network import Attachment, ContainerFacts
from berth.contract.runtime import AttachStream, Exit, IOPlan, LaunchRequest, LogPlan, Task
from berth.contract.step import Output, Step
from berth.engine import idrange
from berth.engine.containers import capability, isolation, seccomp, spec
from berth.engine.containers.defaults import complete_host_config
from berth.engine.containers.security import parse_security_options
from berth.engine.containers.service import ContainerService
from berth.engine.containers.starting import ETC_FILES, profile_loaded, write_in_place
from berth.errors import BerthError, InvalidArgument
from berth.kernel.fs import remove_tree
from berth.model import oci
from berth.model.identifier import new_id, short_id
from berth.wire.container import ContainerConfig, HostConfig
from berth.wire.network import EndpointSettings

_CHUNK = 65536
_DRAIN_SECONDS = 5.0


class StepService:
    """Runs steps of builds."""

    def __init__(self, containers: ContainerService) -> None:
        self._parts = containers.parts

    async def run(self, step: Step, output: Output) -> Exit:
        """To its end. Cancelling kills it; nothing is left of it then."""
        identifier = new_id()
        host = complete_host_config(step.host_config)
        config = ContainerConfig(
            hostname=step.hostname or short_id(identifier),
            user=step.user,
            env=list(step.env),
            cmd=list(step.args),
            working_dir=step.cwd,
        )
        async with AsyncExitStack() as stack:
            directory = f"{self._parts.config.root}/build/step-{short_id(identifier)}"
            os.makedirs(directory, mode=0o700)
            stack.callback(remove_tree, directory)
            failpoint.hit("build.step.after-directory")
            attachment = await self._attach(identifier, config, host, stack)
            id_map = self._id_map(step, host, stack)
            request = self._request(identifier, step, config, host, attachment, id_map, directory)
            return await self._run(request, output)

    async def _attach(self, identifier: str, config: ContainerConfig, host: HostConfig, stack: AsyncExitStack) -> Attachment:
        mode = host.network_mode or "bridge"
        if mode.startswith("container:"):
            raise InvalidArgument("a build step cannot join the network of a container: use bridge, host or none")
        facts = ContainerFacts(
            id=identifier,
            name=f"build-{short_id(identifier)}",
            config=config,
            host_config=host,
            endpoints={mode: EndpointSettings()},
        )
        networks = self._parts.networks
        facts.endpoints = networks.check(facts)
        stack.callback(networks.forget, identifier)
        stack.push_async_callback(networks.release, identifier)
        return await networks.attach(facts)

    def _id_map(self, step: Step, host: HostConfig, stack: AsyncExitStack) -> list[oci.IdMapping]:
        if isolation.decide(host).host_user:
            return []
        base = self._parts.ranges.take()
        stack.callback(self._parts.ranges.give_back, base)
        image = self._parts.images.find(step.image_id) if step.image_id else None
        layer_ids = self._parts.layers.large_ids(image.chain_id) if image is not None and image.chain_id else ()
        return idrange.mapping(base, [*spec.large_user_ids(step.user, []), *layer_ids])

    def _request(
        self,
        identifier: str,
        step: Step,
        config: ContainerConfig,
        host: HostConfig,
        attachment: Attachment,
        id_map: list[oci.IdMapping],
        directory: str,
    ) -> LaunchRequest:
        separation = isolation.decide(host)
        options = parse_security_options(host.security_opt or [], privileged=bool(host.privileged))
        held = capability.effective(
            host.cap_add or [], host.cap_drop or [], privileged=bool(host.privileged), host_user=not id_map
        )
        contents = {"hosts": attachment.hosts, "hostname": f"{config.hostname}\n", "resolv.conf": attachment.resolv_conf}
        for name, text in contents.items():
            write_in_place(f"{directory}/{name}", text)
        around = spec.Surroundings(
            hostname=config.hostname or "",
            cgroups_path=f"/{self._parts.config.cgroup}/{identifier}",
            id_map=id_map,
            mounts=list(step.mounts),
            seccomp=seccomp.filter_for(options, held),
            new_network="network" not in separation.host,
            default_ulimits=self._parts.config.default_ulimits,
        )
        return LaunchRequest(
            id=identifier,
            spec=spec.compile_spec(config, host, separation, options, around),
            rootfs=self._parts.snapshots.mounts(step.snapshot),
            directory=directory,
            user=step.user,
            network=attachment.plan,
            io=IOPlan(log=LogPlan(driver="none")),
            reserved=attachment.reserved,
            init=True,
            bind_files=tuple((f"{directory}/{name}", target) for name, target in ETC_FILES),
        )

    async def _run(self, request: LaunchRequest, output: Output) -> Exit:
        pairs = [socket.socketpair() for _ in range(2)]
        ours = [pair[0] for pair in pairs]
        streams = [
            AttachStream(fd=pairs[0][1].detach(), stdout=True),
            AttachStream(fd=pairs[1][1].detach(), stderr=True),
        ]
        try:
            await profile_loaded(request)
            task = await self._parts.runtime.launch(request, streams)
            failpoint.hit("build.step.after-launch")
            try:
                return await self._follow(task, ours, output)
            finally:
                await asyncio.shield(_end(task))
        finally:
            for sock in ours:
                sock.close()

    async def _follow(self, task: Task, ours: list[socket.socket], output: Output) -> Exit:
        readers = [asyncio.create_task(_copy(sock, number, output)) for number, sock in enumerate(ours, 1)]
        try:
            ended = await task.wait()
            # The shim closes the streams when all output is sent; the bound is for a shim that was killed.
            await asyncio.wait(readers, timeout=_DRAIN_SECONDS)
            for reader in readers:
                if reader.done():
                    reader.result()
            return ended
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)


async def _copy(sock: socket.socket, number: int, output: Output) -> None:
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(sock, _CHUNK):
        await output(number, data)


async def _end(task: Task) -> None:
    """Kill it if it still runs (the build was cancelled), then take everything away."""
    try:
        await task.kill(9)
        await task.wait()
    except BerthError:
        pass
    await task.delete()
