"""Plans as text: what a specification comes to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from berth.contract.runtime import ExecRequest, LaunchRequest
from berth.errors import InvalidArgument
from berth.model.endpoint import EndpointPlan, NetworkPlan, Route
from berth.model.oci import (
    Capabilities,
    Device,
    DeviceRule,
    IdMapping,
    Linux,
    Memory,
    Mount,
    Namespace,
    Pids,
    Process,
    Resources,
    Rlimit,
    Root,
    Spec,
    User,
)
from berth.model.rootfs import Overlay
from berth.runtime import mount_options
from berth.runtime.plan import Compiler, describe, failure_message

V1 = {"memory": "/c/memory", "pids": "/c/pids", "devices": "/c/devices", "cpu": "/c/cpu,cpuacct", "cpuacct": "/c/cpu,cpuacct"}


@pytest.fixture
def compiler(tmp_path: Path) -> Compiler:
    made = Compiler(str(tmp_path), "/store")
    made.roots, made.v2, made.v2_controllers = V1, "/c/unified", []
    return made


def request(**linux: object) -> LaunchRequest:
    process = linux.pop("process", None) or Process(user=User(uid=0, gid=0), args=["sh"], env=["A=b"])
    mounts = linux.pop("mounts", [])
    settings: dict[str, object] = {"namespaces": [Namespace(type=kind) for kind in ("user", "pid", "mount", "ipc", "cgroup")]}
    maps = [IdMapping(container_id=0, host_id=100000, size=65536)]
    settings.update(uid_mappings=maps, gid_mappings=maps, cgroups_path="/berth/x")
    settings.update(linux)
    spec = Spec(process=process, root=Root(path="rootfs"), mounts=mounts, linux=Linux(**settings))
    overlay = Overlay(store="/store", layers=("b", "a"), upper="u", work="w")
    return LaunchRequest(id="x", spec=spec, rootfs=overlay, directory="/store/x")


def lines(compiler: Compiler, wanted: LaunchRequest) -> list[str]:
    compiled = compiler.launch(wanted)
    assert json.loads(json.dumps(compiled)) == compiled, "a plan is JSON"
    return describe(compiled).splitlines()


def test_the_smallest_plan(compiler: Compiler) -> None:
    assert lines(compiler, request()) == [
        "clone new=0x30020000",
        "map uid 0 100000 65536",
        "map gid 0 100000 65536",
        "cgroup /berth/x",
        "open 0 kind=overlay store=/store layers=['b','a'] upper=u work=w",
        "identity user=True unshare=0xa000000",
        "root source=0 propagation=0x0",
        "pivot readonly=False",
        "bound bounding=0x0",
        "session umask=18",
        "chdir path=/ make=True",
        "user name='' groups=[] environment=['A=b']",
        "capabilities effective=0x0 permitted=0x0 inheritable=0x0 ambient=0x0",
        "execve args=['sh'] death_signal=9 init=False",
    ]


def test_limits_and_devices_on_v1(compiler: Compiler) -> None:
    resources = Resources(
        memory=Memory(limit=1000, swap=2000), pids=Pids(limit=9), devices=[DeviceRule(allow=False, access="rwm")]
    )
    found = [line for line in lines(compiler, request(resources=resources)) if line.startswith("limit")]
    assert found[:4] == [
        "limit memory.limit_in_bytes=1000",
        "limit memory.memsw.limit_in_bytes=2000 if present",
        "limit pids.max=9",
        "limit devices.deny=a",
    ]
    assert "limit devices.allow=c 1:3 rwm" in found


def test_device_program_on_v2(compiler: Compiler) -> None:
    compiler.roots, compiler.v2_controllers = {}, ["memory"]
    found = lines(compiler, request(resources=Resources(memory=Memory(limit=5), devices=[DeviceRule(allow=False, access="rwm")])))
    assert "device-program" in found and "limit memory.max=5" in found


def test_limit_without_a_controller(compiler: Compiler) -> None:
    compiler.roots = {}
    with pytest.raises(InvalidArgument, match=r"no memory control group.*memory\.limit_in_bytes"):
        compiler.launch(request(resources=Resources(memory=Memory(limit=5))))


def test_joined_namespaces_user_first(compiler: Compiler) -> None:
    names = [Namespace(type="network", path="/n"), Namespace(type="user", path="/u"), Namespace(type="mount")]
    found = lines(compiler, request(namespaces=names))
    assert found[:3] == ["clone new=0x20000", "join 0x10000000 /u", "join 0x40000000 /n"]
    assert not any(line.startswith("network") for line in found), "another's network is left as it is"


def test_network(compiler: Compiler) -> None:
    network = NetworkPlan(
        endpoints=(
            EndpointPlan(
                parent="br",
                host_name="v",
                mac="02:42:00:00:00:01",
                addresses=("10.0.0.2/8",),
                routes=(Route(destination="0.0.0.0/0", gateway="10.0.0.1"),),
                sysctls={"net.ipv4.conf.eth0.rp_filter": "1"},
            ),
        ),
        resolver="/run/r.sock",
    )
    wanted = request(namespaces=[Namespace(type="network"), Namespace(type="mount"), Namespace(type="user")])
    import msgspec

    found = lines(compiler, msgspec.structs.replace(wanted, network=network))
    assert any(line.startswith("link kind=veth host_name=v parent=br name=eth0") for line in found)
    step = next(line for line in found if line.startswith("network"))
    assert "links=[['eth0','02:42:00:00:00:01',['10.0.0.2/8'],1500]]" in step
    assert "routes=[['0.0.0.0/0','10.0.0.1','eth0']]" in step
    assert "resolver=True" in step and "['net/ipv4/conf/eth0/rp_filter','1']" in step


def test_sysfs_of_a_foreign_network_namespace_is_bound(compiler: Compiler) -> None:
    mounts = [Mount(destination="/sys", type="sysfs", source="sysfs", options=["ro"])]
    found = lines(compiler, request(mounts=mounts))
    assert any("kind=bind path=/sys own=False recursive=True" in line for line in found)
    assert not any("kind=sysfs" in line for line in found)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["rbind", "ro"], "recursive=True deep=False attributes=0x1 clear=0x0 propagation=0x40000"),
        (["rbind", "rro", "rslave"], "recursive=True deep=True attributes=0x1 clear=0x0 propagation=0x80000"),
        (["bind", "rw", "shared", "nosuid"], "recursive=False deep=False attributes=0x2 clear=0x1 propagation=0x100000"),
        (["bind", "ro", "rw"], "recursive=False deep=False attributes=0x0 clear=0x1 propagation=0x40000"),
    ],
)
def test_bind_options(compiler: Compiler, options: list[str], expected: str) -> None:
    found = lines(compiler, request(mounts=[Mount(destination="/d", source="/s", options=options)]))
    assert f"open 1 kind=bind path=/s own=False {expected}" in found


@pytest.mark.parametrize("target", ["relative", "/", "", "/..", "/proc/self", "/./proc", "/x/../proc/1"])
def test_bad_targets(compiler: Compiler, target: str) -> None:
    with pytest.raises(InvalidArgument):
        compiler.launch(request(mounts=[Mount(destination=target, source="/s", options=["bind"])]))


def test_some_files_of_proc_may_be_covered(compiler: Compiler) -> None:
    found = lines(compiler, request(mounts=[Mount(destination="/proc/meminfo", source="/s", options=["bind"])]))
    assert "attach target=/proc/meminfo source=1 inside_proc=True" in found


def test_devices_override_the_defaults(compiler: Compiler) -> None:
    mounts = [Mount(destination="/dev", type="tmpfs", source="tmpfs", options=["mode=755"])]
    devices = [
        Device(path="/dev/null", type="c", major=1, minor=3, file_mode=0o600),
        Device(path="/dev/pts/3", type="c", major=136, minor=3),
    ]
    source = next(line for line in lines(compiler, request(mounts=mounts, devices=devices)) if "kind=dev" in line)
    assert source.count("'null'") == 1 and "'mode':384" in source
    assert "pts/3" not in source
    with pytest.raises(InvalidArgument):
        compiler.launch(request(mounts=mounts, devices=[Device(path="/dev/../etc/x", type="c", major=1, minor=3)]))


def test_user_of_the_specification_is_used_without_a_name(compiler: Compiler) -> None:
    process = Process(user=User(uid=5, gid=6, additional_gids=[7]), args=["sh"], cwd="/w", no_new_privileges=True)
    found = lines(compiler, request(process=process))
    assert "user name=5:6 groups=['7'] environment=[]" in found
    assert "no-new-privileges" in found


@pytest.mark.parametrize(
    "process",
    [
        Process(user=User(uid=0, gid=0), args=[]),
        Process(user=User(uid=0, gid=0), args=["a"], cwd="relative"),
        Process(user=User(uid=0, gid=0), args=["a"], rlimits=[Rlimit(type="RLIMIT_NONE", soft=1, hard=1)]),
        Process(user=User(uid=0, gid=0), args=["a"], capabilities=Capabilities(bounding=["CAP_NONE"])),
    ],
)
def test_bad_processes(compiler: Compiler, process: Process) -> None:
    with pytest.raises(InvalidArgument):
        compiler.launch(request(process=process))


def test_user_namespace_without_a_map(compiler: Compiler) -> None:
    with pytest.raises(InvalidArgument, match="uidMappings"):
        compiler.launch(request(uid_mappings=[]))


def test_exec_plan(compiler: Compiler) -> None:
    process = Process(user=User(uid=0, gid=0), args=["id"], capabilities=Capabilities(bounding=["CAP_CHOWN"]))
    compiled = compiler.exec(ExecRequest(id="e", process=process, terminal=True, height=3, width=4))
    assert [name for name, _ in compiled["steps"]] == [
        "console",
        "bound",
        "session",
        "chdir",
        "user",
        "seccomp",
        "capabilities",
        "execve",
    ]
    assert compiled["inherit_user"]
    privileged = compiler.exec(ExecRequest(id="e", process=process, privileged=True))
    steps = dict(privileged["steps"])
    assert "seccomp" not in steps and steps["bound"]["bounding"] == (1 << 41) - 1


@pytest.mark.parametrize(
    ("step", "errno", "path", "text"),
    [
        ("execve", 2, "nope", 'exec: "nope": executable file not found in $PATH'),
        ("execve", 2, "/no", 'exec: "/no": stat /no: no such file or directory'),
        ("execve", 13, "/etc", 'exec: "/etc": permission denied'),
        ("execve", 8, "/x", 'exec: "/x": exec format error'),
        ("chdir", 20, "/f", 'chdir to cwd ("/f") set in config.json failed: not a directory'),
        ("rlimit", 1, "RLIMIT_NOFILE=1:2", "error setting rlimits RLIMIT_NOFILE=1:2: operation not permitted"),
        ("mount", 2, "/src", "mount: /src: no such file or directory"),
    ],
)
def test_failures_in_dockers_words(step: str, errno: int, path: str, text: str) -> None:
    assert text in failure_message(step, errno, path)


def test_unknown_user_has_its_own_sentence() -> None:
    assert failure_message("user", 0, "unable to find user x: no matching entries in passwd file").startswith(
        "unable to find user x"
    )


def test_mount_option_of_the_filesystem() -> None:
    options = mount_options.parse(["size=5m", "mode=700", "noatime", "exec", "nr_inodes=5"], "/x")
    assert options.data == [["size", "5m"], ["mode", "700"], ["nr_inodes", "5"]]
    assert options.attributes == 0x10 and options.clear == 0x78
