"""What networks need of the host, and who else has a hand in its traffic."""

from __future__ import annotations

from collections.abc import Iterator

from berth.doctor.check import Scene, listed, note, ok, problem, warning
from berth.errors import BerthError, Unavailable
from berth.network.host import RESOLV_CONF, UPSTREAM_FILES, is_loopback, read_resolv_conf
from berth.wire.doctor import Finding

_DEVICES = {
    "bridge": "the default network and those that are created",
    "veth": "what connects a container with its network",
    "macvlan": "networks of driver macvlan",
    "ipvlan": "networks of driver ipvlan",
}
_NEEDED = ("bridge", "veth")
_PROGRAMS = {"firewalld": "firewalld", "dockerd": "Docker"}


def devices(scene: Scene) -> Iterator[Finding]:
    """Kinds of network devices, each made once in a namespace that is thrown away."""
    scene.need_root("which network devices can be made")
    refused = {kind: said for kind in _DEVICES if (said := scene.probes.device(kind))}
    works = [kind for kind in _DEVICES if kind not in refused]
    if works:
        yield ok(f"these network devices can be made: {', '.join(works)}", facts={"works": works})
    for kind, said in refused.items():
        say = problem if kind in _NEEDED else note
        yield say(
            f"the kernel makes no {kind} device ({said})",
            why=f"It is needed for {_DEVICES[kind]}.",
            change=f"modprobe {kind} (where the kernel has it as a module)",
            facts={"kind": kind, "refused": said},
        )


def firewall(scene: Scene) -> Iterator[Finding]:
    """Whether nf_tables works, and whether somebody else's rules stop what containers send."""
    scene.need_root("firewall rules")
    try:
        blocking = scene.probes.blocking_chains()
    except Unavailable as error:
        yield problem(
            error.message, why="Networks and published ports are made of its rules.", change="apt-get install libnftables1"
        )
        return
    except BerthError as error:
        yield problem(
            f"nf_tables does not work: {error.message}",
            why="Networks and published ports are made of its rules.",
            change="modprobe nf_tables, or use a kernel with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET",
        )
        return
    yield ok("nf_tables works: each engine has a table of its own")
    if blocking:
        yield note(
            f"another firewall drops what is forwarded: {listed(blocking)}",
            why="The engine puts rules for its own bridges in there, and again whenever that firewall reloads.",
            facts={"chains": blocking},
        )


def other_firewalls(scene: Scene) -> Iterator[Finding]:
    """ufw, firewalld, Docker: published ports do not ask them."""
    host = scene.host
    running = host.programs()
    found = [name for program, name in _PROGRAMS.items() if program in running]
    if "ENABLED=yes" in (host.text("/etc/ufw/ufw.conf") or "").splitlines():
        found.append("ufw")
    guards = [name for name in found if name in ("ufw", "firewalld")]
    guards += [] if guards else _own_rules(scene)
    if guards:
        yield warning(
            f"{' and '.join(guards)} is active, and published ports are open in spite of it",
            why="As with Docker, they are translated before its rules are asked: a port that it shows as closed is reachable "
            "(not if the engine was started with --respect-host-firewall).",
            change="start the engine with berthd --respect-host-firewall: its rules decide then, and containers see the host as "
            "their client; or publish on one address only, such as -p 127.0.0.1:8080:80, or all that name none by "
            "berthd --publish-address 127.0.0.1",
            facts={"found": found},
        )
    if "Docker" in found:
        yield note(
            "Docker's engine runs on this host too",
            why="Both work side by side: their networks, images and containers are separate.",
            facts={"found": found},
        )
    if not found:
        yield ok("no ufw, firewalld or Docker works on this host", facts={"found": found})


def _own_rules(scene: Scene) -> list[str]:
    """A firewall of plain nftables or iptables rules that closes this host, where we may look."""
    if not scene.host.is_root():
        return []
    try:
        chains = scene.probes.guarding_chains()
    except BerthError:
        return []
    return [f"a firewall that drops what comes in ({listed(chains)})"] if chains else []


def forwarding(scene: Scene) -> Iterator[Finding]:
    """IP forwarding, which the engine switches on."""
    host = scene.host
    v4 = host.number("/proc/sys/net/ipv4/ip_forward")
    v6 = host.number("/proc/sys/net/ipv6/conf/all/forwarding")
    facts = {"ipv4": v4, "ipv6": v6}
    if v4 == 1:
        yield ok(
            f"IPv4 forwarding is on{'' if v6 else '; IPv6 forwarding is off until a network with IPv6 is made'}", facts=facts
        )
    elif scene.engine is not None:
        yield problem(
            "IPv4 forwarding is off though the engine runs: somebody has switched it off since",
            why="Containers reach nothing beyond this host, and published ports are not reached from outside.",
            change="sysctl -w net.ipv4.ip_forward=1, and take net.ipv4.ip_forward=0 out of /etc/sysctl.conf and /etc/sysctl.d/",
            facts=facts,
        )
    else:
        yield note("IPv4 forwarding is off; the engine switches it on when it starts", facts=facts)


def bridge_filter(scene: Scene) -> Iterator[Finding]:
    """bridge-nf-call-iptables."""
    value = scene.host.number("/proc/sys/net/bridge/bridge-nf-call-iptables")
    facts = {"bridge_nf_call_iptables": value}
    if value == 1:
        yield note(
            "traffic inside one bridge passes the host's IP firewall too (bridge-nf-call-iptables=1)",
            why="A firewall that drops what is forwarded cuts containers of one network off from each other, too.",
            change="sysctl -w net.bridge.bridge-nf-call-iptables=0, unless Kubernetes runs here",
            facts=facts,
        )
    else:
        yield ok("traffic inside one bridge does not pass the host's IP firewall", facts=facts)


def resolvers(scene: Scene) -> Iterator[Finding]:
    """Name servers that containers can reach."""
    files = [scene.host.path(path) for path in (RESOLV_CONF, *UPSTREAM_FILES)]
    every = [server for path in files for server in read_resolv_conf(path)[0]]
    servers = list(dict.fromkeys(server for server in every if not is_loopback(server)))
    facts = {"servers": servers}
    if servers:
        yield ok(f"containers ask the name servers {listed(servers)}", facts=facts)
    elif every:
        yield warning(
            f"the host's only name servers are on its loopback: {listed(dict.fromkeys(every))}",
            why="Containers cannot reach them, so only names of containers resolve inside.",
            change="put a name server that the network reaches into /etc/resolv.conf, or give one to containers: --dns ADDRESS",
            facts=facts,
        )
    else:
        yield warning(
            "the host has no name server",
            why="Names of other hosts do not resolve in containers.",
            change="put one into /etc/resolv.conf (nameserver ADDRESS), or give one to containers: --dns ADDRESS",
            facts=facts,
        )


def tracking(scene: Scene) -> Iterator[Finding]:
    """The connection table and the neighbour table."""
    host = scene.host
    count, most = (host.number(f"/proc/sys/net/netfilter/nf_conntrack_{name}") for name in ("count", "max"))
    if count is not None and most:
        facts = {"connections": count, "limit": most}
        if count > most * 0.8:
            yield warning(
                f"the table of connections is nearly full: {count} of {most}",
                why="New connections to and from containers are dropped when it is.",
                change=f"sysctl -w net.netfilter.nf_conntrack_max={most * 2}",
                facts=facts,
            )
        else:
            yield ok(f"connections are tracked: {count} of {most}", facts=facts)
    neighbours = host.number("/proc/sys/net/ipv4/neigh/default/gc_thresh3")
    if neighbours is not None and neighbours < 2048:
        yield note(
            f"the host remembers at most {neighbours} neighbours",
            why="With about as many containers, connections to them begin to fail (`neighbour table overflow` in dmesg).",
            change="sysctl -w net.ipv4.neigh.default.gc_thresh3=8192",
            facts={"gc_thresh3": neighbours},
        )
