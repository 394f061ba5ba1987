"""The docker SDK for Python, unmodified: what programs do with it, object by object."""

from __future__ import annotations

import io
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import APIError, BuildError, ContainerError, ImageNotFound, NotFound
from docker.types import LogConfig, Mount, Ulimit

from support.engine import EngineProcess


@pytest.fixture
def client(engine: EngineProcess) -> Iterator[docker.DockerClient]:
    made = docker.DockerClient(base_url=engine.host, version="auto", timeout=60)
    yield made
    made.close()


def archive(**files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def test_run_gives_output_and_raises_what_went_wrong(client: docker.DockerClient) -> None:
    assert client.containers.run("busybox", ["echo", "out"], remove=True) == b"out\n"
    assert client.containers.run("busybox", "sh -c 'echo a; echo b >&2'", remove=True, stdout=True, stderr=True) == b"a\nb\n"
    with pytest.raises(ContainerError) as failed:
        client.containers.run("busybox", ["sh", "-c", "echo why >&2; exit 7"], remove=True)
    assert failed.value.exit_status == 7 and failed.value.stderr == b"why\n"
    with pytest.raises(ImageNotFound):
        client.images.get("nosuch:1")
    with pytest.raises(NotFound):
        client.containers.get("nosuch")
    with pytest.raises(APIError, match="executable file not found"):
        client.containers.run("busybox", ["nosuch"], remove=True)


def test_a_container_from_create_to_remove(client: docker.DockerClient) -> None:
    made = client.containers.create(
        "busybox", ["sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done"], name="one",
        environment={"A": "b"}, labels={"l": "1"}, hostname="host", working_dir="/tmp", mem_limit="64m", nano_cpus=500_000_000,
        ulimits=[Ulimit(name="nofile", soft=64, hard=64)], tmpfs={"/t": "size=1m"}, read_only=False, init=False,
        log_config=LogConfig(type="json-file", config={"max-size": "1m"}), mounts=[Mount("/m", "named", labels={"x": "y"})],
    )  # fmt: skip
    assert made.status == "created"
    made.start()
    for line in made.logs(stream=True, follow=True):
        assert line == b"ready\n"
        break
    made.reload()
    assert made.status == "running" and made.attrs["HostConfig"]["Memory"] == 64 << 20 and made.labels == {"l": "1"}
    made.pause()
    made.reload()
    assert made.status == "paused"
    made.unpause()
    made.rename("two")
    made.update(cpu_shares=512)
    assert client.containers.get("two").attrs["HostConfig"]["CpuShares"] == 512
    assert [c.name for c in client.containers.list(filters={"label": "l=1"})] == ["two"]
    made.stop(timeout=10)
    assert made.wait() == {"StatusCode": 5}
    made.remove(v=True)
    assert client.containers.list(all=True, filters={"name": "two"}) == []
    client.volumes.get("named").remove()


def test_exec_in_each_of_its_forms(client: docker.DockerClient) -> None:
    one = client.containers.run("busybox", ["sleep", "1000"], detach=True)
    assert one.exec_run(["sh", "-c", "echo $A; exit 3"], environment={"A": "b"}) == (3, b"b\n")
    out, err = one.exec_run(["sh", "-c", "echo o; echo e >&2"], demux=True).output
    assert (out, err) == (b"o\n", b"e\n")
    assert b"".join(one.exec_run(["sh", "-c", "for i in 1 2 3; do echo $i; done"], stream=True).output) == b"1\n2\n3\n"
    assert one.exec_run("id -u", user="worker").output == b"1000\n"
    assert one.exec_run("pwd", workdir="/etc").output == b"/etc\n"
    assert one.exec_run(["sh", "-c", "test -t 0 && echo tty"], tty=True, stdin=True).output == b"tty\r\n"
    assert one.exec_run(["sleep", "1000"], detach=True).exit_code is None
    identifier = client.api.exec_create(one.id, ["cat"], stdin=True)["Id"]
    stream = client.api.exec_start(identifier, socket=True)
    stream._sock.sendall(b"through\n")
    stream._sock.shutdown(1)
    assert stream.read().endswith(b"through\n")
    stream._sock.close()
    assert client.api.exec_inspect(identifier)["ExitCode"] == 0


def test_streams_stats_top_and_diff(client: docker.DockerClient) -> None:
    one = client.containers.run("busybox", ["sh", "-c", "touch /new; while sleep 0.1; do echo x; done"], detach=True)
    pieces = one.attach(stream=True, logs=True)
    assert next(iter(pieces)).startswith(b"x\n")
    assert one.stats(stream=False)["memory_stats"]["usage"] > 0
    reading = next(iter(one.stats(stream=True, decode=True)))
    assert reading["pids_stats"]["current"] >= 1
    assert "CMD" in one.top()["Titles"] and one.top(ps_args="-o pid,comm")["Titles"] == ["PID", "COMMAND"]
    assert {"Path": "/new", "Kind": 1} in one.diff()
    one.kill()
    assert one.wait()["StatusCode"] == 137


def test_archives_and_commit(client: docker.DockerClient) -> None:
    one = client.containers.create("busybox", ["cat", "/tmp/a"])
    assert one.put_archive("/tmp", archive(a=b"content"))
    pieces, stat = one.get_archive("/tmp/a")
    assert stat["name"] == "a" and stat["size"] == 7
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as tar:
        member = tar.extractfile("a")
        assert member is not None and member.read() == b"content"
    image = one.commit("committed", "1", message="m", author="a", conf={"Labels": {"x": "y"}})
    assert image.labels["x"] == "y"
    assert client.containers.run("committed:1", remove=True) == b"content"
    exported = b"".join(one.export())
    with tarfile.open(fileobj=io.BytesIO(exported)) as tar:
        assert "tmp/a" in tar.getnames()
    client.images.remove("committed:1")


def test_images(client: docker.DockerClient, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nARG A=1\nRUN echo $A >/a\nCMD cat /a\n")
    image, log = client.images.build(path=str(tmp_path), tag="built", buildargs={"A": "2"}, rm=True, labels={"b": "c"})
    assert any("Successfully built" in line.get("stream", "") for line in log) and image.labels == {"b": "c"}
    assert client.containers.run("built", remove=True) == b"2\n"
    assert image.history()[0]["Size"] == 0
    assert image.tag("again", "3") and "again:3" in client.images.get("built").tags
    saved = b"".join(client.images.get("again:3").save(named=True))
    client.images.remove("again:3")
    client.images.remove("built")
    assert [loaded.tags for loaded in client.images.load(saved)] == [["again:3"]]
    client.images.remove("again:3")
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN exit 4\n")
    with pytest.raises(BuildError, match="non-zero code: 4"):
        client.images.build(path=str(tmp_path))
    assert "busybox:latest" in [tag for found in client.images.list() for tag in found.tags]


def test_networks_and_volumes(client: docker.DockerClient) -> None:
    network = client.networks.create("app", driver="bridge", labels={"n": "1"}, internal=True)
    volume = client.volumes.create("data", labels={"v": "1"})
    bound = {"data": {"bind": "/d", "mode": "rw"}}
    server = client.containers.run("busybox", ["sh", "-c", "echo hi >/d/f; httpd -f -p 80 -h /d"], detach=True, volumes=bound)
    network.connect(server, aliases=["web"])
    network.reload()
    assert [c.id for c in network.containers] == [server.id]
    fetch = ["sh", "-c", "for i in $(seq 50); do wget -qO- http://web/f && exit; sleep 0.1; done; exit 1"]
    assert client.containers.run("busybox", fetch, network="app", remove=True) == b"hi\n"
    network.disconnect(server)
    server.remove(force=True)
    assert [v.name for v in client.volumes.list(filters={"label": "v=1"})] == ["data"]
    volume.remove()
    network.remove()
    with pytest.raises(NotFound):
        client.networks.get("app")


def test_events_and_the_system(client: docker.DockerClient) -> None:
    begin = int(time.time()) - 1
    heard: list[str] = []
    listening = client.events(since=begin, decode=True, filters={"type": "container", "label": "mine"})

    def listen() -> None:
        for event in listening:
            heard.append(event["Action"])
            if event["Action"] == "destroy":
                break

    thread = threading.Thread(target=listen)
    thread.start()
    client.containers.run("busybox", ["true"], labels=["mine"], remove=True)
    thread.join(30)
    listening.close()
    life = ["create", "start", "die", "destroy"]
    assert [action for action in heard if action in life] == life
    assert client.ping() and client.version()["ApiVersion"] and client.info()["OSType"] == "linux"
    assert client.df()["Images"]
    assert client.containers.prune()["SpaceReclaimed"] >= 0
