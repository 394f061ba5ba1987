"""What the docker SDK's own integration tests found (scripts/sdk_tests.py runs those): details that its users depend on."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import APIError, ImageLoadError, NotFound
from docker.utils.socket import next_frame_header, read_exactly

from support.api_client import ask
from support.engine import EngineProcess
from support.registry import registry


@pytest.fixture
def api(engine: EngineProcess) -> Iterator[docker.APIClient]:
    made = docker.APIClient(base_url=engine.host, timeout=60)
    yield made
    made.close()


def running(api: docker.APIClient, **options: object) -> str:
    identifier: str = api.create_container("busybox", ["sleep", "1000"], **options)["Id"]
    api.start(identifier)
    return identifier


def build(api: docker.APIClient, text: str, **options: object) -> list[dict[str, object]]:
    return list(api.build(fileobj=io.BytesIO(text.encode()), decode=True, rm=True, **options))


def used_cache(messages: list[dict[str, object]]) -> int:
    return sum("Using cache" in str(message.get("stream")) for message in messages)


def test_the_start_of_an_exec_says_whether_its_stream_is_framed(api: docker.APIClient) -> None:
    one = running(api)
    with_terminal = api.exec_create(one, ["printf", "a line"], tty=True)
    framed = api.exec_start(with_terminal, socket=True)
    assert next_frame_header(framed) == (1, 6) and read_exactly(framed, 6) == b"a line"
    framed.close()
    assert api.exec_start(api.exec_create(one, ["echo", "both"], tty=True), demux=True) == (b"both\r\n", None)
    assert api.exec_start(api.exec_create(one, ["echo", "raw"], tty=True), tty=True) == b"raw\r\n"


def test_members_of_a_body_are_found_in_any_case(api: docker.APIClient) -> None:
    one = running(api)
    exec_id = api.exec_create(one, "cat", stdin=True, tty=True, detach_keys="ctrl-p")["Id"]
    assert api.exec_inspect(exec_id)["DetachKeys"] == "ctrl-p"
    held = api.exec_start(exec_id, tty=True, socket=True)
    raw: socket.socket = held._sock
    raw.sendall(b"\x10")
    raw.settimeout(10)
    assert raw.recv(100) in (b"", b"\r\n")
    held.close()


def test_the_log_of_a_container_that_has_ended_by_attach(api: docker.APIClient) -> None:
    for _ in range(10):
        one = api.create_container("busybox", ["echo", "hello"])
        api.start(one)
        api.wait(one)
        assert api.attach(one, stream=False, logs=True) == b"hello\n"
        api.remove_container(one)


def test_commit_of_a_container_that_is_just_ending(api: docker.APIClient) -> None:
    for number in range(15):
        one = api.create_container("busybox", ["touch", "/test"])
        api.start(one)
        time.sleep(number * 0.002)
        image = api.commit(one)["Id"]
        assert api.inspect_image(image)["ContainerConfig"]["Image"] == "busybox"
        api.remove_container(one, force=True)
        api.remove_image(image)


def test_links_on_the_default_bridge(api: docker.APIClient) -> None:
    ports = [5432, (53, "udp")]
    other = api.create_container("busybox", ["sleep", "1000"], name="db-1", environment={"MODE": "primary"}, ports=ports)
    api.start(other)
    address = api.inspect_container(other)["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    linked = api.create_host_config(links={"db-1": "my-db"})
    one = api.create_container("busybox", ["sleep", "1000"], name="web", host_config=linked)
    api.start(one)

    def said(*command: str) -> str:
        output: bytes = api.exec_start(api.exec_create(one, list(command)))
        return output.decode()

    environment = said("env").splitlines()
    for entry in (
        "MY_DB_NAME=/web/my-db", "MY_DB_ENV_MODE=primary", f"MY_DB_PORT=tcp://{address}:5432",
        f"MY_DB_PORT_5432_TCP_ADDR={address}", "MY_DB_PORT_53_UDP_PROTO=udp",
    ):  # fmt: skip
        assert entry in environment
    assert f"{address}\tmy-db" in said("cat", "/etc/hosts")
    with pytest.raises(NotFound, match="no link of that name"):
        api.remove_container("web/other", link=True)
    api.remove_container("web/my-db", link=True)
    assert "my-db" not in said("cat", "/etc/hosts")
    assert not api.inspect_container("web")["HostConfig"]["Links"]
    assert len(api.containers()) == 2


def test_builds_with_several_hosts_and_an_error_stream_in_red(api: docker.APIClient) -> None:
    hosts = {"one.test": "127.0.0.1", "two.test": "127.0.0.2"}
    said = build(api, "FROM busybox\nRUN cat /etc/hosts; echo why >&2", nocache=True, extra_hosts=hosts)
    text = "".join(str(message.get("stream", "")) for message in said)
    assert "127.0.0.1\tone.test\n" in text and "127.0.0.2\ttwo.test\n" in text
    assert {"stream": "\x1b[91mwhy\n\x1b[0m"} in said
    api.prune_builds()
    api.prune_images({"dangling": True})


def test_cache_from_takes_steps_from_those_images_alone(api: docker.APIClient) -> None:
    text = "FROM busybox\nENV A=b\nRUN echo 1 >/one\nRUN echo 2 >/two\n"
    build(api, text, tag="first")
    assert used_cache(build(api, text, tag="second", cache_from=["first"])) == 3
    assert used_cache(build(api, text, tag="second", cache_from=["nosuchtag"])) == 0
    # Of an image whose steps were never made here, as after a pull.
    saved = b"".join(api.get_image("first"))
    api.remove_image("first")
    api.remove_image("second")
    api._post(api._url("/build/prune"), params={"all": "1"}).raise_for_status()
    list(api.load_image(saved))
    messages = build(api, text + "ENV C=d\n", tag="third", cache_from=["nosuchtag", "first"])
    assert used_cache(messages) == 3
    assert api.inspect_image("third")["RootFS"] == api.inspect_image("first")["RootFS"]
    assert api.inspect_image("third")["Config"]["Env"][-2:] == ["A=b", "C=d"]
    changed = text.replace("echo 1", "echo one")
    assert used_cache(build(api, changed, tag="fourth", cache_from=["first"])) == 1
    for name in ("first", "third", "fourth"):
        api.remove_image(name)
    api._post(api._url("/build/prune"), params={"all": "1"}).raise_for_status()


def test_what_cannot_be_loaded_is_told_in_the_stream(engine: EngineProcess) -> None:
    client = docker.DockerClient(base_url=engine.host, timeout=60)
    with pytest.raises(ImageLoadError, match="cannot be loaded"):
        client.images.load(b"abc")
    client.close()
    done = engine.docker("load", input=b"abc")
    assert done.returncode == 1 and done.stderr.startswith("the archive cannot be loaded")


def test_a_second_disconnect_fails_even_by_force(api: docker.APIClient) -> None:
    network = api.create_network("app")["Id"]
    one = running(api)
    api.connect_container_to_network(one, network)
    api.disconnect_container_from_network(one, network, force=True)
    with pytest.raises(APIError, match="is not connected to"):
        api.disconnect_container_from_network(one, network, force=True)
    api.remove_container(one, force=True)
    api.remove_network(network)


def test_a_link_local_address_beside_its_own(api: docker.APIClient) -> None:
    wanted = api.create_endpoint_config(link_local_ips=["169.254.8.8"])
    one = running(api, networking_config=api.create_networking_config({"bridge": wanted}))
    settings = api.inspect_container(one)["NetworkSettings"]["Networks"]["bridge"]
    assert settings["IPAMConfig"]["LinkLocalIPs"] == ["169.254.8.8"]
    shown = api.exec_start(api.exec_create(one, ["ip", "addr", "show", "eth0"])).decode()
    assert "inet 169.254.8.8/16" in shown and f"inet {settings['IPAddress']}/" in shown
    bad = api.create_networking_config({"bridge": api.create_endpoint_config(link_local_ips=["nonsense"])})
    with pytest.raises(APIError, match="invalid link-local IP address"):
        api.create_container("busybox", networking_config=bad)


def test_a_runtime_beside_the_host_config(api: docker.APIClient) -> None:
    one = api.create_container("busybox", ["true"], runtime="runc")
    assert api.inspect_container(one)["HostConfig"]["Runtime"] == "runc"
    with pytest.raises(APIError, match="unknown or invalid runtime name: nosuch"):
        api.create_container("busybox", ["true"], runtime="nosuch")


def test_credentials_that_cannot_be_read_are_none(engine: EngineProcess, tmp_path: Path) -> None:
    """What aiodocker and many scripts send for nobody."""
    header = {"X-Registry-Auth": "placeholder"}
    with registry(tmp_path / "registry") as address:
        engine.ok("tag", "busybox", f"{address}/x")
        pushed = ask(engine.socket, "POST", f"/images/{address}/x/push?tag=latest", headers=header)
        assert pushed.status == 200 and "digest: sha256:" in pushed.lines[-2]["status"], pushed.body
        engine.ok("rmi", f"{address}/x")
        pulled = ask(engine.socket, "POST", f"/images/create?fromImage={address}/x&tag=latest", headers=header)
        assert pulled.status == 200 and "Downloaded newer image" in pulled.lines[-1]["status"], pulled.body
        assert ask(engine.socket, "GET", f"/distribution/{address}/x/json", headers=header).status == 200
        engine.ok("rmi", f"{address}/x")


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/images/prune", {"ImagesDeleted": None, "SpaceReclaimed": 0}),
        ("/build/prune", {"CachesDeleted": None, "SpaceReclaimed": 0}),
        ("/networks/prune", {"NetworksDeleted": None}),
        ("/volumes/prune", {"VolumesDeleted": [], "SpaceReclaimed": 0}),
        ("/containers/prune", {"ContainersDeleted": None, "SpaceReclaimed": 0}),
    ],
)
def test_what_a_prune_of_nothing_says(engine: EngineProcess, path: str, answer: dict[str, object]) -> None:
    """As dockerd 20.10 does."""
    assert ask(engine.socket, "POST", path).document == answer


def test_a_platform_that_is_none_is_refused_before_a_build_begins(engine: EngineProcess) -> None:
    for path in ("/build?platform=foo", "/images/create?fromImage=busybox&platform=foo", "/containers/create?platform=foo"):
        body = {"Image": "busybox"} if "containers" in path else None
        answer = ask(engine.socket, "POST", path, body)
        assert answer.status == 400 and '"foo": unknown operating system or architecture' in answer.document["message"]
