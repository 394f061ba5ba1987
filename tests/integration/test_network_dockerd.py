"""Next to a real Docker daemon, and after one has gone: its forward chain drops by policy and its rules stay behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from berth.network.host import write_sysctl
from netlab import HOST_ADDRESS, LAN_ADDRESS, Lab, in_lab, reaches

pytestmark = pytest.mark.skipif(not shutil.which("dockerd"), reason="dockerd is not installed")


@contextmanager
def dockerd(directory: Path) -> Iterator[None]:
    """A Docker daemon in the laboratory's host namespace, with everything of its own."""
    socket = directory / "docker.sock"
    command = [
        "dockerd", "--data-root", str(directory / "data"), "--exec-root", str(directory / "exec"), "-H", f"unix://{socket}",
        "--pidfile", str(directory / "docker.pid"), "--bip", "10.99.0.1/24", "--config-file", str(directory / "none.json"),
    ]  # fmt: skip
    (directory / "none.json").write_text("{}")
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(300):
            if socket.exists() and "API listen on" in (directory / "log").read_text():
                break
            assert process.poll() is None, (directory / "log").read_text()[-2000:]
            time.sleep(0.1)
        else:
            pytest.fail((directory / "log").read_text()[-2000:])
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(5)


async def check_ways(lab: Lab) -> None:
    one = lab.containers["one"]
    with one.listen(80) as server, lab.lan.listen(81) as outside:
        assert lab.lan.reaches(server, HOST_ADDRESS, 8080) == LAN_ADDRESS
        assert reaches(server, "127.0.0.1", 8080)
        assert one.reaches(outside, LAN_ADDRESS, 81) == HOST_ADDRESS
        assert lab.containers["two"].reaches(server, lab.address("one"), 80)


def test_docker_started_after_us_and_gone_again(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        await lab.run("one", ports={"80/tcp": [("", "8080")]})
        await lab.run("two")
        # Docker sets the policy when it is the one that switches forwarding on.
        write_sysctl("net.ipv4.ip_forward", "0")
        with dockerd(tmp_path):
            policy = subprocess.run(["iptables", "-S", "FORWARD"], capture_output=True, text=True, check=True).stdout
            assert "-P FORWARD DROP" in policy, "Docker drops what it does not know"
            await asyncio.sleep(0.6)
            await check_ways(lab)
        await asyncio.sleep(0.6)
        await check_ways(lab)

    in_lab(tmp_path, test)
