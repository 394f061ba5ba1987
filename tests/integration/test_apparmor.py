"""AppArmor, where the kernel has it: the default profile by its effects, other profiles, and none."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from berth.runtime import apparmor
from berth.runtime.label import apparmor_enabled
from support import leak
from support.bundle import Bundle, Runtime
from support.engine import EngineProcess

pytest_plugins = ["support.bundle_fixture"]
pytestmark = pytest.mark.skipif(
    not apparmor_enabled() or shutil.which("apparmor_parser") is None,
    reason="this kernel has no AppArmor, or AppArmor's compiler is not installed: shown in the guest lane",
)
CURRENT = "cat /proc/1/attr/current"
DENYING = 'profile "berth-test" flags=(attach_disconnected) { file, signal, network, capability, deny /tmp/** w, }'


@pytest.fixture
def profile() -> Iterator[str]:
    """A profile of the test's own: it lets nobody write below /tmp."""
    subprocess.run(["apparmor_parser", "--replace", "--skip-cache"], input=DENYING.encode(), check=True)
    yield "berth-test"
    subprocess.run(["apparmor_parser", "--remove"], input=DENYING.encode(), check=True)


def test_a_container_is_under_the_default_profile(engine: EngineProcess) -> None:
    assert "name=apparmor" in json.loads(engine.ok("info", "-f", "{{json .SecurityOptions}}"))
    engine.ok("create", "--name", "held", "--init", "busybox", "sleep", "600")
    assert engine.ok("inspect", "-f", "{{.AppArmorProfile}}", "held") == ""
    engine.ok("start", "held")
    assert engine.ok("inspect", "-f", "{{.AppArmorProfile}}", "held") == "docker-default"
    pid = engine.ok("inspect", "-f", "{{.State.Pid}}", "held")
    assert Path(f"/proc/{pid}/attr/current").read_text() == "docker-default (enforce)\n"
    # Also process 2, which is the program, and one that is started later, with all rights or not.
    assert engine.ok("exec", "held", "cat", "/proc/2/attr/current") == "docker-default (enforce)"
    assert engine.ok("exec", "held", "cat", "/proc/self/attr/current") == "docker-default (enforce)"
    assert engine.ok("exec", "--privileged", "held", "cat", "/proc/self/attr/current") == "docker-default (enforce)"
    engine.ok("stop", "-t", "30", "held")
    assert engine.ok("inspect", "-f", "{{.State.ExitCode}}", "held") == "143", "it got the signal"


@pytest.mark.parametrize(
    "command",
    [
        "mount -t tmpfs none /tmp",
        "mount -t proc proc /tmp && echo 1 > /tmp/sys/net/ipv4/ip_forward",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        "echo 65536 > /proc/sys/kernel/msgmax",
    ],
)
def test_the_profile_denies_what_capabilities_would_allow(engine: EngineProcess, command: str) -> None:
    """With every capability and writable /proc/sys of its own network, all of it works but for the profile."""
    options = ("--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN", "--security-opt", "seccomp=unconfined")
    options = (*options, "--security-opt", "systempaths=unconfined")
    free = engine.docker("run", "--rm", *options, "--security-opt", "apparmor=unconfined", "busybox", "sh", "-c", command)
    assert free.returncode == 0, free.stderr
    held = engine.docker("run", "--rm", *options, "busybox", "sh", "-c", command)
    assert held.returncode != 0 and "denied" in held.stderr, held


def test_what_the_profile_leaves_alone(engine: EngineProcess) -> None:
    options = ("--security-opt", "systempaths=unconfined", "--security-opt", "seccomp=unconfined", "--cap-add", "SYS_ADMIN")
    script = """
        set -e
        echo 4096 > /proc/sys/kernel/shmmni; echo 5 > /proc/self/oom_score_adj; echo x > /dev/shm/file
        umount /dev/mqueue; ping -c 1 127.0.0.1 > /dev/null
        sleep 600 & kill -9 $!; echo fine
    """
    assert engine.ok("run", "--rm", *options, "busybox", "sh", "-c", script) == "fine"


def test_profiles_that_are_named(engine: EngineProcess, profile: str) -> None:
    named = ("--security-opt", f"apparmor={profile}")
    assert engine.ok("run", "--rm", *named, "busybox", "sh", "-c", CURRENT) == f"{profile} (enforce)"
    assert engine.docker("run", "--rm", *named, "busybox", "touch", "/tmp/file").returncode == 1
    engine.ok("create", "--name", "named", *named, "busybox")
    assert engine.ok("inspect", "-f", "{{.AppArmorProfile}}", "named") == profile
    assert engine.ok("run", "--rm", "--security-opt", "apparmor=unconfined", "busybox", "sh", "-c", CURRENT) == "unconfined"
    assert engine.ok("run", "--rm", "--privileged", "busybox", "sh", "-c", CURRENT) == "unconfined"
    held = ("--privileged", *named)
    assert engine.ok("run", "--rm", *held, "busybox", "sh", "-c", CURRENT) == f"{profile} (enforce)"
    explicit = ("--security-opt", "apparmor=docker-default", "--security-opt", "no-new-privileges")
    assert engine.ok("run", "--rm", *explicit, "busybox", "sh", "-c", CURRENT) == "docker-default (enforce)"
    missing = engine.docker("run", "--rm", "--security-opt", "apparmor=berth-nowhere", "busybox", "true")
    assert missing.returncode == 127, "the docker CLI takes it from the words"
    assert "apparmor failed to apply profile berth-nowhere: no such file or directory, it is not loaded" in missing.stderr


def test_steps_of_builds_are_under_it(engine: EngineProcess, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM busybox\nRUN {CURRENT}\n")
    assert "docker-default (enforce)" in engine.ok("build", "--no-cache", str(tmp_path))


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_other_runtimes_get_it_too(engine: EngineProcess, runtime: str) -> None:
    if shutil.which(runtime) is None:
        pytest.skip(f"{runtime} is not installed")
    engine.ok("run", "-d", "--name", "other", "--runtime", runtime, "busybox", "sleep", "600")
    assert engine.ok("exec", "other", "sh", "-c", f"{CURRENT}; cat /proc/self/attr/current").split("\n") == [
        "docker-default (enforce)"
    ] * 2


def remove_default() -> None:
    text = apparmor.text(apparmor.DEFAULT_PROFILE, "unconfined")
    subprocess.run(["apparmor_parser", "--remove"], input=text.encode(), check=True)
    assert not apparmor.is_loaded()


def test_a_profile_that_was_taken_away_is_loaded_again(engine: EngineProcess) -> None:
    remove_default()
    assert engine.ok("run", "--rm", "busybox", "sh", "-c", CURRENT) == "docker-default (enforce)"


def test_without_apparmors_compiler_containers_are_refused_in_dockers_words() -> None:
    if apparmor.is_loaded():
        remove_default()
    parser = shutil.which("apparmor_parser")
    hide = f'mount --bind /dev/null {parser}; exec "$@"'
    engine = EngineProcess(prefix=("unshare", "-m", "--propagation", "slave", "sh", "-c", hide, "sh"))
    with leak.nothing_left(engine.snapshot):
        try:
            engine.start()
            engine.add_busybox()
            refused = engine.docker("run", "--rm", "busybox", "true")
            assert refused.returncode == 125
            words = "AppArmor enabled on system but the docker-default profile could not be loaded: "
            assert words in refused.stderr and "install the package apparmor" in refused.stderr
            assert words in engine.log_text()
            free = ("--security-opt", "apparmor=unconfined")
            assert engine.ok("run", "--rm", *free, "busybox", "sh", "-c", CURRENT) == "unconfined"
        finally:
            engine.shut_down()


def test_the_command_line_runtime_applies_it(runtime: Runtime, bundle: Bundle) -> None:
    apparmor.ensure()
    bundle.config["process"]["apparmorProfile"] = "docker-default"
    bundle.config["hooks"] = {"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "cat /proc/self/attr/current >&2"]}]}
    bundle.shell("cat /proc/self/attr/current; sleep 600")
    runtime.create()
    runtime.start()
    done = runtime("exec", "--apparmor", "docker-default", runtime.id, "cat", "/proc/self/attr/current", "/proc/1/attr/current")
    assert done.stdout == "docker-default (enforce)\n" * 2, done.stderr
    done = runtime("exec", runtime.id, "cat", "/proc/self/attr/current")
    assert done.stdout == "docker-default (enforce)\n", done.stderr
