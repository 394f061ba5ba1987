"""The pure rules: lifecycle, names, defaults, mounts, capabilities, isolation, security options, restart, health, texts."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.engine.containers import capability, isolation, logdriver, names, processes, restart
from berth.engine.containers.attaching import parse_detach_keys
from berth.engine.containers.defaults import merge_image, replace_env
from berth.engine.containers.device import parse_rule
from berth.engine.containers.health import Check, check_of, judge
from berth.engine.containers.lifecycle import TRANSITIONS, Status, check_transition, is_running
from berth.engine.containers.listing import command_text
from berth.engine.containers.mounting import parse_bind, tmpfs_record
from berth.engine.containers.security import check_sysctls, parse_security_options
from berth.engine.containers.signals import parse_signal
from berth.engine.idmap import can_idmap
from berth.errors import Internal, InvalidArgument
from berth.model.extension import Settings
from berth.model.instant import parse_instant, parse_rfc3339, rfc3339, rfc3339_ns
from berth.wire.container import ContainerConfig, HostConfig, RestartPolicy
from berth.wire.health import Health, HealthcheckResult, HealthConfig


def test_every_status_is_in_the_table_and_can_be_left() -> None:
    assert set(TRANSITIONS) == set(Status)
    assert all(TRANSITIONS.values())
    assert Status.RUNNING not in TRANSITIONS[Status.REMOVING]
    with pytest.raises(Internal):
        check_transition(Status.CREATED, Status.PAUSED)


def test_running_is_a_projection() -> None:
    assert {s for s in Status if is_running(s)} == {Status.RUNNING, Status.PAUSED, Status.RESTARTING}


def test_generated_names_avoid_taken_ones() -> None:
    taken: set[str] = set()
    source = random.Random(1)
    for _ in range(500):
        name = names.generate(taken.__contains__, source)
        assert name not in taken and name.replace("_", "").isalnum()
        taken.add(name)
    first = names.generate(lambda n: not n[-1].isdigit(), source)
    assert first[-1].isdigit()


@pytest.mark.parametrize(
    ("own", "image", "entrypoint", "command"),
    [
        (ContainerConfig(), ContainerConfig(cmd=["sh"], entrypoint=["/e"]), ["/e"], ["sh"]),
        (ContainerConfig(cmd=["ls"]), ContainerConfig(cmd=["sh"], entrypoint=["/e"]), ["/e"], ["ls"]),
        (ContainerConfig(entrypoint=["/o"]), ContainerConfig(cmd=["sh"], entrypoint=["/e"]), ["/o"], None),
        (ContainerConfig(entrypoint="/o", cmd="x"), ContainerConfig(cmd=["sh"]), ["/o"], ["x"]),
        (ContainerConfig(entrypoint=[""], cmd=["ls"]), ContainerConfig(entrypoint=["/e"]), None, ["ls"]),
        (ContainerConfig(entrypoint=[], cmd=["ls"]), ContainerConfig(entrypoint=["/e"]), None, ["ls"]),
    ],
)
def test_command_of_image_and_request(
    own: ContainerConfig, image: ContainerConfig, entrypoint: list[str] | None, command: list[str] | None
) -> None:
    merged = merge_image(own, image)
    assert (merged.entrypoint, merged.cmd) == (entrypoint, command)


def test_nothing_to_run() -> None:
    with pytest.raises(InvalidArgument, match="no command specified"):
        merge_image(ContainerConfig(), ContainerConfig())


def test_merge_keeps_what_the_request_says() -> None:
    image = ContainerConfig(
        cmd=["sh"],
        env=["A=1", "B=2"],
        labels={"a": "image", "b": "image"},
        user="app",
        healthcheck=HealthConfig(test=["CMD", "x"]),
    )
    own = ContainerConfig(env=["B=3"], labels={"b": "own"}, healthcheck=HealthConfig(interval=5))
    merged = merge_image(own, image)
    assert merged.env == ["B=3", "A=1"] and merged.labels == {"a": "image", "b": "own"} and merged.user == "app"
    assert merged.healthcheck is not None and (merged.healthcheck.test, merged.healthcheck.interval) == (["CMD", "x"], 5)
    assert image.env == ["A=1", "B=2"]


def test_replace_env() -> None:
    assert replace_env(["A=1", "B=2"], ["B=3", "A", "C=x=y"]) == ["B=3", "C=x=y"]


@pytest.mark.parametrize(
    ("text", "kind", "source", "name", "read_only", "propagation"),
    [
        ("/a:/b", "bind", "/a", "", False, "rprivate"),
        ("/a/../c:/b/:ro,z", "bind", "/c", "", True, "rprivate"),
        ("/a:/b:rshared", "bind", "/a", "", False, "rshared"),
        ("vol:/b:ro", "volume", "", "vol", True, ""),
        ("/b", "volume", "", "", False, ""),
    ],
)
def test_bind(text: str, kind: str, source: str, name: str, read_only: bool, propagation: str) -> None:
    record = parse_bind(text)
    assert (record.type, record.source, record.name, record.read_only, record.propagation) == (
        kind,
        source,
        name,
        read_only,
        propagation,
    )
    assert record.destination == "/b" and record.create_source == (kind == "bind")


@pytest.mark.parametrize(
    "text",
    [
        *("/a:b", "/a:/", "/a:/b:nonsense", ":/b", "/a:/b:ro:x", "v!:/b", "vol:/b:rshared", "/a:/b/.."),
        *("/a:/b:ro,rw", "/a:/b:ro,ro", "/a:/b:z,Z", "/a:/b:rslave,shared"),
    ],
)
def test_bad_binds(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_bind(text)


def test_tmpfs_options() -> None:
    assert set(tmpfs_record("/x", "").options) == {"noexec", "nosuid", "nodev"}
    record = tmpfs_record("/x", "exec,size=1m,ro")
    assert set(record.options) == {"nosuid", "nodev", "exec", "size=1m", "ro"} and record.read_only


def test_capabilities() -> None:
    def held(add: list[str], drop: list[str], privileged: bool = False) -> set[str]:
        return set(capability.effective(add, drop, privileged=privileged, host_user=False))

    default = {f"CAP_{n}" for n in capability.DEFAULT}
    assert len(default) == 14 and held([], []) == default
    assert held([], ["ALL"]) == set() and held(["net_admin"], ["CAP_ALL"]) == {"CAP_NET_ADMIN"}
    assert held(["ALL"], ["SYS_ADMIN"]) == {f"CAP_{n}" for n in capability.ALL} - {"CAP_SYS_ADMIN"}
    assert held([], ["KILL"]) == default - {"CAP_KILL"} and len(held([], [], True)) == 41
    assert capability.effective([], [], privileged=True, host_user=True) == tuple(
        f"CAP_{n}" for n in capability.ALL if n in capability.of_engine()
    )


def test_what_implies_the_hosts_user_namespace() -> None:
    assert not isolation.decide(HostConfig(network_mode="bridge", cap_add=["NET_ADMIN"])).host_user
    for host in (
        HostConfig(network_mode="host"),
        HostConfig(pid_mode="host"),
        HostConfig(ipc_mode="host"),
        HostConfig(uts_mode="host"),
        HostConfig(privileged=True),
        HostConfig(cap_add=["SYS_TIME"]),
        HostConfig(cap_add=["ALL"]),
    ):
        decided = isolation.decide(host)
        assert decided.host_user and len(isolation.warnings(decided)) == 1
    explicit = isolation.decide(HostConfig(userns_mode="host", network_mode="host"))
    assert explicit.host_user and isolation.warnings(explicit) == []
    assert isolation.decide(HostConfig(), ("/x",)).host_user


@pytest.mark.parametrize(
    ("kind", "kernel", "answer"),
    [
        ("ext4", (6, 1), True),
        ("overlay", (6, 18), False),
        ("tmpfs", (6, 1), False),
        ("tmpfs", (6, 3), True),
        ("fuse.sshfs", (6, 9), False),
    ],
)
def test_which_filesystems_can_be_idmapped(kind: str, kernel: tuple[int, int], answer: bool) -> None:
    assert can_idmap(kind, kernel) is answer


def test_security_options() -> None:
    assert parse_security_options([], privileged=False).seccomp == "builtin"
    assert parse_security_options([], privileged=True).seccomp == "unconfined"
    options = parse_security_options(
        ["no-new-privileges", "seccomp=unconfined", "systempaths=unconfined", "apparmor=unconfined", "label:disable"],
        privileged=False,
    )
    assert options.no_new_privileges and options.seccomp == "unconfined" and options.unconfined_paths
    assert parse_security_options(['seccomp={"defaultAction":"SCMP_ACT_ALLOW"}'], privileged=False).seccomp.startswith("{")
    for bad in ("nonsense", "seccomp={", "systempaths=x", "no-new-privileges=maybe"):
        with pytest.raises(InvalidArgument):
            parse_security_options([bad], privileged=False)


@pytest.mark.parametrize(
    ("key", "value", "host", "good"),
    [
        ("net.core.somaxconn", "1", frozenset(), True),
        ("net.core.somaxconn", "1", frozenset({"network"}), False),
        ("kernel.shmmax", "1", frozenset(), True),
        ("kernel.core_pattern", "|/x", frozenset(), False),
        ("net.core.somaxconn", "1\nkernel.panic=1", frozenset(), False),
        ("net/../kernel.panic", "1", frozenset(), False),
        ("kernel.hostname", "x", frozenset(), False),
    ],
)
def test_sysctls(key: str, value: str, host: frozenset[str], good: bool) -> None:
    if good:
        check_sysctls({key: value}, host)
        return
    with pytest.raises(InvalidArgument):
        check_sysctls({key: value}, host)


def test_restart_policies() -> None:
    def again(name: str, code: int, count: int = 0, limit: int = 0, manual: bool = False) -> bool:
        return restart.should_restart(RestartPolicy(name=name, maximum_retry_count=limit), code, count, manual_stop=manual)

    assert again("always", 0) and again("unless-stopped", 0) and not again("no", 1) and not again("always", 0, manual=True)
    assert again("on-failure", 1) and not again("on-failure", 0)
    assert again("on-failure", 1, 1, 2) and not again("on-failure", 1, 2, 2)
    assert not restart.should_restart(None, 1, 0, manual_stop=False)


def test_restart_delays() -> None:
    delay, seen = 0.0, []
    for _ in range(12):
        delay = restart.next_delay(delay, 0.1, Settings())
        seen.append(delay)
    assert seen[:4] == [0.1, 0.2, 0.4, 0.8] and seen[-1] == 60.0
    assert restart.next_delay(60.0, 10.0, Settings()) == 0.1


@pytest.mark.parametrize(
    ("name", "manual", "running", "code", "answer"),
    [
        ("always", True, False, 0, True),
        ("unless-stopped", True, False, 0, False),
        ("unless-stopped", False, True, 0, True),
        ("on-failure", False, True, 1, True),
        ("on-failure", False, True, 0, False),
        ("no", False, True, 1, False),
    ],
)
def test_what_starts_with_the_engine(name: str, manual: bool, running: bool, code: int, answer: bool) -> None:
    policy = RestartPolicy(name=name)
    assert restart.should_start_at_boot(policy, code, manual_stop=manual, was_running=running) is answer


def test_health_checks() -> None:
    assert check_of(ContainerConfig()) is None
    assert check_of(ContainerConfig(healthcheck=HealthConfig(test=["NONE"]))) is None
    shell = check_of(ContainerConfig(healthcheck=HealthConfig(test=["CMD-SHELL", "exit 1"], interval=10**9)))
    assert shell is not None and shell.args == ("/bin/sh", "-c", "exit 1") and (shell.interval, shell.retries) == (1.0, 3)
    direct = check_of(ContainerConfig(healthcheck=HealthConfig(test=["CMD", "a", "b"])))
    assert direct is not None and direct.args == ("a", "b") and direct.timeout == 30


def test_health_verdicts() -> None:
    check = Check(args=("x",), interval=1, timeout=1, retries=2, start_period=10, start_interval=1)
    bad, good = HealthcheckResult(exit_code=1), HealthcheckResult(exit_code=0)
    health = Health(status="starting", failing_streak=0, log=[])
    health = judge(health, bad, check, 5)
    assert (health.status, health.failing_streak) == ("starting", 0)
    health = judge(judge(health, bad, check, 11), bad, check, 12)
    assert (health.status, health.failing_streak) == ("unhealthy", 2)
    health = judge(health, good, check, 13)
    assert (health.status, health.failing_streak) == ("healthy", 0)
    health = judge(health, bad, check, 5)
    assert (health.status, health.failing_streak) == ("healthy", 1)
    for _ in range(9):
        health = judge(health, good, check, 20)
    assert len(health.log or []) == 5


def test_command_text() -> None:
    assert command_text("sh", ["-c", "echo hi"]) == "sh -c 'echo hi'"


@pytest.mark.parametrize(
    ("text", "number"),
    [("9", 9), ("KILL", 9), ("sigterm", 15), ("SIGHUP", 1), ("RTMIN", 34), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("64", 64)],
)
def test_signals(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "FOO", "SIG", "-1", "DFL", "RTMIN+x", "_"])
def test_no_signals(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_signal(text)


def test_detach_keys() -> None:
    assert parse_detach_keys(None) == b"\x10\x11" and parse_detach_keys("ctrl-a,b,ctrl-@") == b"\x01b\x00"
    for bad in ("ctrl-ab", "abc", "ctrl-A"):
        with pytest.raises(InvalidArgument):
            parse_detach_keys(bad)


def test_device_rules() -> None:
    rule = parse_rule("c 1:* rwm")
    assert (rule.type, rule.major, rule.minor, rule.access) == ("c", 1, None, "rwm")
    with pytest.raises(InvalidArgument):
        parse_rule("c 1:2")


def test_log_options() -> None:
    from berth.engine.config import EngineConfig
    from berth.wire.container import HostConfigLogConfig

    assert logdriver.parse_size("10m") == 10 << 20 and logdriver.parse_size("1.5k") == 1536
    wanted = HostConfigLogConfig(type="json-file", config={"max-size": "1m", "max-file": "5", "labels": "a,x", "env": "E"})
    plan = logdriver.log_plan(ContainerConfig(labels={"a": "1", "b": "2"}, env=["E=e"]), wanted, "/l", EngineConfig())
    assert (plan.max_size, plan.max_files, plan.attributes) == (1 << 20, 5, {"a": "1", "E": "e"})
    for bad in (HostConfigLogConfig(type="syslog"), HostConfigLogConfig(type="json-file", config={"x": "y"})):
        with pytest.raises(InvalidArgument):
            logdriver.check_log_config(bad)


def test_what_the_local_driver_keeps() -> None:
    from berth.engine.config import EngineConfig
    from berth.wire.container import HostConfigLogConfig

    def plan(**options: str) -> tuple[int, int, bool]:
        log = HostConfigLogConfig(type="local", config={name.replace("_", "-"): value for name, value in options.items()})
        logdriver.check_log_config(log)
        found = logdriver.log_plan(ContainerConfig(), log, "/l", EngineConfig(log_max_size=1, log_max_files=1))
        return found.max_size, found.max_files, found.compress

    assert plan() == (20 << 20, 5, True), "Docker's, not the engine's"
    assert plan(max_size="1m") == (1 << 20, 5, True)
    assert plan(max_file="1") == (20 << 20, 1, False)
    assert plan(max_file="2", compress="false") == (20 << 20, 2, False)


@pytest.mark.parametrize(
    ("driver", "options", "words"),
    [
        ("local", {"labels": "a"}, "unknown log opt 'labels' for log driver local"),
        ("json-file", {"nope": "1"}, "unknown log opt 'nope' for json-file log driver"),
        ("local", {"mode": "x"}, "logger: logging mode not supported: x"),
        ("json-file", {"max-buffer-size": "1k"}, "logger: max-buffer-size option is only supported with 'mode=non-blocking'"),
        ("local", {"mode": "non-blocking", "max-buffer-size": "x"}, "error parsing option max-buffer-size: invalid size: 'x'"),
        ("json-file", {"env-regex": "("}, "invalid log opt env-regex=(: error parsing regexp"),
        ("json-file", {"labels-regex": "["}, "invalid log opt labels-regex=[: error parsing regexp"),
    ],
)
def test_log_options_that_are_refused(driver: str, options: dict[str, str], words: str) -> None:
    from berth.wire.container import HostConfigLogConfig

    with pytest.raises(InvalidArgument) as caught:
        logdriver.check_log_config(HostConfigLogConfig(type=driver, config=options))
    assert caught.value.message.startswith(words)


def test_top_shows_a_process() -> None:
    titles, rows = processes.table([os.getpid(), 2**22 + 1], "", 0)
    assert titles == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert len(rows) == 1 and rows[0][1:3] == [str(os.getpid()), str(os.getppid())]
    assert processes.table([os.getpid()], "-o pid,comm", 0)[0] == ["PID", "COMMAND"]
    assert processes.table([os.getpid()], "aux", 0)[0][2:4] == ["%CPU", "%MEM"]
    with pytest.raises(InvalidArgument):
        processes.table([], "-o nonsense", 0)


def test_instants() -> None:
    assert parse_instant("1700000000.25") == 1_700_000_000_250_000_000
    assert parse_instant("2023-11-14T22:13:20Z") == 1_700_000_000 * 10**9
    assert parse_instant("2023-11-14T23:13:20.000000001+01:00") == 1_700_000_000 * 10**9 + 1
    assert parse_instant("1h30m", 10**13) == 10**13 - 5400 * 10**9
    assert parse_instant("2023-11-14") == parse_rfc3339("2023-11-14T00:00:00Z")
    assert parse_instant("-1.5s", 0) == 1_500_000_000 and rfc3339(0) == "0001-01-01T00:00:00Z"
    for bad in ("x", "", "1y", "2023-11-14T1:00", "2023-02-30"):
        with pytest.raises(InvalidArgument, match="invalid time"):
            parse_instant(bad)


@given(st.integers(min_value=0, max_value=4_000_000_000 * 10**9))
def test_rfc3339_round_trip(moment: int) -> None:
    assert parse_rfc3339(rfc3339_ns(moment)) == moment
