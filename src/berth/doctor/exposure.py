"""What containers are given of the host, and what they open to the network. Asks the engine, so it works on Docker's too.

Only running containers count: what is stopped exposes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from berth.doctor.check import Scene, listed, note, ok, problem, warning
from berth.doctor.kernel import has_apparmor, selinux_mode
from berth.engine.containers.isolation import decide
from berth.wire.container import ContainerInspectResponse, HostConfig
from berth.wire.doctor import Finding

_STORES = {
    1433: "SQL Server", 2375: "a Docker engine", 2379: "etcd", 3306: "MySQL", 5432: "PostgreSQL", 5984: "CouchDB", 6379: "Redis",
    8086: "InfluxDB", 9042: "Cassandra", 9200: "Elasticsearch", 11211: "memcached", 27017: "MongoDB",
}  # fmt: skip
_SOCKETS = ("docker.sock", "berth.sock", "containerd.sock", "podman.sock")
_SENSITIVE = ("/boot", "/dev", "/etc", "/lib", "/proc", "/root", "/run", "/sys", "/usr", "/var/lib", "/var/run")
_ROOT_POWERS = {
    "ALL": "everything",
    "BPF": "loads programs into the kernel",
    "DAC_READ_SEARCH": "opens any file by its handle",
    "SYS_ADMIN": "mounts, and much else",
    "SYS_BOOT": "restarts the host",
    "SYS_MODULE": "loads kernel modules",
    "SYS_PTRACE": "looks into other processes",
    "SYS_RAWIO": "talks to the hardware",
}


def _name(container: ContainerInspectResponse) -> str:
    return (container.name or container.id or "?").lstrip("/")


def _running(scene: Scene) -> Iterator[tuple[str, ContainerInspectResponse, HostConfig]]:
    for container in scene.engine.containers if scene.engine else ():
        if container.state is not None and container.state.running:
            yield _name(container), container, container.host_config or HostConfig()


def _is_hosts_root(scene: Scene, container: ContainerInspectResponse, host: HostConfig) -> bool:
    """Whether the container's root is the host's: its id map says so; without one that can be read, its configuration."""
    pid = container.state.pid if container.state else 0
    lines = (scene.host.text(f"/proc/{pid}/uid_map") or "").splitlines() if pid else []
    if lines:
        return any(line.split()[:2] == ["0", "0"] for line in lines)
    return decide(host).host_user


def ports(scene: Scene) -> Iterator[Finding]:
    """Published ports, by the addresses that they are open on."""
    local: list[str] = []
    for name, container, _ in _running(scene):
        network = container.network_settings
        for inside, bindings in sorted(((network.ports if network else None) or {}).items()):
            for binding in bindings or []:
                address, number = binding.host_ip or "0.0.0.0", binding.host_port or "?"
                where = f"{f'[{address}]' if ':' in address else address}:{number}"
                facts = {"container": name, "address": address, "port": number, "container_port": inside}
                if ip_address(address).is_loopback:
                    local.append(f"{where} ({name})")
                    continue
                yield _open_port(name, inside, where, ip_address(address).is_unspecified, facts)
    if local:
        yield ok(f"published for this host alone: {listed(local)}", facts={"ports": local})


def _open_port(name: str, inside: str, where: str, everywhere: bool, facts: dict[str, str]) -> Finding:
    number = inside.partition("/")[0]
    store = _STORES.get(int(number)) if number.isdigit() else None
    change = f"publish it for this host alone: -p 127.0.0.1:{facts['port']}:{number}"
    if store and everywhere:
        return warning(
            f"{name}: {store} ({inside}) is open on all addresses of this host, at {where}",
            why="Whoever reaches this host reaches it; a firewall such as ufw does not stop that. Scanners find it within hours.",
            change=f"{change}; other containers need no published port, only a common network",
            facts=facts,
        )
    addresses = "all addresses of this host" if everywhere else "one address of this host"
    return note(f"{name}: {inside} is open on {addresses}, at {where}", change=change, facts=facts)


def privileged(scene: Scene) -> Iterator[Finding]:
    """--privileged."""
    found = [name for name, _, host in _running(scene) if host.privileged]
    for name in found:
        yield problem(
            f"{name} is privileged",
            why="Its root is root of this host: all capabilities, all devices, no seccomp, no masked files.",
            change="leave --privileged out and give what it needs: --device PATH, --cap-add NAME",
            facts={"container": name},
        )
    if not found and scene.engine:
        yield ok("no running container is privileged")


def user_namespaces(scene: Scene) -> Iterator[Finding]:
    """Containers whose root is the host's."""
    found = [name for name, c, host in _running(scene) if not host.privileged and _is_hosts_root(scene, c, host)]
    if found:
        yield warning(
            f"the root of these containers is the host's root: {listed(found)}",
            why="--userns=host, a namespace of the host or a capability gave them the host's ids: who breaks out is root.",
            change="leave --userns=host, --pid host, --network host and such capabilities out where they are not needed",
            facts={"containers": found},
        )
    elif scene.engine:
        yield ok("every running container has a user namespace of its own")


def namespaces(scene: Scene) -> Iterator[Finding]:
    """Namespaces shared with the host."""
    for name, _, host in _running(scene):
        modes = {
            "network": host.network_mode,
            "pid": host.pid_mode,
            "ipc": host.ipc_mode,
            "uts": host.uts_mode,
        }
        shared = [kind for kind, mode in modes.items() if mode == "host"]
        facts = {"container": name, "shared": shared}
        if "pid" in shared:
            yield warning(
                f"{name} shares the host's {listed(shared)}",
                why="It sees every process of this host, with its command line, and signals those that it may.",
                change="leave --pid host out",
                facts=facts,
            )
        elif shared:
            yield note(
                f"{name} shares the host's {listed(shared)}",
                why="It listens on the host's own addresses and reaches what listens on its 127.0.0.1."
                if "network" in shared
                else "It is less apart from the host than by default.",
                change=f"leave {', '.join(f'--{kind} host' for kind in shared)} out where it is not needed",
                facts=facts,
            )


def mounts(scene: Scene) -> Iterator[Finding]:
    """Engine sockets, / and other parts of the host that are mounted."""
    for name, container, _ in _running(scene):
        for mount in container.mounts or []:
            source = (mount.source or "").rstrip("/") or "/"
            if mount.type != "bind" or not mount.source:
                continue
            facts = {"container": name, "source": source, "destination": mount.destination, "writable": mount.rw}
            if source.rpartition("/")[2] in _SOCKETS or source in ("/run", "/var/run"):
                yield problem(
                    f"{name} has the socket of an engine: {source}",
                    why="Whoever talks to the engine can become root of this host.",
                    change="leave the mount out; some tools only read: put a proxy with few rights between",
                    facts=facts,
                )
            elif source == "/":
                say = problem if mount.rw is not False else warning
                yield say(
                    f"{name} has the whole file system of this host at {mount.destination}",
                    why="Its own isolation still counts, but every file that its user may read is open to it.",
                    change="mount the directories that it needs, read-only where it only reads (:ro)",
                    facts=facts,
                )
            elif (
                mount.rw is not False
                and any(source == place or source.startswith(place + "/") for place in _SENSITIVE)
                and not _is_data(source)
            ):
                yield warning(
                    f"{name} may write to {source}",
                    why="The host itself depends on what is in there.",
                    change=f"mount it read-only: -v {source}:{mount.destination}:ro, or keep the data in a volume",
                    facts=facts,
                )


def _is_data(source: str) -> bool:
    """Directories below the sensitive ones that hold data only."""
    return source.startswith(("/dev/shm", "/var/lib/docker/volumes/", "/etc/localtime", "/run/user/"))


def capabilities(scene: Scene) -> Iterator[Finding]:
    """Capabilities that are as good as root."""
    for name, container, host in _running(scene):
        added = [cap.upper().removeprefix("CAP_") for cap in host.cap_add or []]
        strong = [cap for cap in added if cap in _ROOT_POWERS]
        if not strong or host.privileged:
            continue
        powers = listed(f"{cap} ({_ROOT_POWERS[cap]})" for cap in strong)
        facts = {"container": name, "capabilities": strong}
        change = f"leave --cap-add {' '.join(strong)} out where it is not needed"
        if _is_hosts_root(scene, container, host):
            yield problem(
                f"{name} has capabilities that are as good as root: {powers}",
                why="They count on the host itself.",
                change=change,
                facts=facts,
            )
        else:
            yield note(
                f"{name} has more capabilities than the default: {powers}",
                why="They count inside its own user namespace only.",
                change=change,
                facts=facts,
            )


def confinement(scene: Scene) -> Iterator[Finding]:
    """--security-opt that takes walls away, and devices."""
    for name, _, host in _running(scene):
        off = [option for option in host.security_opt or [] if _takes_a_wall_away(scene, option)]
        if off and not host.privileged:
            yield warning(
                f"{name} runs with {listed(off)}",
                why="That takes a wall away between it and the kernel.",
                change="leave the --security-opt out, or give a profile that allows the one call that it needs",
                facts={"container": name, "options": off},
            )
        devices = [device.path_on_host or "" for device in host.devices or []]
        if devices and not host.privileged:
            yield note(
                f"{name} has devices of this host: {listed(devices)}",
                why="A disk gives every file on it, whoever owns it; others only what they do.",
                facts={"container": name, "devices": devices},
            )


def _takes_a_wall_away(scene: Scene, option: str) -> bool:
    """Where the kernel has no AppArmor or SELinux, leaving it out changes nothing."""
    match option.replace(":", "=", 1).partition("="):
        case ("seccomp" | "systempaths", _, "unconfined"):
            return True
        case ("apparmor", _, "unconfined"):
            return has_apparmor(scene.host)
        case ("label", _, "disable"):
            return selinux_mode(scene.host) != ""
    return False


def limits(scene: Scene) -> Iterator[Finding]:
    """Containers that may use up the host."""
    everyone = list(_running(scene))
    for what, flag, value in (("memory", "--memory", "512m --memory-swap 512m"), ("processes", "--pids-limit", "512")):
        free = [
            name
            for name, _, host in everyone
            if not (host.memory if what == "memory" else (host.pids_limit or 0) > 0 and host.pids_limit)
        ]
        if free:
            yield note(
                f"{len(free)} running containers may use any amount of {what}: {listed(free)}",
                why="One of them can take the host and all others down.",
                change=f"berth update {flag} {value} NAME, and the same flag when it is created",
                facts={"containers": free},
            )
        elif everyone:
            yield ok(f"all running containers have a limit for {what}")
