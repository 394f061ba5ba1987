from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from berth.contract.runtime import AttachStream, LaunchFailed
from berth.engine.containers.creation import CreateBody
from berth.engine.containers.execution import ExecBody, exec_request
from berth.engine.containers.lifecycle import Status
from berth.engine.containers.record import Container
from berth.engine.exec import ExecService
from berth.errors import BerthError, Conflict, Forbidden, InvalidArgument, NotFound, NotModified, ResourceExhausted
from berth.model.filters import Filters
from berth.wire.container import ContainerConfig, HostConfig, RestartPolicy
from berth.wire.health import HealthConfig
from berth.wire.mount import Mount, MountBindOptions
from berth.wire.network import PortBinding
from support.container_twins import IMAGE_ID, TwinExec, TwinTask, World


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 20))


def body(*command: str, **host: Any) -> CreateBody:
    return CreateBody(image="busybox", cmd=list(command) or ["sleep"], host_config=HostConfig(**host))


async def settled(condition: Any) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not come to that")


async def started(world: World, name: str = "web", **host: Any) -> TwinTask:
    await world.service.create(name, body(**host))
    await world.service.start(name)
    return world.runtime.launched[-1]


def test_create_records_a_container(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        answer = await world.service.create("web", body("echo", "hi"))
        found = await world.service.inspect("web")
        assert found["Id"] == answer.id and found["Name"] == "/web" and answer.warnings == []
        assert (found["Path"], found["Args"]) == ("echo", ["hi"])
        assert found["State"]["Status"] == "created" and found["State"]["StartedAt"] == "0001-01-01T00:00:00Z"
        assert found["HostConfig"]["NetworkMode"] == "bridge" and found["HostConfig"]["Memory"] == 0
        assert found["Config"]["Hostname"] == (answer.id or "")[:12]
        assert world.actions() == ["create"]

    run(case())


def test_create_of_a_taken_name_leaves_nothing(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        first = await world.service.create("web", body())
        with pytest.raises(Conflict) as caught:
            await world.service.create("/web", body())
        assert caught.value.message == (
            f'Conflict. The container name "/web" is already in use by container "{first.id}". '
            "You have to remove (or rename) that container to be able to reuse that name."
        )
        assert world.snapshots.keys == {first.id}

    run(case())


def test_two_creates_of_one_name_at_once(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        results = await asyncio.gather(*(world.service.create("web", body()) for _ in range(3)), return_exceptions=True)
        assert sum(isinstance(r, Conflict) for r in results) == 2

    run(case())


def test_a_create_that_fails_late_is_undone(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path, ContainerConfig(cmd=["sh"], volumes={"/data": {}}))
        world.networks.refuse = InvalidArgument("invalid address")
        with pytest.raises(InvalidArgument):
            await world.service.create("web", body())
        world.networks.refuse = None
        assert not world.snapshots.keys and not world.volumes.volumes
        await world.service.create("web", body())

    run(case())


def test_sizes_of_writable_layers(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path, storage_size=5 << 20)
        for name, options in (("own", {"SIZE": "10m"}), ("default", None), ("any", {"size": "0"})):
            await world.service.create(name, body(storage_opt=options))
        records = [world.service.get(name).record for name in ("own", "default", "any")]
        assert [world.snapshots.sizes[record.id] for record in records] == [10 << 20, 5 << 20, 0]
        reopened = world.reopen()
        await reopened.restore()
        assert [reopened.get(record.id).record.storage_size for record in records] == [10 << 20, 5 << 20, 0]
        assert reopened.get("own").record.host_config.storage_opt == {"SIZE": "10m"}

    run(case())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nonsense": "1"}, "Unknown option nonsense"),
        ({"size": "10m", "inodes": "5"}, "Unknown option inodes"),
        ({"size": "much"}, "invalid size: 'much'"),
        ({"size": "1023k"}, "invalid size: '1023k': a container needs 1m at least"),
        ({"size": "5000p"}, "the most that can be limited is 1024p"),
        ({"size": "10m"}, "--storage-opt size: the size of the container cannot be limited: this disk has no quota"),
    ],
)
def test_sizes_that_are_refused_leave_nothing(options: dict[str, str], words: str, tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path, ContainerConfig(cmd=["sh"], volumes={"/data": {}}))
        world.snapshots.lack = "this disk has no quota"
        with pytest.raises(InvalidArgument, match=words):
            await world.service.create("web", body(storage_opt=options))
        assert not world.snapshots.keys and not world.volumes.volumes
        await world.service.create("web", body(storage_opt={"size": "0"}))

    run(case())


def test_a_missing_network_is_not_a_missing_image(tmp_path: Path) -> None:
    """The docker CLI pulls the image when create answers 404."""

    async def case() -> None:
        world = World(tmp_path)
        world.networks.refuse = NotFound("network x not found")
        await world.service.create("web", body(network_mode="x"))
        assert list(world.service.get("web").record.endpoints) == ["x"]

    run(case())


def test_image_volumes_are_made_and_filled_once(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path, ContainerConfig(cmd=["sh"], volumes={"/data": {}, "/own": {}}))
        world.volumes.create("named")
        world.volumes.full.add("named")
        await world.service.create("web", body(binds=["named:/own"]))
        mounts = world.service.get("web").record.mounts
        anonymous = next(m for m in mounts if m.destination == "/data")
        assert anonymous.anonymous and anonymous.source == f"/volumes/{anonymous.name}/_data"
        assert world.trees.copied == [("/data", anonymous.source)]
        await world.service.remove("web", force=False, volumes=True)
        assert set(world.volumes.volumes) == {"named"}

    run(case())


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (CreateBody(cmd=["x"]), "Config cannot be empty in order to create a container"),
        (CreateBody(image="nosuch"), "No such image: nosuch"),
        (body(memory=1024), "Minimum memory limit allowed is 6MB"),
        (body(auto_remove=True, restart_policy=RestartPolicy(name="always")),
         "can't create 'AutoRemove' container with restart policy"),
        (
            body(binds=["/a:b"]),
            "invalid volume specification: '/a:b': invalid mount config for type \"bind\": "
            "invalid mount path: 'b' mount path must be absolute",
        ),
        (body(binds=["/a:/b", "/c:/b"]), "Duplicate mount point: /b"),
        (body(cap_add=["FOO"]), 'invalid CapAdd: unknown capability: "CAP_FOO"'),
        (body(network_mode="container:x"), "No such container: x"),
        (body(sysctls={"kernel.panic": "1"}), 'sysctl "kernel.panic" is not in a separate kernel namespace'),
        (
            body(mounts=[Mount(type="bind", source="/nosuch", target="/b")]),
            'invalid mount config for type "bind": bind source path does not exist: /nosuch',
        ),
        (CreateBody(image="busybox", working_dir="a"), "the working directory 'a' is invalid, it needs to be an absolute path"),
        (CreateBody(image="busybox", stop_signal="FOO"), "invalid signal: FOO"),
    ],
)  # fmt: skip
def test_refusals_of_create(tmp_path: Path, request_: CreateBody, message: str) -> None:
    async def case() -> None:
        world = World(tmp_path)
        with pytest.raises(BerthError) as caught:
            await world.service.create("web", request_)
        assert caught.value.message == message
        assert not world.snapshots.keys
        await world.service.create("web", body())

    run(case())


def test_running_out_of_memory_is_told_once_and_at_once(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        task = await started(world)
        task.ran_out()
        state = (await world.service.inspect("web"))["State"]
        assert (state["OOMKilled"], state["Running"]) == (True, True)
        waiting = world.service.wait("web", "")
        task.finish(0, oom=True)
        await waiting
        assert world.actions() == ["create", "start", "oom", "die"]
        await world.service.start("web")
        assert (await world.service.inspect("web"))["State"]["OOMKilled"] is False
        task.ran_out()
        assert world.actions()[4:] == ["start"], "an earlier run has nothing to say any more"
        world.runtime.launched[-1].finish(0)

    run(case())


def test_start_run_exit(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        task = await started(world)
        state = (await world.service.inspect("web"))["State"]
        assert state["Running"] and state["Status"] == "running" and state["Pid"] == os.getpid()
        with pytest.raises(NotModified):
            await world.service.start("web")
        waiting = world.service.wait("web", "")
        task.finish(3, oom=True)
        assert (await waiting).code == 3
        state = (await world.service.inspect("web"))["State"]
        assert (state["ExitCode"], state["OOMKilled"], state["Running"], state["Pid"]) == (3, True, False, 0)
        assert world.actions() == ["create", "start", "oom", "die"]
        assert task.deleted and not world.networks.attached
        assert (await world.service.wait("web", "not-running")).code == 3

    run(case())


def test_launch_request(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        request = (await started(world)).request
        assert request.rootfs.upper == f"containers/{request.id}/upper"
        assert [target for _, target in request.bind_files] == ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"]
        assert Path(request.bind_files[1][0]).read_text() == request.id[:12] + "\n"
        base = request.spec.linux.uid_mappings[0]
        assert (base.container_id, base.size) == (0, 65536)
        assert [m.container_id for m in request.spec.linux.uid_mappings[1:]] == [70000]
        assert request.io.log.path == f"{request.directory}/{request.id}-json.log"

    run(case())


def test_id_ranges_of_running_containers_differ_and_come_back(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        one, two = await started(world, "one"), await started(world, "two")
        bases = [t.request.spec.linux.uid_mappings[0].host_id for t in (one, two)]
        assert abs(bases[0] - bases[1]) >= 65536
        one.finish(0)
        await settled(lambda: world.service.get("one").status is Status.EXITED)
        three = await started(world, "three")
        assert three.request.spec.linux.uid_mappings[0].host_id == bases[0]

    run(case())


@pytest.mark.parametrize(
    ("failure", "code", "part"),
    [
        (LaunchFailed("execve", errno.ENOENT, "x", ""), 127, 'exec: "x": executable file not found in $PATH: unknown'),
        (LaunchFailed("execve", errno.EACCES, "/x", ""), 126, 'exec: "/x": permission denied: unknown'),
        (LaunchFailed("user", 0, "", "unable to find user u: no matching entries in passwd file"), 128, "unable to find user u"),
        (LaunchFailed("mount", errno.EIO, "/x", "mount: /x: input/output error"), 128, "input/output error"),
    ],
)
def test_a_launch_that_fails(tmp_path: Path, failure: LaunchFailed, code: int, part: str) -> None:
    async def case() -> None:
        world = World(tmp_path)
        world.runtime.failure = failure
        await world.service.create("web", body())
        with pytest.raises(BerthError) as caught:
            await world.service.start("web")
        assert part in caught.value.message
        state = (await world.service.inspect("web"))["State"]
        assert (state["Status"], state["ExitCode"], state["Error"]) == ("created", code, caught.value.message)
        assert not world.networks.attached
        world.runtime.failure = None
        await world.service.start("web")

    run(case())


def test_a_failed_start_of_a_container_with_rm_removes_it(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        await world.service.create("web", body(auto_remove=True))
        removed = world.service.wait("web", "removed")
        ours, theirs = socket.socketpair()
        await world.service.attach(world.service.check_attach("web"), AttachStream(fd=theirs.detach(), stdout=True))
        world.runtime.failure = LaunchFailed("execve", errno.ENOENT, "x", "")
        with pytest.raises(InvalidArgument):
            await world.service.start("web")
        assert (await removed).code == 127
        assert ours.recv(1) == b""
        ours.close()
        with pytest.raises(NotFound):
            world.service.get("web")
        assert not world.snapshots.keys

    run(case())


def test_attach_before_start_goes_along_with_the_launch(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        await world.service.create("web", body())
        ours, theirs = socket.socketpair()
        await world.service.attach(world.service.check_attach("web"), AttachStream(fd=theirs.detach(), stdout=True, framed=True))
        gone, dead = socket.socketpair()
        await world.service.attach(world.service.check_attach("web"), AttachStream(fd=dead.detach(), stdout=True))
        gone.close()
        third, last = socket.socketpair()
        await world.service.attach(world.service.check_attach("web"), AttachStream(fd=last.detach(), stdout=True))
        await world.service.start("web")
        task = world.runtime.launched[0]
        assert len(task.streams) == 2
        task.finish(0)
        assert ours.recv(1) == b"" and third.recv(1) == b""
        ours.close()
        third.close()

    run(case())


def test_rm_removes_after_the_exit_with_its_volumes(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path, ContainerConfig(cmd=["sh"], volumes={"/data": {}}))
        await world.service.create("web", body(auto_remove=True))
        next_exit, removed = world.service.wait("web", "next-exit"), world.service.wait("web", "removed")
        await world.service.start("web")
        world.runtime.launched[0].finish(4)
        assert (await next_exit).code == 4 and (await removed).code == 4
        assert not world.volumes.volumes and not world.snapshots.keys
        assert world.actions() == ["create", "start", "die", "destroy"]

    run(case())


def test_a_restart_by_hand_keeps_a_container_with_rm(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        await started(world, auto_remove=True)
        await world.service.restart("web", 1)
        assert world.service.get("web").status is Status.RUNNING and len(world.runtime.launched) == 2
        removed = world.service.wait("web", "removed")
        world.runtime.launched[1].finish(0)
        assert (await removed).code == 0

    run(case())


def test_on_failure_restarts_until_the_limit(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path, extensions={"restart-delay": "10ms"})
        await started(world, restart_policy=RestartPolicy(name="on-failure", maximum_retry_count=2))
        for number in range(1, 4):
            await settled(lambda n=number: len(world.runtime.launched) == n)  # type: ignore[misc]
            await settled(lambda: world.service.get("web").status is Status.RUNNING)
            world.runtime.launched[-1].finish(1)
            await settled(lambda: world.service.get("web").status is not Status.RUNNING)
        await settled(lambda: world.service.get("web").status is Status.EXITED)
        assert (await world.service.inspect("web"))["RestartCount"] == 2

    run(case())


def test_stop_keeps_a_restart_policy_from_restarting(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        task = await started(world, restart_policy=RestartPolicy(name="always"))
        await world.service.stop("web", 5)
        assert task.signals == [15]
        assert world.service.get("web").status is Status.EXITED and len(world.runtime.launched) == 1
        with pytest.raises(NotModified):
            await world.service.stop("web", 5)
        assert world.actions() == ["create", "start", "kill", "die", "stop"]

    run(case())


def test_stop_of_one_that_waits_for_its_restart(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        task = await started(world, restart_policy=RestartPolicy(name="always"))
        task.finish(1)
        await settled(lambda: world.service.get("web").status is Status.RESTARTING)
        await world.service.stop("web", 5)
        assert world.service.get("web").status is Status.EXITED
        await asyncio.sleep(0.15)
        assert len(world.runtime.launched) == 1

    run(case())


def test_stop_kills_what_ignores_its_signal(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        await world.service.create("web", CreateBody(image="busybox", stop_signal="SIGINT"))
        await world.service.start("web")
        task = world.runtime.launched[0]
        task.ignores = {2, 15}
        await world.service.stop("web", 0)
        assert task.signals == [2, 9]
        assert (await world.service.inspect("web"))["State"]["ExitCode"] == 137

    run(case())


def test_stop_thaws_a_frozen_container(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        task = await started(world)
        await world.service.pause("web")
        with pytest.raises(Conflict):
            await world.service.pause("web")
        with pytest.raises(Conflict, match="cannot start a paused container, try unpause instead"):
            await world.service.start("web")
        assert (await world.service.inspect("web"))["State"]["Paused"]
        task.ignores = {15}
        await world.service.stop("web", 0)
        assert not task.frozen and task.signals == [15, 9]

    run(case())


def test_kill(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        task = await started(world)
        await world.service.kill("web", "USR1")
        assert task.signals == [10] and world.service.get("web").status is Status.RUNNING
        await world.service.kill("web", "")
        assert world.service.get("web").status is Status.EXITED
        with pytest.raises(Conflict, match="is not running"):
            await world.service.kill("web", "KILL")

    run(case())


def test_removal_of_what_runs(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        await started(world, auto_remove=True)
        with pytest.raises(Conflict) as caught:
            await world.service.remove("web", force=False, volumes=False)
        assert caught.value.message == (
            'cannot remove container "web": container is running: stop the container before removing or force remove'
        )
        removed = world.service.wait("web", "removed")
        await world.service.remove("web", force=True, volumes=False)
        assert (await removed).code == 137
        assert world.actions()[-3:] == ["kill", "die", "destroy"]
        assert world.actions().count("destroy") == 1

    run(case())


def test_lookup_by_prefix(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        identifier = (await world.service.create("web", body())).id or ""
        assert world.service.get(identifier[:4]) is world.service.get("/web")
        with pytest.raises(NotFound, match="No such container: zzz"):
            world.service.get("zzz")
        for number in range(17):
            await world.service.create(f"c{number}", body())
        with pytest.raises(InvalidArgument, match="multiple IDs found with provided prefix"):
            for digit in "0123456789abcdef":
                world.service.parts.catalog.find(digit)

    run(case())


def test_rename_and_update(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        task = await started(world)
        await world.service.create("other", body())
        with pytest.raises(Conflict):
            await world.service.rename("web", "other")
        await world.service.rename("web", "new")
        assert world.service.get("new").name == "new"
        await world.service.create("web", body())
        await world.service.update("new", HostConfig(memory=64 << 20, restart_policy=RestartPolicy(name="always")))
        assert task.updates[0].memory is not None and task.updates[0].memory.limit == 64 << 20
        shown = (await world.service.inspect("new"))["HostConfig"]
        assert shown["Memory"] == 64 << 20 and shown["RestartPolicy"]["Name"] == "always"

    run(case())


def test_an_engine_that_was_killed_takes_over(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        alive, ended = await started(world, "alive"), await started(world, "ended")
        gone = await started(world, "gone", auto_remove=True)
        lost = await started(world, "lost")
        again = await started(world, "again", restart_policy=RestartPolicy(name="unless-stopped"))
        by_hand = await started(world, "byhand", restart_policy=RestartPolicy(name="unless-stopped"))
        await world.service.stop("byhand", 1)
        await world.service.create("never", body(restart_policy=RestartPolicy(name="always")))
        old = world.service
        for container in old.parts.catalog:
            if container.watcher is not None:
                container.watcher.cancel()
        ended.finish(5, at=1_700_000_000.25)
        gone.finish(0)
        again.finish(1)
        del world.runtime.known[lost.id], world.runtime.known[by_hand.id]
        world.runtime.known["f" * 64] = alive
        os.makedirs(f"{world.root}/containers/{'e' * 64}/upper")
        new = world.reopen()
        await new.restore()
        # Of the one that was lost there may be anything, but for a task.
        assert world.runtime.removed == ["f" * 64, lost.id]
        assert not os.path.exists(f"{world.root}/containers/{'e' * 64}")
        assert world.networks.restored == [alive.id]
        assert new.get("alive").status is Status.RUNNING
        state = (await new.inspect("ended"))["State"]
        assert (state["ExitCode"], state["FinishedAt"]) == (5, "2023-11-14T22:13:20.250000000Z")
        assert (await new.inspect("lost"))["State"]["ExitCode"] == 255
        assert new.parts.catalog.find("gone") is None
        assert new.get("byhand").status is Status.EXITED and new.get("never").status is Status.CREATED
        await settled(lambda: new.get("again").status is Status.RUNNING)
        alive.finish(9)
        await settled(lambda: new.get("alive").state.exit_code == 9)
        await old.shutdown(False)
        await new.shutdown(False)

    run(case())


def test_an_engine_that_was_killed_between_launch_and_record(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        task = await started(world)
        old = world.service.get("web")
        assert old.watcher is not None
        old.watcher.cancel()
        before = msgspec.json.encode(old.record).replace(b'"status":"running",', b"")
        assert before != msgspec.json.encode(old.record)
        world.database.execute("UPDATE containers SET document = ?", (before,))
        new = world.reopen()
        await new.restore()
        assert new.get("web").status is Status.RUNNING and new.get("web").state.pid == task.pid
        assert world.networks.restored == [task.id]
        task.finish(6)
        await settled(lambda: new.get("web").state.exit_code == 6)

    run(case())


def test_a_full_disk_does_not_hide_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def case() -> None:
        world = World(tmp_path)
        task = await started(world)

        def full(container: Container, *, durable: bool = False) -> None:
            raise ResourceExhausted("no space left on device")

        monkeypatch.setattr(world.service.parts.catalog, "save", full)
        waiting = world.service.wait("web", "")
        task.finish(5)
        assert (await waiting).code == 5

    run(case())


def test_userns_fallback(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        answer = await world.service.create("web", body(network_mode="host"))
        assert "--network host cannot work in a user namespace" in (answer.warnings or [""])[0]
        await world.service.start("web")
        spec = world.runtime.launched[0].request.spec
        assert {n.type for n in spec.linux.namespaces} == {"mount", "pid", "ipc", "uts", "cgroup"}
        assert not spec.linux.uid_mappings

    run(case())


def test_userns_fallback_refused(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path, userns_fallback="refuse")
        with pytest.raises(Forbidden, match="--privileged would need the host's user namespace"):
            await world.service.create("web", body(privileged=True))
        await world.service.create("web", body(privileged=True, userns_mode="host"))

    run(case())


def test_joining_a_container(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        target = await started(world, "target")
        await world.service.create("other", body())
        with pytest.raises(InvalidArgument, match="two different containers"):
            await world.service.create("both", body(network_mode="container:target", pid_mode="container:other"))
        joined = await started(world, "joined", network_mode="container:target")
        paths = {n.type: n.path for n in joined.request.spec.linux.namespaces}
        assert paths["network"] == f"/proc/{target.pid}/ns/net" and paths["user"] == f"/proc/{target.pid}/ns/user"
        assert joined.request.spec.linux.uid_mappings == target.request.spec.linux.uid_mappings
        assert joined.request.bind_files == target.request.bind_files
        target.finish(0)
        await settled(lambda: world.service.get("target").status is Status.EXITED)
        third = await started(world, "third")
        assert third.request.spec.linux.uid_mappings[0] != joined.request.spec.linux.uid_mappings[0]
        with pytest.raises(Conflict, match="non running container"):
            await started(world, "late", network_mode="container:other")

    run(case())


def test_list_filters(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        task = await started(world, "up")
        await world.service.create("made", CreateBody(image="busybox", labels={"a": "b"}))

        async def names(text: str = "", **kinds: Any) -> list[str]:
            filters = Filters.parse(text, ("status", "name", "label", "ancestor", "since", "health", "exited"))
            found = await world.service.list(
                all=bool(kinds.get("all")), limit=int(kinds.get("limit", 0)), size=False, filters=filters
            )
            return [(c.names or [""])[0] for c in found]

        assert await names() == ["/up"]
        assert await names(all=True) == ["/made", "/up"]
        assert await names(limit=1) == ["/made"]
        assert await names('{"status":["created"]}') == ["/made"]
        assert await names('{"label":["a=b"]}', all=True) == ["/made"]
        assert await names('{"name":["^/u"]}', all=True) == ["/up"]
        assert await names('{"ancestor":["busybox"]}') == ["/up"]
        assert await names('{"since":["up"]}', all=True) == ["/made"]
        task.finish(2)
        await settled(lambda: world.service.get("up").status is Status.EXITED)
        assert await names('{"exited":["2"]}', all=True) == ["/up"]
        with pytest.raises(InvalidArgument):
            await names('{"status":["nonsense"]}')

    run(case())


def test_usage(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        await started(world, binds=["data:/data"])
        service = world.service
        assert [u.name for u in service.of_volume("data")] == ["web"] and not service.of_volume("other")
        assert service.of_image(IMAGE_ID)[0].running and service.of_network("0" * 64, "bridge")

    run(case())


def test_exec(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        execs = ExecService(world.service)
        await world.service.create("web", body())
        with pytest.raises(Conflict, match="is not running"):
            execs.create("web", ExecBody(cmd=["ls"]))
        await world.service.start("web")
        task = world.runtime.launched[0]
        identifier = execs.create("web", ExecBody(cmd=["ls", "-l"], env=["A=b"], tty=True, user="1:2"))
        execution = execs.claim(identifier)
        await execs.start(execution, [])
        request = task.execs[0].request
        assert request.process.args == ["ls", "-l"] and "A=b" in request.process.env and "TERM=xterm" in request.process.env
        assert (request.process.user.uid, request.process.user.gid, request.user) == (1, 2, "1:2")
        assert execs.inspect(identifier).running and execs.inspect(identifier).exit_code is None
        with pytest.raises(Conflict, match="is already running"):
            execs.claim(identifier)
        task.execs[0].finish(7)
        await settled(lambda: not execs.inspect(identifier).running)
        assert execs.inspect(identifier).exit_code == 7
        with pytest.raises(Conflict, match="has already run"):
            execs.claim(identifier)
        task.exec_failure = LaunchFailed("execve", errno.ENOENT, "nosuch", "")
        second = execs.create("web", ExecBody(cmd="nosuch"))
        with pytest.raises(InvalidArgument) as caught:
            await execs.start(execs.claim(second), [])
        assert caught.value.message == (
            'OCI runtime exec failed: exec failed: unable to start container process: exec: "nosuch": '
            "executable file not found in $PATH: unknown"
        )
        assert execs.inspect(second).exit_code == 127
        await world.service.pause("web")
        with pytest.raises(Conflict, match="is paused, unpause the container before exec"):
            execs.create("web", ExecBody(cmd=["ls"]))
        with pytest.raises(NotFound, match="No such exec instance: 123"):
            execs.get("123")

    run(case())


def test_bind_sources_of_v_are_made_at_start(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        source = tmp_path / "made" / "here"
        mount = Mount(type="bind", source=str(tmp_path), target="/m", bind_options=MountBindOptions(propagation="rslave"))
        await world.service.create("web", body(binds=[f"{source}:/data:ro"], mounts=[mount]))
        assert not source.exists()
        await world.service.start("web")
        assert source.is_dir()
        mounts = {m.destination: m for m in world.runtime.launched[0].request.spec.mounts}
        assert mounts["/data"].options == ["rbind", "rprivate", "rro"] and "rslave" in mounts["/m"].options

    run(case())


def test_a_later_engine_knows_the_execs_of_an_earlier_one(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        task = await started(world)
        execs = ExecService(world.service)
        wish = ExecBody(cmd=["ls", "-l"], env=["SECRET=x"], tty=True, user="1:2", attach_stdout=True)
        runs, ended = execs.create("web", wish), execs.create("web", ExecBody(cmd="true"))
        never = execs.create("web", ExecBody(cmd="later"))
        await execs.start(execs.claim(runs), [])
        await execs.start(execs.claim(ended), [])
        task.execs[1].finish(3)
        await settled(lambda: not execs.inspect(ended).running)
        before = execs.inspect(runs), execs.inspect(ended)
        assert "SECRET" not in task.execs[0].about
        # A health probe has no name in the API.
        task.execs.append(TwinExec(exec_request(world.service.get("web"), "f" * 64, ["probe"], env=[]), []))

        service = world.reopen()
        await service.restore()
        later = ExecService(service)
        later.restore()
        assert (later.inspect(runs), later.inspect(ended)) == before
        assert (await service.inspect("web"))["ExecIDs"] == [runs]
        await later.resize(runs[:12], 30, 90)
        assert task.execs[0].sizes == [(30, 90)]
        with pytest.raises(Conflict, match="is already running"):
            later.claim(runs)
        for unknown in (never, "f" * 64):
            with pytest.raises(NotFound, match="No such exec instance"):
                later.inspect(unknown)
        task.execs[0].finish(7)
        await settled(lambda: later.inspect(runs).exit_code == 7)
        assert world.actions()[-1] == "exec_die"

    run(case())


def test_detaching_is_an_event(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        task = await started(world)
        assert task.detached is not None
        task.detached("")
        task.detached("e" * 64)
        attributes = world.events._kept[-1].actor
        assert world.actions()[-2:] == ["detach", "exec_detach"]
        assert attributes is not None and (attributes.attributes or {})["execID"] == "e" * 64

    run(case())


def test_probes_are_execs_with_events(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        check = HealthConfig(test=["CMD", "probe", "-v"], interval=1_000_000, timeout=1_000_000_000)
        await world.service.create("web", CreateBody(image="busybox", cmd=["x"], healthcheck=check, host_config=HostConfig()))
        await world.service.start("web")
        task = world.runtime.launched[-1]
        await settled(lambda: task.execs)
        task.execs[0].finish(0)
        await settled(lambda: "health_status: healthy" in world.actions())
        assert world.actions()[2:6] == ["exec_create: probe -v", "exec_start: probe -v", "exec_die", "health_status: healthy"]
        task.finish(0)

    run(case())


def test_a_pause_waits_for_a_probe_that_is_being_started_and_then_none_is_begun(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        check = HealthConfig(test=["CMD", "probe"], interval=1_000_000, timeout=1_000_000_000)
        await world.service.create("web", CreateBody(image="busybox", cmd=["x"], healthcheck=check, host_config=HostConfig()))
        await world.service.start("web")
        task = world.runtime.launched[-1]
        task.may_exec.clear()
        await settled(lambda: task.starting_execs)
        pause = asyncio.create_task(world.service.pause("web"))
        await asyncio.sleep(0.02)
        assert not pause.done()
        task.may_exec.set()
        await pause
        task.execs[0].finish(0)
        await asyncio.sleep(0.02)
        assert (len(task.execs), task.frozen) == (1, True)
        await world.service.unpause("web")
        await settled(lambda: len(task.execs) > 1)
        task.finish(0)

    run(case())


def test_an_exec_that_was_claimed_before_a_pause_is_refused(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        await world.service.create("web", CreateBody(image="busybox", cmd=["x"], host_config=HostConfig()))
        await world.service.start("web")
        execs = ExecService(world.service)
        execution = execs.claim(execs.create("web", ExecBody(cmd=["true"])))
        await world.service.pause("web")
        with pytest.raises(Conflict, match="is paused, unpause the container before exec"):
            await execs.start(execution, [])
        world.runtime.launched[-1].finish(0)

    run(case())


def test_ports_that_are_open_to_others_are_warned_of_when_that_is_asked_for(tmp_path: Path) -> None:
    async def case() -> None:
        bindings = {
            "80/tcp": [PortBinding(host_ip="0.0.0.0"), PortBinding(host_ip="127.0.0.1")],
            "81/tcp": [PortBinding(host_ip="10.0.0.1")],
            # Refused by the networks, which a twin stands for here.
            "82/tcp": [PortBinding(host_ip="nowhere")],
        }
        quiet = await World(tmp_path / "quiet").service.create("web", body(port_bindings=bindings))
        assert quiet.warnings == []
        told = (await World(tmp_path / "told", warn_exposure=True).service.create("web", body(port_bindings=bindings))).warnings
        assert [text.partition(",")[0] for text in told or []] == [
            "port 80/tcp is open on all addresses of this host",
            "port 81/tcp is open on 10.0.0.1",
        ]

    run(case())
