"""What of a launch is done before the container is known."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import pytest

from berth.runtime import ahead, init
from berth.runtime.message import pair

PROC = {"target": "/proc", "kind": "proc", "name": "proc", "options": [], "attributes": 14}
SYS = {**PROC, "target": "/sys", "kind": "sysfs"}
SHM = {**PROC, "target": "/dev/shm", "kind": "tmpfs"}
DEV = {"target": "/dev", "source": 1, "inside_proc": False}
BIND = {"source": 2, "inside_proc": False}
SOURCES = [{"kind": "overlay"}, {"kind": "dev"}, {"kind": "bind"}]


def plan(*steps: tuple[str, dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return {
        "namespaces": {"new": 5, "join": []},
        "maps": {"uid": "0 100 65536\n", "gid": "0 100 65536\n"},
        "time": None,
        "seccomp": "/filter",
        "devices": "",
        "sources": SOURCES,
        "links": [],
        "steps": [("identity", {"user": True, "unshare": 3}), ("network", {"loopback": True}), ("root", {"source": 0}), *steps],
        **changes,
    }


def names(steps: list[init.Step]) -> list[str]:
    return [f"{name} {arguments.get('target') or arguments.get('path', '')}".strip() for name, arguments in steps]


def late(*steps: tuple[str, dict[str, Any]]) -> list[str]:
    return [name for name in names(ahead.split(plan(*steps))[1])[2:] if name != "linked"]


@pytest.fixture
def state() -> Iterator[init.Init]:
    ours, theirs = pair()
    yield init.Init(ours, None, {})
    ours.close()
    theirs.close()


def test_the_trees_with_their_masks_come_first() -> None:
    steps = (
        ("mount", PROC), ("attach", DEV), ("mount", SHM), ("mount", SYS), ("cgroup", {"target": "/sys/fs/cgroup"}),
        ("attach", {"target": "/etc/hosts", **BIND}), ("mask", {"path": "/proc/kcore"}), ("protect", {"path": "/proc/bus"}),
        ("sysctl", {"name": "net/ipv4/ping_group_range"}), ("sysctl", {"name": "net/ipv4/ip_forward"}), ("pivot", {}),
    )  # fmt: skip
    early, rest = ahead.split(plan(*steps))
    assert names(early) == [
        "identity", "loopback", "mount /proc", "attach /dev", "mount /dev/shm", "mount /sys", "cgroup /sys/fs/cgroup",
        "mask /proc/kcore", "protect /proc/bus", "sysctl",
    ]  # fmt: skip
    assert names(rest) == ["root", "trees", "attach /etc/hosts", "linked", "sysctl", "pivot"]
    assert dict(rest)["trees"] == {"paths": ["/proc", "/dev", "/sys"]}
    assert ahead.sources(early) == [1]


def test_with_a_link_of_its_own_init_waits_last() -> None:
    sysctls = (("sysctl", {"name": "net/ipv4/ping_group_range"}), ("sysctl", {"name": "net/ipv4/ip_forward"}))
    attach = ("attach", {"target": "/etc/hosts", **BIND})
    steps = (("mount", PROC), attach, *sysctls, ("pivot", {}), ("session", {}), ("seccomp", {}))
    early, rest = ahead.split(plan(*steps), "eth0")
    assert names(rest) == ["root", "trees", "attach /etc/hosts", "network", "sysctl", "pivot", "session", "linked", "seccomp"]
    assert dict(rest)["network"] == {"loopback": False} and dict(rest)["linked"] == {"network": None}
    assert ahead.quiet(early, rest) == 3


def test_before_its_start_a_container_can_be_brought_as_far_as_the_network() -> None:
    steps = (("mount", PROC), ("sysctl", {"name": "net/ipv4/ping_group_range"}), ("pivot", {}), ("bound", {}), ("session", {}))
    early, rest = ahead.split(plan(*steps), "eth0")
    assert names(rest)[: ahead.quiet(early, rest)] == ["root", "trees", "pivot", "bound"]
    # Without a procfs of its own, init could not get one any more.
    early, rest = ahead.split(plan(*steps[:1], *steps[2:]), "eth0")
    assert names(rest)[: ahead.quiet(early, rest)] == ["root", "trees"]


def test_a_slots_own_plan_has_the_same_early_steps() -> None:
    """It is made of the early steps of a container's."""
    early = ahead.split(plan(("mount", PROC), ("pivot", {})))[0]
    assert names(early) == ["identity", "loopback", "mount /proc"]
    assert ahead.split({**plan(), "steps": early}) == (early, [("linked", {"network": None})])


@pytest.mark.parametrize(
    ("links", "name"),
    [([], ""), (["veth"], "eth0"), (["macvlan"], ""), (["veth", "veth"], "")],
    ids=["none", "one", "of another kind", "two"],
)
def test_the_link_that_a_slot_makes(links: list[str], name: str) -> None:
    one = plan(("mount", PROC), links=[{"kind": kind, "name": f"eth{index}"} for index, kind in enumerate(links)])
    shape = ahead.shape(one)
    assert shape is not None and shape["veth"] == ahead.veth(one) == name


@pytest.mark.parametrize(
    "mask",
    ["/etc/secret", "/proc/../etc/secret", "/proc", "/proc/", "//proc/kcore", "/dev/mem"],
    ids=["elsewhere", "by dots", "the tree itself", "with a slash", "two slashes", "no tree of ours"],
)
def test_a_mask_that_may_mean_the_image_is_late(mask: str) -> None:
    assert late(("mount", PROC), ("mask", {"path": mask})) == [f"mask {mask}"]


def test_what_follows_a_users_mount_in_a_tree_is_late() -> None:
    user = ("attach", {"target": "/proc/cpuinfo", **BIND})
    steps = (("mount", PROC), ("mount", SYS), user, ("mask", {"path": "/proc/kcore"}), ("mask", {"path": "/sys/firmware"}))
    assert late(*steps) == ["attach /proc/cpuinfo", "mask /proc/kcore"]


def test_a_tree_of_the_hosts_is_late_with_all_in_it() -> None:
    steps = (("attach", {"target": "/dev", **BIND}), ("mount", SHM), ("mount", PROC), ("mount", PROC))
    assert late(*steps) == ["attach /dev", "mount /dev/shm", "mount /proc"]


def test_the_shape_leaves_out_names_ids_and_limits() -> None:
    one = plan(("mount", PROC), ("attach", DEV), ("pivot", {}))
    other = plan(("mount", PROC), ("attach", DEV), ("hostname", {"name": "x"}), maps={"uid": "0 9 65536\n", "gid": "0 9 65536\n"})
    assert ahead.shape(one) == ahead.shape(other) is not None
    assert ahead.shape(one) != ahead.shape(plan(("attach", DEV), ("pivot", {})))
    assert ahead.shape(one) != ahead.shape({**one, "seccomp": "/other"})
    assert ahead.shape(one) != ahead.shape({**one, "sources": [SOURCES[0], {"kind": "dev", "nodes": []}, SOURCES[2]]})


@pytest.mark.parametrize(
    "changes",
    [
        {"namespaces": {"new": 5, "join": [[1, "/proc/1/ns/net"]]}},
        {"maps": None},
        {"time": ""},
        {"maps": {"uid": "0 100 65536\n70000 200 1\n", "gid": "0 100 65536\n"}},
    ],
    ids=["joins", "the host's ids", "a clock of its own", "single ids"],
)
def test_no_slot_serves(changes: dict[str, Any]) -> None:
    assert ahead.shape(plan(("mount", PROC), **changes)) is None


def test_a_failure_names_its_step(state: init.Init, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_state: init.Init, **_arguments: Any) -> None:
        raise OSError(errno.ENODEV, "no such device", "eth0")

    monkeypatch.setitem(init.STEPS, "identity", lambda _state, **_arguments: None)
    monkeypatch.setitem(init.STEPS, "network", refuse)
    assert ahead.run([("identity", {}), ("network", {})], state) == ["network", errno.ENODEV, "eth0"]
