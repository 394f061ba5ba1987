"""Clients that others wrote, unmodified: testcontainers, python-on-whales, dockerode. They are no part of the development
environment: `make test-clients` installs them, and a test without its client is skipped."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest

from support.engine import SLOW, EngineProcess

DOCKERODE = """
const docker = new (require('dockerode'))({socketPath: process.argv[1]});
(async () => {
  const [ended, first] = await docker.run('busybox', ['echo', 'out'], process.stdout, {});
  await first.remove();
  const second = await docker.createContainer({Image: 'busybox', Cmd: ['cat'], OpenStdin: true, StdinOnce: true});
  const stream = await second.attach({stream: true, stdin: true, stdout: true, hijack: true});
  const frames = [];
  stream.on('data', (data) => frames.push(data));
  await second.start();
  stream.write('through');
  stream.end();
  const cat = await second.wait();
  await second.remove();
  const third = await docker.createContainer({Image: 'busybox', Cmd: ['sleep', '1000'], name: 'third'});
  await third.start();
  const exec = await third.exec({Cmd: ['sh', '-c', 'exit 4'], AttachStdout: true});
  const output = await exec.start({});
  await new Promise((done) => { output.on('end', done); output.resume(); });
  const told = {ended: ended.StatusCode, cat: cat.StatusCode, through: Buffer.concat(frames).subarray(8).toString(),
                exec: (await exec.inspect()).ExitCode, pids: (await third.stats({stream: false})).pids_stats.current,
                names: (await docker.listContainers()).map((c) => c.Names[0])};
  await third.remove({force: true});
  console.log(JSON.stringify(told));
})().catch((error) => { console.error(error); process.exit(1); });
"""

# The `testcontainers` of Node; version 11 wants a newer Node than Debian's.
TESTCONTAINERS = """
const { GenericContainer, Network, Wait } = require('testcontainers');
(async () => {
  const network = await new Network().start();
  const web = await new GenericContainer('busybox').withCommand(['httpd', '-f', '-p', '80', '-h', '/site'])
    .withExposedPorts(80).withNetwork(network).withNetworkAliases('web')
    .withCopyContentToContainer([{content: 'copied', target: '/site/index.html'}])
    .withHealthCheck({test: ['CMD-SHELL', 'true'], interval: 300, timeout: 2000, retries: 20, startPeriod: 0})
    .withWaitStrategy(Wait.forAll([Wait.forHttp('/index.html', 80), Wait.forHealthCheck()])).start();
  const page = await (await fetch(`http://${web.getHost()}:${web.getMappedPort(80)}/index.html`)).text();
  const exec = await web.exec(['sh', '-c', 'echo out; echo err >&2; exit 3']);
  await web.restart();
  let size = 0;
  for await (const piece of await web.copyArchiveFromContainer('/site/index.html')) size += piece.length;
  const once = await new GenericContainer('busybox').withCommand(['true']).withWaitStrategy(Wait.forOneShotStartup()).start();
  const logs = await new GenericContainer('busybox').withCommand(['sh', '-c', 'echo ready now; sleep 100']).withNetwork(network)
    .withWaitStrategy(Wait.forLogMessage(/ready/)).start();
  const named = await logs.exec(['wget', '-qO-', 'http://web/index.html']);
  for (const container of [once, logs, web]) await container.stop({timeout: 0});
  await network.stop();
  console.log(JSON.stringify({page, stdout: exec.stdout, stderr: exec.stderr, code: exec.exitCode, size, named: named.output}));
})().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
"""


def test_testcontainers(engine: EngineProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    # The reaper of what a killed test run leaves is an image of a registry that tests do not reach.
    monkeypatch.setenv("TESTCONTAINERS_RYUK_DISABLED", "true")
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    pytest.importorskip("testcontainers", reason="make test-clients")
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.network import Network
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    server = ["sh", "-c", "echo hi >/f; httpd -p 80 -h /; echo ready; sleep 1000"]
    with (
        Network() as network,
        DockerContainer("busybox")
        .with_command(server)
        .with_exposed_ports(80)
        .with_network(network)
        .with_network_aliases("web")
        .waiting_for(LogMessageWaitStrategy("ready")) as container,
    ):
        address = f"http://{container.get_container_host_ip()}:{container.get_exposed_port(80)}/f"
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert answer.read() == b"hi\n"
        assert container.exec(["echo", "x"]).output == b"x\n"
        assert container.get_logs() == (b"ready\n", b"")
        assert engine.ok("run", "--rm", "--network", network.name, "busybox", "wget", "-qO-", "http://web/f") == "hi"


def test_python_on_whales(engine: EngineProcess, tmp_path: Path) -> None:
    whales = pytest.importorskip("python_on_whales", reason="make test-clients")
    docker = whales.DockerClient(host=engine.host)
    assert docker.run("busybox", ["echo", "out"], remove=True) == "out"
    with pytest.raises(whales.exceptions.NoSuchImage):
        docker.image.inspect("nosuch")
    one = docker.run("busybox", ["sleep", "1000"], detach=True, name="one", memory="64m", labels={"a": "b"})
    assert one.state.running and one.host_config.memory == 64 << 20 and one.config.labels["a"] == "b"
    assert docker.execute("one", ["echo", "in"]) == "in"
    docker.copy(("one", "/etc/passwd"), tmp_path / "passwd")
    assert "worker" in (tmp_path / "passwd").read_text()
    volume, network = docker.volume.create("data"), docker.network.create("app")
    docker.network.connect(network, one)
    network.reload()
    assert [held.name for held in network.containers.values()] == ["one"]
    docker.network.disconnect(network, one)
    docker.remove(one, force=True)
    network.remove()
    volume.remove()
    assert docker.system.info().server_version and docker.ps() == []


def need_node(module: str) -> None:
    if shutil.which("node") is None or subprocess.run(["node", "-e", f"require('{module}')"], capture_output=True).returncode:
        pytest.skip(f"needs node and {module}: make test-clients")


@pytest.mark.timeout(200)
def test_testcontainers_for_node(engine: EngineProcess) -> None:
    need_node("testcontainers")
    environment = engine.environment() | {"TESTCONTAINERS_RYUK_DISABLED": "true"}
    command = ["node", "-e", TESTCONTAINERS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 * SLOW, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "page": "copied", "stdout": "out\n", "stderr": "err\n", "code": 3, "size": 2048, "named": "copied",
    }  # fmt: skip
    assert engine.ok("ps", "-aq") == ""


def test_dockerode(engine: EngineProcess) -> None:
    need_node("dockerode")
    done = subprocess.run(
        ["node", "-e", DOCKERODE, engine.socket], capture_output=True, text=True, timeout=60 * SLOW, check=False
    )
    assert done.returncode == 0, done.stderr
    output, told = done.stdout.splitlines()
    assert output == "out"
    assert json.loads(told) == {"ended": 0, "cat": 0, "through": "through", "exec": 4, "pids": 1, "names": ["/third"]}
