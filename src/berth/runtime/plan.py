"""From what is wanted to what is done: a LaunchRequest becomes a plan, flat data that the lean half carries out.

A plan is JSON. `describe` prints it as text, one line per action, which tests compare and `berth-runtime steps` shows.

    id, scratch, base     who, where to work, the host's id of the container's root (0: the host's user namespace)
    namespaces            {"new": clone flags, "join": [[flag, path], ...]}
    time                  text for timens_offsets of a new time namespace, or None without one
    maps                  {"uid", "gid"} texts for uid_map and gid_map, or None
    delegated             whether the container's root may make control groups below its own
    cgroup, limits        the group (see runtime.cgroup), [controller, file, value, whether the file may be missing] to write
    devices               device program for cgroup v2, base64, or ""
    oom_score_adj, links  number or None; network interfaces made from outside
    sources               what has to be opened outside (see runtime.source)
    seccomp               file with the compiled filter, or ""
    steps                 [name, arguments] for init (see runtime.init)
    state                 what later calls need to know: goes into the run state
    terminal              whether there is a pty instead of stdio
"""

from __future__ import annotations

import resource
from binascii import b2a_base64
from errno import EACCES, EISDIR, ENOENT, ENOEXEC, ENOTDIR
from os import strerror

from berth.errors import InvalidArgument
from berth.kernel import capability, namespace
from berth.kernel.bpf import device_program
from berth.kernel.mount import MOUNT_ATTR_NODEV
from berth.runtime import cgroup_layout, cgroup_limits, label, mount_plan, scheduling, seccomp_filter, sysctl
from berth.runtime.launch import SCRATCH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from berth.contract.runtime import ExecRequest, LaunchRequest
    from berth.model.endpoint import NetworkPlan
    from berth.model.oci import Capabilities, Namespace, Process, Resources, Rlimit, Spec

    Plan = dict[str, Any]
    Step = list[Any]

_ALL = (1 << len(capability.NAMES)) - 1
_UNSHARED_LATER = namespace.CLONE_NEWCGROUP | namespace.CLONE_NEWIPC | namespace.CLONE_NEWTIME
_DEATH_SIGNAL = 9


class Compiler:
    """Compiles for this host. `run` is the engine's run directory (compiled filters are kept below it), `store` the
    directory that the launcher was prepared with, `layout` the control groups to use (by default what the host has)."""

    def __init__(self, run: str, store: str, layout: cgroup_layout.Layout | None = None) -> None:
        self._scratch = store + "/" + SCRATCH
        self._filters = seccomp_filter.SeccompCache(run + "/seccomp")
        self.roots, self.v2, self.v2_controllers = (layout or cgroup_layout.layout()).parts()

    def launch(self, request: LaunchRequest, rootfs: str | None = None) -> Plan:
        """The plan of a launch. InvalidArgument for what cannot be. `rootfs` is a plain directory instead of an overlay."""
        spec = request.spec
        resources = spec.linux.resources
        group = self.group(spec.linux.cgroups_path, huge_pages=bool(resources and resources.hugepage_limits))
        limits, devices = self._limits(resources)
        work = mount_plan.Mounts(spec, frozenset(_kinds(spec)), self.roots, self.v2)
        filter_path = self._filters.path(spec.linux.seccomp) if spec.linux.seccomp else ""
        flags = seccomp_filter.flags(spec.linux.seccomp) if spec.linux.seccomp else 0
        work.root(_directory(rootfs, _base(spec)) if rootfs else _rootfs(request))
        before = [["identity", _identity(spec)], *_network(spec, request.network)]
        steps = before + work.compile(request.bind_files, request.io.terminal, request.io.height, request.io.width)
        steps += _names(spec)
        if spec.linux.personality is not None:
            steps.append(["personality", {"value": scheduling.personality(spec.linux.personality)}])
        sets = _sets(spec.process.capabilities)
        if resources is not None and cgroup_limits.device_rules(resources.devices):
            sets = self._keep_from_devices(sets)
        steps += _process(spec.process, request.user, list(request.groups), bool(filter_path), flags, sets, init=request.init)
        return {
            "v": 1,
            "id": request.id,
            "scratch": self._scratch,
            "base": _base(spec),
            "namespaces": _namespaces(spec),
            "time": _time(spec),
            "maps": _maps(spec),
            "cgroup": group,
            "limits": limits,
            "delegated": _delegated(spec),
            "devices": devices,
            "oom_score_adj": spec.process.oom_score_adj,
            **_outside(request.network),
            "sources": work.sources,
            "seccomp": filter_path,
            "steps": steps,
            "state": self._state(request, group, filter_path, flags),
            "terminal": request.io.terminal,
        }

    def with_network(self, plan: Plan, request: LaunchRequest) -> Plan:
        """The plan of the same request without a network, with one."""
        steps = plan["steps"]
        known = _network(request.spec, request.network)
        changed = {**plan, **_outside(request.network)}
        changed["steps"] = [step for old in steps for step in (known if old[0] == "network" else [old])]
        return changed

    def exec(self, request: ExecRequest) -> Plan:
        """The plan of a further process; what it inherits of the container is in the run state."""
        process = request.process
        steps: list[Step] = []
        if request.terminal:
            # after the identity step, which depends on the container (see runtime.enter)
            steps.append(["console", {"height": request.height, "width": request.width}])
        sets = self._keep_from_devices(_sets(process.capabilities))
        if request.privileged:
            sets = {"bounding": _ALL, "effective": _ALL, "permitted": _ALL, "inheritable": 0, "ambient": 0}
        tail = _process(process, request.user, list(request.groups), not request.privileged, 0, sets, make=False)
        return {
            "v": 1,
            "id": request.id,
            "terminal": request.terminal,
            "privileged": request.privileged,
            "inherit_user": not request.user,
            "oom_score_adj": process.oom_score_adj,
            "labels": label.of(process),
            "steps": steps + tail,
        }

    def _keep_from_devices(self, sets: dict[str, int]) -> dict[str, int]:
        """Where no control group holds the list of allowed devices, nobody who is kept to it may make nodes: a container in
        the host's user namespace could open any device."""
        if "devices" in self.roots or self.v2 is not None:
            return sets
        return {name: value & ~(1 << capability.NUMBERS["CAP_MKNOD"]) for name, value in sets.items()}

    def group(self, path: str | None, *, huge_pages: bool = False) -> dict[str, Any]:
        """The control group of a path, on this host. `huge_pages`: with what cgroup2 needs to count them."""
        if not path:
            return {"path": "", "roots": {}, "v2": None, "enabled": []}
        if ".." in path.split("/") or not path.startswith("/"):
            raise InvalidArgument(f"cgroup path {path}: it must be absolute and without ..")
        enabled = self.v2_controllers if huge_pages else cgroup_layout.usual(self.v2_controllers)
        return {"path": path, "roots": self.roots, "v2": self.v2, "enabled": enabled}

    def _limits(self, resources: Resources | None) -> tuple[list[list[Any]], str]:
        if resources is None:
            return [], ""
        limits = cgroup_limits.writes(resources, self.roots, self.v2_controllers)
        rules = cgroup_limits.device_rules(resources.devices)
        if "devices" in self.roots:
            return [list(write) for write in limits + cgroup_limits.device_writes(rules)], ""
        program = b2a_base64(device_program(rules), newline=False).decode() if rules else ""
        return [list(write) for write in limits], program

    def _state(self, request: LaunchRequest, group: dict[str, Any], filter_path: str, flags: int) -> dict[str, Any]:
        spec = request.spec
        name, groups = _user(request.user, list(request.groups), spec.process)
        kinds = [entry.type for entry in spec.linux.namespaces]
        return {
            "v": 1,
            "id": request.id,
            "cgroup": group,
            "base": _base(spec),
            "namespaces": sum(namespace.FLAGS[kind] for kind in dict.fromkeys(kinds)),
            "seccomp": [filter_path, flags],
            "user": [name, groups],
        }


def _directory(path: str, base: int) -> dict[str, Any]:
    return {"kind": "directory", "step": "rootfs", "path": path, "attributes": MOUNT_ATTR_NODEV if base else 0}


def _rootfs(request: LaunchRequest) -> dict[str, Any]:
    rootfs = request.rootfs
    return {
        "kind": "overlay",
        "step": "rootfs",
        "store": rootfs.store,
        "layers": list(rootfs.layers),
        "upper": rootfs.upper,
        "work": rootfs.work,
    }


def _kinds(spec: Spec) -> dict[str, Namespace]:
    found: dict[str, Namespace] = {}
    for entry in spec.linux.namespaces:
        if entry.type not in namespace.FLAGS:
            raise InvalidArgument(f"namespace {entry.type} does not exist")
        found[entry.type] = entry
    return found


def _namespaces(spec: Spec) -> dict[str, Any]:
    new, join = 0, []
    for kind, entry in _kinds(spec).items():
        flag = namespace.FLAGS[kind]
        if entry.path:
            join.append([flag, entry.path])
        elif not flag & _UNSHARED_LATER:
            new |= flag
    # The user namespace first: it gives the power to enter the others.
    join.sort(key=lambda item: item[0] != namespace.CLONE_NEWUSER)
    return {"new": new | namespace.CLONE_NEWNS, "join": join}


def _time(spec: Spec) -> str | None:
    """The joiner makes the time namespace, since only children are in a new one."""
    offsets = spec.linux.time_offsets
    entry = _kinds(spec).get("time")
    if entry is None or entry.path:
        if offsets:
            raise InvalidArgument("timeOffsets need a time namespace of the container's own")
        return None
    unknown = set(offsets) - {"monotonic", "boottime"}
    if unknown:
        raise InvalidArgument(f"timeOffsets: there is no clock {unknown.pop()}, only monotonic and boottime")
    return "".join(f"{clock} {offset.secs} {offset.nanosecs}\n" for clock, offset in offsets.items())


def _identity(spec: Spec) -> dict[str, Any]:
    kinds = _kinds(spec)
    later = sum(namespace.FLAGS[kind] for kind in ("cgroup", "ipc") if kind in kinds and not kinds[kind].path)
    return {"user": "user" in kinds, "unshare": later}


def _delegated(spec: Spec) -> bool:
    """Who sees his own control groups writable may use them; without a user namespace root can anyway."""
    writable = any(entry.type in ("cgroup", "cgroup2") and "ro" not in entry.options for entry in spec.mounts)
    return writable and bool(_base(spec)) and "cgroup" in _kinds(spec)


def _base(spec: Spec) -> int:
    for mapping in spec.linux.uid_mappings:
        if mapping.container_id == 0:
            return mapping.host_id
    return 0


def _maps(spec: Spec) -> dict[str, str] | None:
    entry = _kinds(spec).get("user")
    if entry is None or entry.path:
        return None
    if not all(any(m.container_id == 0 for m in maps) for maps in (spec.linux.uid_mappings, spec.linux.gid_mappings)):
        raise InvalidArgument("a user namespace needs uidMappings and gidMappings that cover id 0 of the container")
    return mount_plan.map_texts(spec.linux.uid_mappings, spec.linux.gid_mappings)


def _outside(network: NetworkPlan | None) -> dict[str, Any]:
    return {"links": _links(network), "network": {"resolver": network.resolver} if network else None}


def _links(network: NetworkPlan | None) -> list[dict[str, Any]]:
    return [
        {
            "kind": endpoint.kind,
            "host_name": endpoint.host_name,
            "parent": endpoint.parent,
            "name": endpoint.name,
            "mac": endpoint.mac,
            "mtu": endpoint.mtu,
            "mode": endpoint.mode,
            "hairpin": endpoint.hairpin,
            "isolated": endpoint.isolated,
        }
        for endpoint in (network.endpoints if network else ())
    ]


def _network(spec: Spec, network: NetworkPlan | None) -> list[Step]:
    entry = _kinds(spec).get("network")
    if entry is None or entry.path:
        return []
    endpoints = network.endpoints if network else ()
    settings = dict(network.sysctls) if network else {}
    for endpoint in endpoints:
        settings.update(endpoint.sysctls)
    return [
        [
            "network",
            {
                "links": [[e.name, e.mac, list(e.addresses), e.mtu] for e in endpoints],
                "routes": [[route.destination, route.gateway, e.name] for e in endpoints for route in e.routes],
                "loopback": True,
                "resolver": bool(network and network.resolver),
                "sysctls": [[sysctl.path(key), value] for key, value in settings.items()],
            },
        ]
    ]


def _names(spec: Spec) -> list[Step]:
    steps: list[Step] = []
    if "uts" not in _kinds(spec):
        # the host's own name is not a container's to set
        return steps
    if spec.hostname:
        steps.append(["hostname", {"name": spec.hostname}])
    if spec.domainname:
        steps.append(["domainname", {"name": spec.domainname}])
    return steps


def _rlimit(limit: Rlimit) -> Step:
    kind = getattr(resource, limit.type, None)
    if not limit.type.startswith("RLIMIT_") or not isinstance(kind, int):
        raise InvalidArgument(f"invalid rlimit type {limit.type}")
    return ["rlimit", {"kind": kind, "name": limit.type, "soft": _limit(limit.soft), "hard": _limit(limit.hard)}]


def _limit(value: int) -> int:
    return resource.RLIM_INFINITY if value < 0 or value >= 1 << 63 else value


def _standing(process: Process) -> list[Step]:
    """How the scheduler and the disk's queue treat the process. Before it takes its user, who may not raise it."""
    steps: list[Step] = []
    if process.scheduler is not None:
        steps.append(["scheduler", scheduling.attributes(process.scheduler)])
    if process.io_priority is not None:
        steps.append(["io-priority", {"value": scheduling.io_priority(process.io_priority)}])
    return steps


def _user(name: str, groups: list[str], process: Process) -> tuple[str, list[str]]:
    user = process.user
    if not name and (user.uid or user.gid or user.additional_gids):
        return f"{user.uid}:{user.gid}", [*map(str, user.additional_gids), *groups]
    return name, groups


def _process(
    process: Process,
    user: str,
    groups: list[str],
    filtered: bool,
    flags: int,
    sets: dict[str, int],
    *,
    make: bool = True,
    init: bool = False,
) -> list[Step]:
    name, more = _user(user, groups, process)
    if not process.args:
        raise InvalidArgument("no command specified")
    if not process.cwd.startswith("/"):
        raise InvalidArgument(f"the working directory '{process.cwd}' is invalid, it needs to be an absolute path")
    steps: list[Step] = [["bound", {"bounding": sets["bounding"]}], *_standing(process)]
    steps += [_rlimit(limit) for limit in process.rlimits]
    umask = process.user.umask
    steps.append(["session", {"umask": 0o022 if umask is None else umask}])
    steps.append(["chdir", {"path": process.cwd, "make": make}])
    steps.append(["user", {"name": name, "groups": more, "environment": process.env}])
    if init:
        steps.append(["reaper", {}])
    if process.no_new_privileges:
        steps.append(["no-new-privileges", {}])
    if filtered:
        steps.append(["seccomp", {"flags": flags}])
    steps.append(["capabilities", {name: mask for name, mask in sets.items() if name != "bounding"}])
    steps.append(["execve", {"args": process.args, "death_signal": _DEATH_SIGNAL, "init": init}])
    return steps


def _sets(caps: Capabilities | None) -> dict[str, int]:
    """The masks by the names of the sets. Without any, no process has a capability."""
    names = ("bounding", "effective", "permitted", "inheritable", "ambient")
    return {name: _mask(getattr(caps, name)) if caps else 0 for name in names}


def _mask(names: list[str]) -> int:
    try:
        return capability.mask(names)
    except KeyError as error:
        raise InvalidArgument(f"unknown capability {error.args[0]}") from None


def describe(plan: Plan) -> str:
    """The plan as text, one action per line, for people and for tests."""
    lines = [f"clone new={plan['namespaces']['new']:#x}"]
    lines += [f"join {flag:#x} {path}" for flag, path in plan["namespaces"]["join"]]
    for kind, text in (plan["maps"] or {}).items():
        lines += [f"map {kind} {line}" for line in text.splitlines()]
    if plan["cgroup"]["path"]:
        lines.append(f"cgroup {plan['cgroup']['path']}")
    lines += [f"limit {name}={value}{' if present' if optional else ''}" for _, name, value, optional in plan["limits"]]
    if plan["devices"]:
        lines.append("device-program")
    if plan["oom_score_adj"] is not None:
        lines.append(f"oom_score_adj {plan['oom_score_adj']}")
    lines += [f"link {_words(link)}" for link in plan["links"]]
    lines += [f"open {index} {_words(source)}" for index, source in enumerate(plan["sources"])]
    lines += [f"{name} {_words(arguments)}".rstrip() for name, arguments in plan["steps"]]
    return "\n".join(lines) + "\n"


def _words(values: dict[str, Any]) -> str:
    return " ".join(f"{key}={_text(key, value)}" for key, value in values.items() if key != "step" and value is not None)


def _text(key: str, value: Any) -> str:
    if key in ("attributes", "clear", "propagation", "bounding", "effective", "permitted", "inheritable", "ambient", "unshare"):
        return f"{value:#x}"
    if isinstance(value, str):
        return value if value and " " not in value else repr(value)
    return str(value).replace(" ", "")


_NOT_LOADED = ", it is not loaded (apparmor_parser -r FILE loads one, aa-status lists them)"
_OCI = "failed to create task for container: OCI runtime create failed: unable to start container process: "


def failure_message(step: str, errno: int, path: str) -> str:
    """A failure in Docker's words: its clients derive exit codes 125, 126 and 127 from them."""
    if step == "runtime":
        return f"failed to create task for container: failed to create shim task: OCI runtime create failed: {path}: unknown"
    if step == "user":
        return path if not errno else f"{_OCI}user {path}: {strerror(errno).lower()}"
    if step == "execve":
        return f'{_OCI}exec: "{path}": {_execution(errno, path)}: unknown'
    if step == "chdir":
        return f'{_OCI}chdir to cwd ("{path}") set in config.json failed: {strerror(errno).lower()}: unknown'
    if step == "apparmor":
        reason = f"{strerror(errno).lower()}{_NOT_LOADED if errno == ENOENT else ''}"
        return f"{_OCI}unable to apply apparmor profile: apparmor failed to apply profile {path}: {reason}: unknown"
    if step == "rlimit":
        return f"{_OCI}error setting rlimits {path}: {strerror(errno).lower()}: raise the engine's own hard limit or ask for less"
    reason = f"{path}: {strerror(errno).lower()}" if errno else path
    if step == "cgroup" and errno == ENOENT:
        reason += (
            ": the control group above is not given this controller, or holds processes, which cgroup2 does not allow with it"
        )
    if step in ("mount", "attach") and errno == ENOTDIR:
        reason += (
            ": Are you trying to mount a directory onto a file (or vice-versa)?"
            " Check if the specified host path exists and is the expected type"
        )
    return f"{_OCI}{step}: {reason}: unknown"


def _execution(errno: int, path: str) -> str:
    if errno == ENOENT and "/" not in path:
        return "executable file not found in $PATH"
    if errno in (ENOENT, ENOTDIR):
        return f"stat {path}: no such file or directory" if errno == ENOENT else "not a directory"
    if errno == EISDIR:
        return "is a directory: permission denied"
    if errno == ENOEXEC:
        return "exec format error"
    return "permission denied" if errno == EACCES else strerror(errno).lower()
