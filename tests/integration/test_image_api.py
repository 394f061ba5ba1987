"""The image routes, driven by the unmodified docker CLI and the docker SDK."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.server
import io
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import docker
import pytest
from aiohttp import web
from docker.errors import APIError, ImageNotFound

from berth.api import versions
from berth.api.route import Route, json_response
from berth.api.routes import images
from berth.api.server import application, listen, serve
from integration.test_image_registry import Host, registry, tar_of

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="layers keep owners: needs root"),
    pytest.mark.skipif(shutil.which("docker-registry") is None, reason="needs Debian's docker-registry"),
    pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker CLI"),
]


class Server:
    """The image routes on a socket, in a thread with a loop of its own."""

    def __init__(self, directory: Path) -> None:
        self.socket = str(directory / "api.sock")
        self.home = str(directory)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(directory,), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    def _run(self, directory: Path) -> None:
        asyncio.set_event_loop(self._loop)
        self.host = Host(directory / "root")
        engine = cast(Any, SimpleNamespace(images=self.host.service))

        async def ping(request: web.Request) -> web.Response:
            return web.Response(text="OK")

        async def info(request: web.Request) -> web.Response:
            return json_response({"ApiVersion": versions.text(versions.NEWEST), "MinAPIVersion": "1.40", "Version": "x"})

        more = [
            Route("GET", "/_ping", ping),
            Route("HEAD", "/_ping", ping),
            Route("GET", "/version", info),
            Route("GET", "/info", info),
        ]
        runner = self._loop.run_until_complete(serve(application([*images.routes(engine), *more]), [(listen(self.socket), None)]))
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self.host.close()
        self._loop.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def run(self, *arguments: str, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        environment = {**os.environ, "DOCKER_HOST": f"unix://{self.socket}", "DOCKER_CONFIG": f"{self.home}/config"}
        return subprocess.run(["docker", *arguments], input=data, capture_output=True, timeout=60, env=environment)

    def ok(self, *arguments: str, data: bytes | None = None) -> str:
        done = self.run(*arguments, data=data)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    def fails(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 1, done
        return done.stderr.decode().strip()


@contextlib.contextmanager
def web_server(directory: Path) -> Iterator[str]:
    """Files on a free port of the loopback."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as files:
        thread = threading.Thread(target=files.serve_forever)
        thread.start()
        yield f"127.0.0.1:{files.server_port}"
        files.shutdown()
        thread.join()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.stop()


def test_docker_cli_works_with_images(server: Server, tmp_path: Path) -> None:
    image_id = server.ok("import", "-c", 'CMD ["sh"]', "-m", "hello", "-", "base:1", data=tar_of("bin/sh"))
    assert re.fullmatch("sha256:[0-9a-f]{64}", image_id)
    assert server.ok("images", "--format", "{{.Repository}}:{{.Tag}} {{.Size}}") == "base:1 100kB"
    assert server.ok("images", "-q", "--no-trunc") == image_id
    assert (
        server.ok("inspect", "-f", "{{.Id}} {{.Config.Cmd}} {{.Comment}} {{len .RootFS.Layers}}", "base:1")
        == f"{image_id} [sh] hello 1"
    )
    assert "hello" in server.ok("history", "base:1")
    server.ok("tag", "base:1", "copy")
    short = image_id[7:19]
    assert server.fails("rmi", short).endswith(
        f"conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"
    )
    assert server.fails("inspect", "nope").endswith("No such object: nope")
    assert server.fails("image", "inspect", "nope").endswith("No such image: nope:latest")
    assert server.fails("tag", "base:1", "UPPER").startswith('Error parsing reference: "UPPER"')
    with registry(tmp_path / "registry", password="secret") as address:
        name = f"{address}/team/app:2"
        server.ok("tag", "base:1", name)
        assert "no basic auth credentials" in server.fails("push", name)
        assert "unauthorized" in server.fails("login", "-u", "me", "-p", "wrong", address)
        assert "Login Succeeded" in server.ok("login", "-u", "me", "-p", "secret", address)
        pushed = server.ok("push", name)
        digest = re.search(r"2: digest: (sha256:[0-9a-f]{64}) size: \d+", pushed)
        assert digest is not None and "Pushed" in pushed
        removed = server.ok("rmi", "-f", image_id)
        assert f"Deleted: {image_id}" in removed and f"Untagged: {address}/team/app@{digest[1]}" in removed
        assert server.ok("images", "-q") == ""
        pulled = server.ok("pull", name)
        assert f"Digest: {digest[1]}" in pulled and f"Status: Downloaded newer image for {name}" in pulled
        assert f"Status: Image is up to date for {name}" in server.ok("pull", name)
        assert "manifest unknown" in server.fails("pull", f"{address}/team/app:3")
        assert server.ok("pull", "-q", f"{address}/team/app@{digest[1]}") == f"{address}/team/app@{digest[1]}"
        assert json.loads(server.ok("manifest", "inspect", "--insecure", name))["schemaVersion"] == 2
        server.ok("pull", "-a", f"{address}/team/app")
        server.ok("tag", name, "base:1")
    assert "cannot be reached" in server.fails("pull", f"{address}/team/app:2")
    saved = server.run("save", "base:1").stdout
    server.ok("rmi", "-f", image_id)
    assert server.ok("load", data=saved) == "Loaded image: base:1"
    assert server.ok("load", "-q", data=saved) == "Loaded image: base:1"
    server.ok("rmi", "base:1")
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "x.tar").write_bytes(tar_of("x"))
    with web_server(tmp_path / "web") as address:
        assert re.search("sha256:[0-9a-f]{64}$", server.ok("import", f"http://{address}/x.tar"))
        assert "answered 404" in server.fails("import", f"http://{address}/y.tar")
    assert "Total reclaimed space: 100kB" in server.ok("image", "prune", "-f")
    assert server.host.content() == set()


def test_docker_sdk_and_old_versions(server: Server) -> None:
    client = docker.DockerClient(base_url=f"unix://{server.socket}", version="1.41")
    try:
        answer = json.loads(client.api.import_image_from_data(tar_of("bin/sh"), repository="base", tag="1", changes=["ENV A=b"]))
        image = client.images.get("base:1")
        assert (
            image.id == answer["status"]
            and image.attrs["Config"]["Env"] == ["A=b"]
            and image.attrs["ContainerConfig"]["Volumes"] is None
        )
        with pytest.raises(ImageNotFound):
            client.images.get("nope")
        with pytest.raises(APIError, match="invalid reference format"):
            client.images.get("UPPER")
        data = b"".join(image.save(named=True))
        client.images.remove("base:1")
        (loaded,) = client.images.load(data)
        assert loaded.tags == ["base:1"] and [i.id for i in client.images.list(filters={"reference": "base"})] == [loaded.id]
        assert client.images.list(name="base")[0].id == loaded.id
        lines = list(client.api.push("base", tag="9", stream=True, decode=True))
        assert lines[-1]["error"] == "tag does not exist: base:9"
        assert "tar" in list(client.api.load_image(io.BytesIO(b"no tar" * 500)))[-1]["error"]
        assert client.images.prune(filters={"dangling": False})["SpaceReclaimed"] == 100_000
    finally:
        client.close()
