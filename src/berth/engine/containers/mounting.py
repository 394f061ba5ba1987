"""What is mounted into a container, as MountRecords: the request's binds, mounts, volumes-from and tmpfs, the image's volumes.

Order of precedence per destination: volumes-from, then -v, then --mount (the same destination twice is an error among the
latter two), then the image's VOLUMEs for what is left. Volumes are made here; bind sources are only looked at.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterable

from berth.contract.image import Images
from berth.contract.volume import Volumes
from berth.engine.containers.record import MountRecord
from berth.engine.containers.validation import check_volume_name
from berth.errors import InvalidArgument
from berth.runtime import mount_options
from berth.wire.container import ContainerConfig, HostConfig
from berth.wire.mount import Mount

_PROPAGATION = frozenset({"private", "rprivate", "shared", "rshared", "slave", "rslave"})
_TMPFS_DATA = frozenset({"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol", "huge"})
_IGNORED_MODES = frozenset({"z", "Z", "cached", "delegated", "consistent"})
# Of each of these a bind has one at most.
_MODES = (frozenset({"ro", "rw"}), frozenset({"z", "Z"}), _PROPAGATION, frozenset({"cached", "delegated", "consistent"}))
MountsOf = Callable[[str], list[MountRecord]]


def clean_destination(path: str) -> str:
    """An absolute path without . and .., never the root itself."""
    if not path.startswith("/"):
        raise InvalidArgument(f"invalid mount path: '{path}' mount path must be absolute")
    clean = posixpath.normpath(path).replace("//", "/")
    if clean == "/":
        raise InvalidArgument("invalid specification: destination can't be '/'")
    return clean


def parse_bind(spec: str) -> MountRecord:
    """source:destination[:modes] of -v. A source that is no absolute path names a volume."""
    parts = spec.split(":")
    if len(parts) == 1 and spec:
        return MountRecord(type="volume", destination=clean_destination(spec), anonymous=True)
    if len(parts) > 3 or not parts[0] or not parts[1]:
        raise InvalidArgument(f"invalid volume specification: '{spec}'")
    source = parts[0]
    try:
        destination = clean_destination(parts[1])
    except InvalidArgument as error:
        kind = "bind" if source.startswith("/") else "volume"
        why = f'invalid mount config for type "{kind}": {error.message}'
        raise InvalidArgument(f"invalid volume specification: '{spec}': {why}") from error
    mode = parts[2] if len(parts) == 3 else ""
    if source.startswith("/"):
        record = MountRecord(type="bind", destination=destination, source=posixpath.normpath(source).replace("//", "/"))
        record.propagation, record.create_source = "rprivate", True
    else:
        check_volume_name(source)
        record = MountRecord(type="volume", destination=destination, name=source)
    record.mode = mode
    _apply_modes(record, mode, spec)
    return record


def _apply_modes(record: MountRecord, mode: str, spec: str) -> None:
    items = mode.split(",")
    if any(sum(item in kind for item in items) > 1 for kind in _MODES):
        raise InvalidArgument(f"invalid mode: {mode} (in '{spec}': one of each kind)")
    for item in filter(None, mode.split(",")):
        if item in ("ro", "rw"):
            record.read_only = item == "ro"
        elif item in _PROPAGATION and record.type == "bind":
            record.propagation = item
        elif item == "nocopy" and record.type == "volume":
            record.options.append("nocopy")
        elif item not in _IGNORED_MODES:
            raise InvalidArgument(f"invalid mode: {mode} (in '{spec}')")


def parse_mount(mount: Mount) -> MountRecord:
    """One --mount."""
    kind = mount.type or ""

    def refuse(why: str) -> InvalidArgument:
        return InvalidArgument(f'invalid mount config for type "{kind}": {why}')

    if not mount.target:
        raise refuse("field Target must not be empty")
    if kind not in ("bind", "volume", "tmpfs", "image"):
        raise refuse("mount type unknown")
    try:
        destination = clean_destination(mount.target)
    except InvalidArgument as error:
        raise refuse(error.message) from error
    record = MountRecord(type=kind, destination=destination, read_only=bool(mount.read_only))
    if kind == "bind":
        _fill_bind(record, mount, refuse)
    elif kind == "volume":
        options = mount.volume_options
        record.name = mount.source or ""
        record.anonymous = not record.name
        record.subpath = (options.subpath if options else None) or ""
        if options is not None and options.no_copy:
            record.options.append("nocopy")
        if record.name:
            check_volume_name(record.name)
    elif kind == "image":
        _fill_image(record, mount, refuse)
    else:
        if mount.source:
            raise refuse("field Source must not be specified")
        record.options = _tmpfs_options(mount)
    return record


def _fill_bind(record: MountRecord, mount: Mount, refuse: Callable[[str], InvalidArgument]) -> None:
    options = mount.bind_options
    if not mount.source:
        raise refuse("field Source must not be empty")
    if not mount.source.startswith("/"):
        raise refuse(f"invalid mount path: '{mount.source}' mount path must be absolute")
    record.source = posixpath.normpath(mount.source).replace("//", "/")
    record.propagation = (options.propagation if options else None) or "rprivate"
    if record.propagation not in _PROPAGATION:
        raise refuse(f"invalid propagation mode: {record.propagation}")
    record.create_source = bool(options and options.create_mountpoint)
    record.recursive = not (options and options.non_recursive)
    record.read_only_recursive = not (options and options.read_only_non_recursive)
    # Read-only is recursive by itself, and a mount that cannot be made so fails: there is nothing to force.
    if (
        options
        and options.read_only_force_recursive
        and not (mount.read_only and record.read_only_recursive and record.recursive)
    ):
        raise refuse("ReadOnlyForceRecursive needs ReadOnly, and neither ReadOnlyNonRecursive nor NonRecursive")
    if not record.create_source and not os.path.exists(record.source):
        raise refuse(f"bind source path does not exist: {record.source}")


def _fill_image(record: MountRecord, mount: Mount, refuse: Callable[[str], InvalidArgument]) -> None:
    if not mount.source:
        raise refuse("field Source must not be empty")
    options = mount.image_options
    record.subpath = (options.subpath if options else None) or ""
    if record.subpath.startswith("/") or ".." in record.subpath.split("/"):
        raise refuse(f"subpath {record.subpath!r} must be a relative path within the image")
    record.name, record.read_only = mount.source, True


def resolve_images(mounts: list[MountRecord], images: Images) -> None:
    """Fill in which images are meant now: a tag that moves later changes nothing for the container. A missing one is no
    NotFound: the docker CLI would pull the container's own image for it."""
    for record in mounts:
        if record.type == "image" and not record.source:
            image = images.find(record.name)
            if image is None:
                raise InvalidArgument(
                    f'invalid mount config for type "image": No such image: {record.name}: pull, load or build it first'
                )
            record.source = image.id


def _tmpfs_options(mount: Mount) -> list[str]:
    options = ["noexec", "nosuid", "nodev"]
    if mount.tmpfs_options is not None:
        if mount.tmpfs_options.mode:
            options.append(f"mode={mount.tmpfs_options.mode:o}")
        if mount.tmpfs_options.size_bytes:
            options.append(f"size={mount.tmpfs_options.size_bytes}")
        options += ["=".join(pair) for pair in mount.tmpfs_options.options or []]
    return options


def tmpfs_record(destination: str, options: str) -> MountRecord:
    """--tmpfs: Docker's noexec,nosuid,nodev unless the options say otherwise."""
    chosen = [o for o in options.split(",") if o]
    unknown = [o for o in chosen if o.partition("=")[0] not in _TMPFS_DATA and o not in mount_options.names()]
    if unknown:
        raise InvalidArgument("invalid tmpfs option [" + " ".join(f'"{option}"' for option in unknown) + "]")
    for option, opposite in (("noexec", "exec"), ("nosuid", "suid"), ("nodev", "dev")):
        if option not in chosen and opposite not in chosen:
            chosen.insert(0, option)
    return MountRecord(type="tmpfs", destination=clean_destination(destination), read_only="ro" in chosen, options=chosen)


def _from_others(entries: Iterable[str], mounts_of: MountsOf) -> dict[str, MountRecord]:
    found: dict[str, MountRecord] = {}
    for entry in entries:
        other, colon, mode = entry.partition(":")
        if colon and mode not in ("ro", "rw", "z", "Z"):
            raise InvalidArgument(f"invalid mode: {mode} (in volumes-from '{entry}')")
        for mount in mounts_of(other):
            if mount.type == "tmpfs":
                continue
            copy = MountRecord(**{f: getattr(mount, f) for f in MountRecord.__struct_fields__})
            copy.read_only, copy.anonymous = mount.read_only or mode == "ro", False
            found[copy.destination] = copy
    return found


def wanted_mounts(config: ContainerConfig, host: HostConfig, mounts_of: MountsOf) -> list[MountRecord]:
    """All mounts of the container, parents first. Volumes are not made yet."""
    found = _from_others(host.volumes_from or [], mounts_of)
    own: dict[str, MountRecord] = {}
    parsed = [parse_bind(b) for b in host.binds or []] + [parse_mount(m) for m in host.mounts or []]
    for record in parsed:
        if record.destination in own:
            raise InvalidArgument(f"Duplicate mount point: {record.destination}")
        own[record.destination] = record
    for destination, options in (host.tmpfs or {}).items():
        record = tmpfs_record(destination, options)
        if record.destination in own:
            raise InvalidArgument(f"Duplicate mount point: {record.destination}")
        own[record.destination] = record
    found |= own
    for destination in config.volumes or {}:
        # `VOLUME data` of a Dockerfile is one below the root.
        clean = clean_destination(f"/{destination.lstrip('/')}")
        if clean not in found:
            found[clean] = MountRecord(type="volume", destination=clean, anonymous=True)
    return sorted(found.values(), key=lambda m: (m.destination.count("/"), m.destination))


def make_volumes(owner: str, mounts: list[MountRecord], host: HostConfig, volumes: Volumes) -> list[str]:
    """Make the volumes that the mounts of the container `owner` name, or that are anonymous, and fill in name and source.
    Returns the names of new anonymous ones, for the case that the create fails later."""
    by_destination = {posixpath.normpath(m.target): m for m in host.mounts or [] if m.target}
    made: list[str] = []
    for record in mounts:
        if record.type != "volume" or record.source:
            continue
        options = getattr(by_destination.get(record.destination), "volume_options", None)
        driver = options.driver_config if options else None
        volume = volumes.create(
            record.name,
            driver=(driver.name if driver else None) or host.volume_driver or "local",
            options=(driver.options if driver else None) or {},
            labels=(options.labels if options else None) or {},
            owner=owner,
        )
        if record.anonymous:
            made.append(volume.name)
        record.name, record.source, record.driver = volume.name, volume.mountpoint, volume.driver
    return made
