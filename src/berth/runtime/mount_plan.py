"""The file tree of a plan: mounts, /dev, devices, control groups, masks, sysctls as steps of init and sources to open."""

from __future__ import annotations

import posixpath

from berth.errors import InvalidArgument
from berth.kernel import mount
from berth.model.mount_type import FILESYSTEM_MOUNT, IMAGE_MOUNT
from berth.runtime import label, mount_options, sysctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from berth.model.oci import Device, IdMapping, Mount, Spec

    Step = list[Any]

_DEFAULT_DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
_OWN_NAMES = frozenset(("fd", "stdin", "stdout", "stderr", "ptmx", "core", "pts", "shm", "mqueue", "console"))
_PROC_ALLOWED = frozenset(
    ("cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "sys/kernel/ns_last_pid")
)
_ROOT_PROPAGATION = {"slave": mount.MS_SLAVE, "rslave": mount.MS_SLAVE, "shared": mount.MS_SHARED, "rshared": mount.MS_SHARED}


class Mounts:
    """The steps that build the file tree, and the sources that they attach."""

    def __init__(self, spec: Spec, kinds: frozenset[str], roots: dict[str, str], v2: str | None) -> None:
        self.spec = spec
        self.roots = roots
        self.v2 = v2
        self.sources: list[dict[str, Any]] = []
        self.steps: list[Step] = []
        self.kinds = kinds
        self.own_dev = False

    def root(self, source: dict[str, Any]) -> None:
        self._source(source)

    def _source(self, source: dict[str, Any]) -> int:
        self.sources.append(source)
        return len(self.sources) - 1

    def compile(self, files: tuple[tuple[str, str], ...], terminal: bool, height: int, width: int) -> list[Step]:
        spec = self.spec
        propagation = _ROOT_PROPAGATION.get(spec.linux.rootfs_propagation or "", 0)
        self.steps.append(["root", {"source": 0, "propagation": propagation}])
        for entry in spec.mounts:
            self._mount(entry)
        self._devices()
        for source, target in files:
            self._bind(source, target, mount_options.Options(bind=True), own=True)
        if terminal:
            self.steps.append(["console", {"height": height, "width": width}])
        self.steps += [["mask", {"path": path}] for path in spec.linux.masked_paths]
        self.steps += [["protect", {"path": path}] for path in spec.linux.readonly_paths]
        for name, value in spec.linux.sysctl.items():
            sysctl.check(name, value, self.kinds)
            self.steps.append(["sysctl", {"name": sysctl.path(name), "value": value}])
        self.steps += label.steps(spec.process)
        self.steps.append(["pivot", {"readonly": spec.root.readonly}])
        return self.steps

    def _mount(self, entry: Mount) -> None:
        target = entry.destination
        if not target.startswith("/") or posixpath.normpath(target).strip("/") == "" or "\0" in target:
            raise InvalidArgument(f"invalid mount destination {target!r}: it must be absolute and not the root")
        options = mount_options.parse([] if entry.type == IMAGE_MOUNT else entry.options, target)
        kind = entry.type or ("bind" if options.bind else "")
        _check_proc(target, kind)
        if options.bind or kind == "bind":
            if not entry.source:
                raise InvalidArgument(f"the mount at {target} has no source")
            self._bind(entry.source, target, options, maps=self._maps(entry, options))
        elif kind == FILESYSTEM_MOUNT:
            self._filesystem(entry, options)
        elif kind == IMAGE_MOUNT:
            self._image(entry)
        elif kind == "tmpfs" and target.rstrip("/") == "/dev":
            self._dev(options)
        elif kind in ("cgroup", "cgroup2"):
            self._cgroup(target, options)
        elif kind in ("proc", "sysfs") and not self._owns(kind):
            # Only who owns the network (sysfs) or pid (proc) namespace may mount it anew; the host's own is shown instead.
            options.recursive = True
            options.attributes |= mount.MOUNT_ATTR_RDONLY if kind == "sysfs" else 0
            self._bind("/sys" if kind == "sysfs" else "/proc", target, options)
        else:
            if kind == "devpts":
                options.data = [pair for pair in options.data if pair[0] != "newinstance"]
            arguments = {"target": target, "kind": kind, "name": entry.source or kind, "options": options.data}
            step = "mount-copy" if options.copy_up and kind == "tmpfs" else "mount"
            self.steps.append([step, {**arguments, "attributes": options.attributes}])

    def _image(self, entry: Mount) -> None:
        """Layers of an image, read-only, with the container's ids (see spec.image_mount)."""
        pairs = [option.partition("=") for option in entry.options]
        layers = [value for key, _, value in pairs if key == "layer"]
        subpath = next((value for key, _, value in pairs if key == "subpath"), "")
        source = {"kind": "overlay", "step": "mount", "store": entry.source, "layers": layers, "upper": None, "work": None}
        number = self._source({**source, "subpath": subpath})
        self.steps.append(["attach", {"target": entry.destination, "source": number, "inside_proc": False}])

    def _filesystem(self, entry: Mount, options: mount_options.Options) -> None:
        """One that only the host's root may mount, a network's or a disk's (see engine.volumes)."""
        kind = next(value for key, value in options.data if key == "type")
        data = [pair for pair in options.data if pair[0] not in ("type", "frozen")]
        if ["frozen", None] in options.data:
            # The filesystem itself, not this mount of it alone, which others may have writable.
            data.append(["ro", None])
        source = {"kind": "filesystem", "step": "mount", "type": kind, "device": entry.source, "data": data}
        number = self._source({**source, "attributes": options.attributes | mount.MOUNT_ATTR_NODEV})
        self.steps.append(["attach", {"target": entry.destination, "source": number, "inside_proc": False}])

    def _owns(self, kind: str) -> bool:
        return "user" not in self.kinds or ("network" if kind == "sysfs" else "pid") in self.kinds

    def _maps(self, entry: Mount, options: mount_options.Options) -> dict[str, str] | None:
        """The mount's own map, if it has one."""
        if entry.uid_mappings or entry.gid_mappings:
            options.idmap = options.idmap or "idmap"
            return map_texts(entry.uid_mappings, entry.gid_mappings)
        if options.idmap and not self.spec.linux.uid_mappings:
            raise InvalidArgument(
                f"the mount at {entry.destination} is to be idmapped, but has no mappings, nor has the container"
            )
        return None

    def _bind(
        self, source: str, target: str, options: mount_options.Options, own: bool = False, maps: dict[str, str] | None = None
    ) -> None:
        entry = {
            "kind": "bind",
            "step": "mount",
            "path": source,
            "own": own,
            "recursive": options.recursive,
            "deep": options.deep,
            "attributes": options.attributes,
            "clear": options.clear,
            "propagation": options.propagation,
            "idmap": options.idmap,
            "maps": maps,
        }
        inside = posixpath.normpath(target).startswith("/proc")
        self.steps.append(["attach", {"target": target, "source": self._source(entry), "inside_proc": inside}])

    def _dev(self, options: mount_options.Options) -> None:
        self.own_dev = True
        given = {device.path for device in self.spec.linux.devices}
        nodes = [
            {"name": name, "type": "c", "major": major, "minor": minor, "mode": 0o666, "uid": 0, "gid": 0}
            for name, major, minor in _DEFAULT_DEVICES
            if "/dev/" + name not in given
        ]
        for device in self.spec.linux.devices:
            name = device.path.removeprefix("/dev/")
            if device.path.startswith("/dev/") and name.partition("/")[0] not in _OWN_NAMES:
                nodes.append({"name": _inside(name, device.path), **device_node(device)})
        source = {"kind": "dev", "step": "mount", "options": options.data, "attributes": options.attributes, "nodes": nodes}
        self.steps.append(["attach", {"target": "/dev", "source": self._source(source), "inside_proc": False}])

    def _devices(self) -> None:
        """Nodes outside of a /dev of ours: each a mount of its own, since the root filesystem does not allow devices."""
        for device in self.spec.linux.devices:
            if self.own_dev and device.path.startswith("/dev/"):
                continue
            source = {"kind": "node", "step": "device", "node": device_node(device)}
            self.steps.append(["attach", {"target": device.path, "source": self._source(source), "inside_proc": False}])

    def _cgroup(self, target: str, options: mount_options.Options) -> None:
        if "cgroup" not in self.kinds:
            options.recursive = True
            options.deep = True
            self._bind("/sys/fs/cgroup", target, options)
            return
        places: dict[str, list[str]] = {}
        for controller, where in self.roots.items():
            places.setdefault(where, []).append(controller)
        v1 = [[where.rpartition("/")[2], ",".join(names)] for where, names in places.items()]
        v2 = self.v2
        name = None if v2 is None else ("" if not v1 else v2.rpartition("/")[2])
        arguments = {"target": target, "v1": v1, "v2": name, "attributes": options.attributes}
        self.steps.append(["cgroup", arguments])


def map_texts(uid: list[IdMapping], gid: list[IdMapping]) -> dict[str, str]:
    """For uid_map and gid_map."""
    texts = ["".join(f"{m.container_id} {m.host_id} {m.size}\n" for m in mappings) for mappings in (uid, gid)]
    return {"uid": texts[0], "gid": texts[1]}


def _inside(name: str, path: str) -> str:
    if ".." in name.split("/") or not name or name.startswith("/"):
        raise InvalidArgument(f"invalid device path {path}")
    return name


def device_node(device: Device) -> dict[str, Any]:
    """A device as `runtime.source` makes it. InvalidArgument when it is none."""
    if device.type not in ("c", "b", "u", "p"):
        raise InvalidArgument(f"invalid type {device.type} of device {device.path}")
    return {
        "type": device.type,
        "major": device.major or 0,
        "minor": device.minor or 0,
        "mode": (0o666 if device.file_mode is None else device.file_mode) & 0o7777,
        "uid": device.uid or 0,
        "gid": device.gid or 0,
    }


def _check_proc(target: str, kind: str) -> None:
    """Nothing but a procfs may be at /proc: later writes there would go where the mount leads (CVE-2019-19921)."""
    parts = [part for part in posixpath.normpath(target).split("/") if part]
    if parts[:1] != ["proc"] or (len(parts) == 1 and kind == "proc"):
        return
    inside = "/".join(parts[1:])
    if inside not in _PROC_ALLOWED and not inside.startswith("net/dev"):
        raise InvalidArgument(f'"{target}" cannot be mounted because it is inside /proc')
