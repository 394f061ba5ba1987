"""`berth doctor` on this machine: an engine with exposed things, its store, another user, no engine at all."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from berth.wire.doctor import Finding, Report
from support.engine import BIN, EngineProcess


def _report(engine: EngineProcess, *arguments: str) -> tuple[Report, int]:
    done = engine.run(str(BIN / "berth"), "doctor", "--format", "json", *arguments)
    assert done.stdout, done.stderr
    return msgspec.json.decode(done.stdout, type=Report), done.returncode


def _by_check(report: Report) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for finding in report.findings:
        found.setdefault(finding.check, []).append(finding)
    return found


def test_what_containers_expose_is_found_and_gone_with_them(engine: EngineProcess, tmp_path: Path) -> None:
    engine.ok("run", "-d", "--name", "db", "-p", "0.0.0.0::5432", "-m", "32m", "--pids-limit", "20", "busybox", "sleep", "600")
    engine.ok("run", "-d", "--name", "root", "--privileged", "busybox", "sleep", "600")
    engine.ok("run", "-d", "--name", "peer", "--network", "host", "--pid", "host", "busybox", "sleep", "600")
    engine.ok(
        "run", "-d", "--name", "open", "-v", f"{engine.socket}:/var/run/docker.sock", "-v", "/etc:/host:ro", "--cap-add",
        "SYS_PTRACE", "--security-opt", "seccomp=unconfined", "busybox", "sleep", "600",
    )  # fmt: skip
    report, code = _report(engine, "exposed")
    found = _by_check(report)
    assert (report.worst, code) == ("problem", 2)
    (port,) = found["exposed.ports"]
    assert port.severity == "warning" and port.facts["container"] == "db" and port.facts["address"] == "0.0.0.0"
    assert [f.facts["container"] for f in found["exposed.privileged"]] == ["root"]
    assert [f.facts["containers"] for f in found["exposed.user-namespaces"]] == [["peer"]]
    assert [f.facts["shared"] for f in found["exposed.namespaces"]] == [["network", "pid"]]
    assert [(f.severity, f.facts["source"]) for f in found["exposed.mounts"]] == [("problem", engine.socket)]
    assert [(f.severity, f.facts["capabilities"]) for f in found["exposed.capabilities"]] == [("note", ["SYS_PTRACE"])]
    assert [f.facts["container"] for f in found["exposed.confinement"]] == ["open"]
    assert all("db" not in f.facts["containers"] for f in found["exposed.limits"])
    engine.ok("rm", "-f", "db", "root", "peer", "open")
    report, code = _report(engine, "exposed")
    assert (report.worst, code) == ("ok", 0)


def test_this_host_can_be_examined_and_nothing_is_left(engine: EngineProcess) -> None:
    report, _ = _report(engine)
    assert report.engine.running and report.engine.root == engine.root
    found = _by_check(report)
    # What this very engine shows to work cannot be reported as broken.
    for check in ("kernel.version", "kernel.calls", "kernel.user-namespaces", "kernel.idmapped-overlay", "kernel.seccomp"):
        assert [f.severity for f in found[check]] == ["ok"], found[check]
    assert found["network.devices"][0].facts["works"][:2] == ["bridge", "veth"]
    assert found["network.firewall"][0].severity == "ok"
    assert found["engine.memory"][0].facts["processes"] >= 2
    assert not any("could not be looked at" in f.summary for f in report.findings), report.findings
    assert not [name for name in os.listdir(f"{engine.root}/layers") if "doctor" in name]


def test_the_table_and_one_check_by_name(engine: EngineProcess) -> None:
    done = engine.run(str(BIN / "berth"), "doctor", "kernel.version", "engine.running")
    assert done.returncode == 0, done.stderr
    assert "[kernel.version]" in done.stdout and "[engine.running]" in done.stdout and "[kernel.calls]" not in done.stdout
    assert done.stdout.splitlines()[-1] == "0 problems, 0 warnings, 0 notes, 2 ok"
    listed = engine.run(str(BIN / "berth"), "doctor", "--list")
    assert listed.returncode == 0 and "exposed.ports" in listed.stdout
    wrong = engine.run(str(BIN / "berth"), "doctor", "kernel.nothing")
    assert (wrong.returncode, wrong.stderr) == (
        1, "berth: no check or section of checks is named kernel.nothing: berth doctor --list shows them\n",
    )  # fmt: skip


def test_the_store_of_a_running_and_of_a_stopped_engine(own: EngineProcess) -> None:
    engine = own
    engine.ok("run", "--name", "box", "-v", "data:/data", "busybox", "touch", "/x", "/data/y")
    report, code = _report(engine, "store")
    assert [f for f in report.findings if f.severity != "ok"] == [] and code == 0
    (layer,) = engine.client.json("GET", "/images/busybox/json")["RootFS"]["Layers"]
    engine.terminate()
    report, code = _report(engine, "--root", engine.root, "store")
    assert [f for f in report.findings if f.severity != "ok"] == [] and code == 0
    hidden = f"{engine.root}/layers/{layer.removeprefix('sha256:')}"
    os.rename(f"{hidden}/fs", f"{hidden}/away")
    report, code = _report(engine, "--root", engine.root, "--deep", "store.layers")
    assert [(f.severity, f.facts.get("lost")) for f in report.findings] == [("problem", [layer])] and code == 2
    os.rename(f"{hidden}/away", f"{hidden}/fs")
    engine.start()


def test_another_user_and_no_engine(engine: EngineProcess) -> None:
    runuser = shutil.which("runuser")
    if runuser is None:
        pytest.skip("runuser of util-linux is missing")
    if subprocess.run([runuser, "-u", "nobody", "--", str(BIN / "berth"), "-v"], check=False, capture_output=True).returncode:
        pytest.skip("this checkout is not readable for other users than root")
    environment: dict[str, Any] = {**os.environ, "BERTH_HOST": "unix:///nonexistent/berth.sock"}
    done = subprocess.run(
        [runuser, "-u", "nobody", "--", str(BIN / "berth"), "doctor", "--format", "json"],
        capture_output=True, env=environment, timeout=60, check=False, cwd="/",
    )  # fmt: skip
    report = msgspec.json.decode(done.stdout, type=Report)
    found = _by_check(report)
    assert not report.as_root and not report.engine.running
    assert found["engine.running"][0].severity == "problem" and done.returncode == 2
    assert "only root sees" in found["network.firewall"][0].summary
    assert found["kernel.calls"][0].severity == "ok"
