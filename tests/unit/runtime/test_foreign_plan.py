"""Plans for another runtime's binary, and what it complains of."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from berth.contract.runtime import IOPlan, LaunchRequest
from berth.errors import InvalidArgument
from berth.model.oci import IdMapping, Linux, Mount, Namespace, Process, Root, Spec, User
from berth.model.rootfs import Overlay
from berth.runtime import binary
from berth.runtime.foreign_plan import compile_foreign
from berth.runtime.plan import Compiler

V1 = {"memory": "/c/memory", "pids": "/c/pids"}


@pytest.fixture
def compiler(tmp_path: Path) -> Compiler:
    made = Compiler(str(tmp_path), "/store")
    made.roots, made.v2, made.v2_controllers = V1, "/c/unified", []
    return made


def request(mounts: list[Mount], runtime: str = "/usr/sbin/runc", user_path: str | None = None) -> LaunchRequest:
    maps = [IdMapping(container_id=0, host_id=100000, size=65536)]
    kinds = [*(Namespace(type=kind) for kind in ("mount", "pid", "network")), Namespace(type="user", path=user_path)]
    spec = Spec(
        process=Process(user=User(uid=0, gid=0), args=["sh"]),
        root=Root(path="anything"),
        mounts=mounts,
        linux=Linux(namespaces=kinds, uid_mappings=maps, gid_mappings=maps, cgroups_path="/berth/x"),
    )
    files = (("/store/x/hosts", "/etc/hosts"),)
    overlay = Overlay(store="/store", layers=("a",), upper="u", work="w")
    return LaunchRequest(
        id="x", spec=spec, rootfs=overlay, directory="/d", user="worker", bind_files=files, io=IOPlan(), runtime=runtime
    )


MOUNTS = [
    Mount(destination="/proc", type="proc", source="proc", options=["nosuid"]),
    Mount(destination="/data", type="bind", source="/host/data", options=["rbind", "rslave", "ro"]),
]


def test_binds_are_prepared_and_named_by_where_they_will_be(compiler: Compiler) -> None:
    plan = compile_foreign(request(MOUNTS), compiler, "/run/e")
    assert json.loads(json.dumps(plan)) == plan, "a plan is JSON"
    assert [(source["kind"], source.get("path")) for source in plan["sources"]] == [
        ("overlay", None),
        ("bind", "/host/data"),
        ("bind", "/store/x/hosts"),
    ]
    assert plan["config"]["mounts"] == [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
        {"destination": "/data", "type": "bind", "source": "/run/e/bundle/m1", "options": ["rbind", "rslave"]},
        {"destination": "/etc/hosts", "type": "bind", "source": "/run/e/bundle/m2", "options": ["rbind", "rprivate"]},
    ]
    assert plan["config"]["root"] == {"path": "rootfs"}
    assert plan["state"]["user"] == ["worker", []]
    assert plan["maps"]["uid"] == "0 100000 65536\n"


def test_a_joined_user_namespace_is_named_by_its_path(compiler: Compiler) -> None:
    plan = compile_foreign(request(MOUNTS, user_path="/proc/7/ns/user"), compiler, "/run/e")
    assert (plan["maps"], plan["user_namespace"]) == (None, "/proc/7/ns/user")


@pytest.mark.parametrize(
    ("roots", "path", "hidden", "v2"),
    [(V1, "/usr/bin/crun", "/c/unified", None), (V1, "/usr/sbin/runc", "", None), ({}, "/usr/bin/crun", "", "/sys/fs/cgroup/e")],
)
def test_control_groups_of_one_version_only(
    compiler: Compiler, roots: dict[str, str], path: str, hidden: str, v2: str | None
) -> None:
    compiler.roots = roots
    compiler.v2 = "/c/unified" if roots else "/sys/fs/cgroup/e"
    plan = compile_foreign(request([], path), compiler, "/run/e")
    assert plan["command"]["hidden"] == hidden
    assert plan["cgroup"]["v2"] == v2
    assert plan["config"]["linux"]["cgroupsPath"] == ("/berth/x" if roots else "/e/berth/x")
    assert plan["command"]["options"][:2] == ["--root", f"/run/e/oci/{path.rpartition('/')[2]}"]


def test_what_our_own_launch_refuses_is_refused(compiler: Compiler) -> None:
    with pytest.raises(InvalidArgument, match="inside /proc"):
        compile_foreign(request([Mount(destination="/proc/self", type="tmpfs")]), compiler, "/run/e")


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ('runc create failed: exec: "no": executable file not found in $PATH', ("execve", errno.ENOENT, "no")),
        ("executable file `no` not found in $PATH: No such file or directory", ("execve", errno.ENOENT, "no")),
        ('exec failed: exec: "/x": stat /x: no such file or directory', ("execve", errno.ENOENT, "/x")),
        ('exec: "/etc": is a directory', ("execve", errno.EISDIR, "/etc")),
        ('exec: "/f": permission denied', ("execve", errno.EACCES, "/f")),
        ("open executable: Permission denied", ("execve", errno.EACCES, "")),
        ('chdir to cwd ("/w") set in config.json failed: not a directory', ("chdir", errno.ENOTDIR, "/w")),
        ("open /proc/sys/x: no such file or directory", ("runtime", 0, "open /proc/sys/x: no such file or directory")),
    ],
)
def test_complaints_become_steps(text: str, failure: tuple[str, int, str]) -> None:
    found = binary.complaint(text)
    assert (found.step, found.errno, found.path) == failure
