"""What images and requests may not do to the engine: SECURITY rows 38, 39, 41, 62, and what a default container is."""

from __future__ import annotations

import json
import os

import pytest

from support.engine import EngineProcess


@pytest.mark.parametrize("user", ["4294967296", "-1", "2147483648", "0:4294967296", "0x0", "+0", "1000000000000"])
def test_row_38_users_out_of_range_are_refused(engine: EngineProcess, user: str) -> None:
    done = engine.docker("run", "--rm", f"--user={user}", "busybox", "id")
    assert done.returncode == 125 and "uid=" not in done.stdout, done


def test_row_39_labels_of_an_image_change_nothing_in_the_engine(engine: EngineProcess) -> None:
    labels = (
        "berth.privileged=true",
        "containerd.io/restart.loguri=binary:///bin/sh",
        "io.berth.log.path=/etc/x",
        "berth.userns=host",
    )
    changes = [word for label in labels for word in ("-c", f"LABEL {label}")]
    engine.ok("run", "--name", "plain", "busybox", "true")
    engine.ok("commit", *changes, "plain", "labelled")
    engine.ok("run", "-d", "--name", "box", "labelled", "sleep", "100")
    shown = json.loads(engine.ok("inspect", "box"))[0]
    assert shown["HostConfig"]["Privileged"] is False and shown["LogPath"].startswith(engine.root)
    assert int(engine.ok("exec", "box", "cat", "/proc/self/uid_map").split()[1]) > 65536
    engine.ok("rm", "-f", "box", "plain")
    engine.ok("rmi", "labelled")


def test_row_41_groups_are_those_of_the_image_and_the_request(engine: EngineProcess) -> None:
    assert engine.ok("run", "--rm", "-u", "worker", "busybox", "id", "-G") == "1000 2000"
    assert engine.ok("run", "--rm", "-u", "worker", "--group-add", "4242", "busybox", "id", "-G").split() == [
        "1000",
        "2000",
        "4242",
    ]
    assert engine.ok("run", "--rm", "-u", "5555:6666", "busybox", "id", "-G") == "6666"
    # The primary one is among the supplementary ones, which `id` does not tell: a file that denies a group must not be open to
    # who gives up the group as his primary one.
    status = engine.ok("run", "--rm", "-u", "worker", "busybox", "grep", "Groups", "/proc/self/status")
    assert status.split() == ["Groups:", "1000", "2000"]


def test_row_62_the_environment_is_exactly_the_declared_one(engine: EngineProcess) -> None:
    out = engine.ok("run", "--rm", "--name", "box", "-h", "box", "-e", "A=b", "busybox", "env").split("\n")
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert sorted(out) == sorted([path, "HOSTNAME=box", "A=b", "HOME=/root"])
    engine.ok("run", "-d", "--name", "other", "-h", "other", "busybox", "sleep", "100")
    out = engine.ok("exec", "-e", "C=d", "other", "env").split("\n")
    assert sorted(out) == sorted([path, "HOSTNAME=other", "C=d", "HOME=/root"])


def test_root_of_a_default_container_is_nobody_on_the_host(engine: EngineProcess) -> None:
    engine.ok("run", "-d", "--name", "box", "busybox", "sleep", "100")
    engine.ok("run", "-d", "--name", "other", "busybox", "sleep", "100")
    owners = []
    for name in ("box", "other"):
        pid = engine.ok("inspect", "-f", "{{.State.Pid}}", name)
        owners.append(os.stat(f"/proc/{pid}").st_uid)
    assert min(owners) >= 1_879_048_192 and abs(owners[0] - owners[1]) >= 65536


def test_nothing_of_another_container_is_in_reach(engine: EngineProcess) -> None:
    engine.ok("run", "-d", "--name", "box", "busybox", "sleep", "100")
    assert engine.ok("run", "--rm", "busybox", "sh", "-c", "ps | grep -c 'sleep 10[0]' || true") == "0"
    refused = engine.docker("run", "--rm", "--ipc", "container:box", "busybox", "true")
    assert refused.returncode == 125 and "non-shareable IPC" in refused.stderr


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a\nb", "é"])
def test_names_are_no_paths(engine: EngineProcess, name: str) -> None:
    with engine.client as client:
        body = json.dumps({"Image": "busybox"}).encode()
        try:
            answer = client.request("POST", "/containers/create", query={"name": name}, body=body)
        except Exception as error:  # the client's own kinds
            assert "Invalid container name" in str(error)
            return
        created = json.loads(answer.read())["Id"]
    assert name == "" and engine.ok("inspect", "-f", "{{.Name}}", created).startswith("/")
