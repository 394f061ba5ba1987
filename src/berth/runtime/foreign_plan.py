"""The plan of a container that another OCI runtime's binary makes: derived from the plan of our own launch.

So both are checked by the same rules, and share control group, links, network, id maps and what is mounted from outside:

    config                config.json for the binary; the user's ids are filled in by `runtime.foreign`
    sources               the root filesystem, then binds and devices, as in a plan of ours; number n is mounted at <bundle>/m<n>
    bundle, record        the engine's bundle directory; the file that says how to have the container removed
    command               the binary (see runtime.binary)
    maps, user_namespace  the maps of a new user namespace, or the path of one that is joined
    network               arguments of init's network step, or None
    cgroup, links, base, scratch, state, id     as in runtime.plan
"""

from __future__ import annotations

import os
import posixpath
import shutil
from typing import TYPE_CHECKING, Any

import msgspec

from berth.contract.runtime import LaunchRequest
from berth.errors import InvalidArgument
from berth.kernel import namespace
from berth.model.oci import Mount, Spec
from berth.runtime import record
from berth.runtime.mount_plan import device_node
from berth.runtime.plan import Compiler

if TYPE_CHECKING:
    from berth.runtime.plan import Plan

BUNDLE = "bundle"
_STATE = "oci"
_UNIFIED = "/sys/fs/cgroup"
_INIT = "/sbin/docker-init"
_INITS = ("docker-init", "tini-static", "tini", "catatonit")
# What every binary in use understands; the specification's later additions are not used here.
_OCI_VERSION = "1.0.2"
_PROPAGATION = frozenset(["private", "slave", "shared", "unbindable", "rprivate", "rslave", "rshared", "runbindable"])


def compile_foreign(request: LaunchRequest, compiler: Compiler, run: str) -> Plan:
    """The plan of a launch by the binary `request.runtime`. InvalidArgument for what cannot be."""
    if request.init:
        request = _with_init(request)
    native = compiler.launch(msgspec.structs.replace(request, init=False))
    command = _command(request.runtime, run, compiler)
    group = _group(native["cgroup"])
    attached = _binds(native, request.spec)
    if native["base"]:
        attached |= _nodes(request.spec)
    places = {target: f"{run}/{BUNDLE}/m{number}" for number, target in enumerate(attached, 1)}
    return {
        "v": 1,
        "id": request.id,
        "scratch": native["scratch"],
        "base": native["base"],
        "maps": native["maps"],
        "user_namespace": dict(native["namespaces"]["join"]).get(namespace.CLONE_NEWUSER, ""),
        "cgroup": group,
        "links": native["links"],
        "network": dict(native["steps"]).get("network"),
        "sources": [native["sources"][0], *attached.values()],
        "config": _config(request.spec, places, "" if compiler.roots else (compiler.v2 or "").removeprefix(_UNIFIED)),
        "command": command,
        "bundle": f"{run}/{BUNDLE}",
        "record": record.command_path(run, request.id),
        "terminal": request.io.terminal,
        "state": {**native["state"], "cgroup": group, "command": command, "scratch": native["scratch"]},
    }


def _command(path: str, run: str, compiler: Compiler) -> dict[str, Any]:
    """crun refuses hosts with control groups of both versions, so there it is not shown the second, which it would not use."""
    name = os.path.basename(path)
    options = ["--root", f"{run}/{_STATE}/{name}"]
    hidden = ""
    if name == "crun":
        options.append("--cgroup-manager=cgroupfs")
        hidden = (compiler.v2 or "") if compiler.roots else ""
    return {"path": path, "options": options, "hidden": hidden}


def _group(group: dict[str, Any]) -> dict[str, Any]:
    """Other runtimes use either kind of control groups: on a host with both, the second version has no processes of theirs."""
    return group if not group["roots"] else {**group, "v2": None, "enabled": []}


def _binds(native: Plan, spec: Spec) -> dict[str, dict[str, Any]]:
    """The sources of bind mounts and images by where they are attached. What shows control groups is for the binary to mount."""
    groups = {entry.destination for entry in spec.mounts if entry.type in ("cgroup", "cgroup2")}
    steps = [arguments for step, arguments in native["steps"] if step == "attach"]
    found = {step["target"]: native["sources"][step["source"]] for step in steps}
    return {
        target: source
        for target, source in found.items()
        if source["kind"] in ("bind", "overlay", "filesystem") and target not in groups
    }


def _nodes(spec: Spec) -> dict[str, dict[str, Any]]:
    """Devices as mounts: in a user namespace, where it cannot make nodes, a binary would take the host's of the same path."""
    return {device.path: {"kind": "node", "step": "device", "node": device_node(device)} for device in spec.linux.devices}


def _config(spec: Spec, places: dict[str, str], subtree: str) -> dict[str, Any]:
    """`subtree` is the part of cgroup2 that was delegated to the engine: the binary counts from the top."""
    document: dict[str, Any] = msgspec.to_builtins(spec)
    document["ociVersion"] = _OCI_VERSION
    document["root"]["path"] = "rootfs"
    if any(device.path in places for device in spec.linux.devices):
        del document["linux"]["devices"]
    if subtree and spec.linux.cgroups_path:
        document["linux"]["cgroupsPath"] = subtree + spec.linux.cgroups_path
    mounts = [_mount(entry, places.get(entry.destination, "")) for entry in spec.mounts]
    named = {entry.destination for entry in spec.mounts}
    files = [Mount(destination=target, type="bind") for target in places if target not in named]
    document["mounts"] = mounts + [_mount(entry, places[entry.destination]) for entry in files]
    return document


def _mount(entry: Mount, place: str) -> dict[str, Any]:
    """A bind is of what was prepared, and has its attributes already."""
    if place:
        wanted = [option for option in entry.options if option in _PROPAGATION] or ["rprivate"]
        entry = Mount(destination=entry.destination, type="bind", source=place, options=["rbind", *wanted])
    document: dict[str, Any] = msgspec.to_builtins(entry)
    return document


def _with_init(request: LaunchRequest) -> LaunchRequest:
    """Process 1 is a program of the host's, as with Docker: the other runtime has none of its own."""
    found = next((path for name in _INITS if (path := shutil.which(name))), None)
    if found is None:
        raise InvalidArgument(f'exec: "{_INITS[0]}": executable file not found in $PATH: install tini, or leave out --init')
    spec = request.spec
    mount = Mount(destination=_INIT, type="bind", source=posixpath.realpath(found), options=["bind", "ro", "rprivate"])
    process = msgspec.structs.replace(spec.process, args=[_INIT, "--", *spec.process.args])
    changed = msgspec.structs.replace(spec, mounts=[*spec.mounts, mount], process=process)
    return msgspec.structs.replace(request, spec=changed)
