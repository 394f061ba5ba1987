"""Which namespaces a container gets, joins, or shares with the host, and whether it has a user namespace of its own.

By default everything is private, with a range of 65,536 host ids. What cannot work inside a user namespace (the host's
network, pid, ipc or uts namespace, --privileged, capabilities that only count on the host) implies the host's user
namespace; each such reason is told as a warning, or refused when the engine was started with userns-fallback=refuse.
"""

from __future__ import annotations

from msgspec import Struct

from berth.engine.containers import capability
from berth.errors import Forbidden, InvalidArgument
from berth.wire.container import HostConfig


class Isolation(Struct, frozen=True, kw_only=True):
    """`joins` maps a namespace type (network, pid, ipc) to the container it is shared with, as the user named it; `host`
    are the types shared with the host. `reasons` say why there is no user namespace; empty means that there is one."""

    joins: dict[str, str]
    host: frozenset[str]
    explicit_host_user: bool
    reasons: tuple[str, ...]

    @property
    def host_user(self) -> bool:
        """Whether the container runs in the host's user namespace."""
        return self.explicit_host_user or bool(self.reasons)

    @property
    def partner(self) -> str | None:
        """The container whose namespaces are joined."""
        return next(iter(self.joins.values()), None)


def _mode(mode: str | None) -> tuple[str, str]:
    """("host", ""), ("container", X) or ("private", "")."""
    text = mode or ""
    if text == "host":
        return "host", ""
    if text.startswith("container:"):
        return "container", text.removeprefix("container:")
    return "private", ""


def decide(host: HostConfig, unmappable_binds: tuple[str, ...] = ()) -> Isolation:
    """From the host configuration. `unmappable_binds` are sources of writable binds that cannot be id-mapped."""
    joins: dict[str, str] = {}
    shared: set[str] = set()
    reasons: list[str] = []
    for kind, mode in (("network", host.network_mode), ("pid", host.pid_mode), ("ipc", host.ipc_mode), ("uts", host.uts_mode)):
        how, partner = _mode(mode)
        if how == "host":
            shared.add(kind)
            reasons.append(f"--{kind} host")
        elif how == "container":
            joins[kind] = partner
    if host.cgroupns_mode == "host":
        shared.add("cgroup")
    if host.privileged:
        reasons.append("--privileged")
    only = capability.host_only(host.cap_add or []) if not host.privileged else ()
    reasons += [f"--cap-add {name}" for name in only]
    reasons += [f"the bind mount of {source}, whose filesystem cannot be id-mapped" for source in unmappable_binds]
    return Isolation(joins=joins, host=frozenset(shared), explicit_host_user=host.userns_mode == "host", reasons=tuple(reasons))


def warnings(isolation: Isolation) -> list[str]:
    """What the create answer says of implied opt-outs."""
    if isolation.explicit_host_user or not isolation.reasons:
        return []
    return [
        f"{' and '.join(isolation.reasons)} cannot work in a user namespace of its own: this container runs in the host's user "
        "namespace, where its root is the host's root. Say --userns=host to accept that without this warning."
    ]


def refuse_fallback(isolation: Isolation) -> None:
    """For userns-fallback=refuse: Forbidden when something implies the host's user namespace."""
    if isolation.reasons and not isolation.explicit_host_user:
        raise Forbidden(
            f"{' and '.join(isolation.reasons)} would need the host's user namespace, which this engine refuses "
            "(userns-fallback=refuse): leave it out, or say --userns=host"
        )


def check_partner(isolation: Isolation, identify: dict[str, str]) -> None:
    """`identify` maps the names in joins to container ids. InvalidArgument for two different containers."""
    if len({identify[name] for name in isolation.joins.values()}) > 1:
        parts = ", ".join(f"--{kind} container:{name}" for kind, name in sorted(isolation.joins.items()))
        raise InvalidArgument(
            f"{parts}: the namespaces of two different containers cannot be joined by one, as they belong to different user "
            "namespaces: join one container, or run all of them with --userns=host"
        )
