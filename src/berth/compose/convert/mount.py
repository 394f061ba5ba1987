"""A service's mounts as the API wants them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from berth.compose.model import FileReference, FileSource, Project, Service, ServiceMount
from berth.compose.problem import ComposeInvalid
from berth.wire.mount import (
    Mount,
    MountBindOptions,
    MountImageOptions,
    MountTmpfsOptions,
    MountVolumeOptions,
    MountVolumeOptionsDriverConfig,
)


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that is copied into a container before it starts."""

    path: str
    content: bytes
    mode: int = 0o444
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class Mounts:
    """`binds` for what the engine may create on the host or has to label, `mounts` for the rest, `uploads` for content."""

    binds: tuple[str, ...]
    mounts: tuple[Mount, ...]
    uploads: tuple[Upload, ...]


def convert_mounts(project: Project, service: Service, inherited: Mapping[str, str]) -> Mounts:
    """`inherited` maps targets to the anonymous volumes of the container that this one replaces."""
    binds: list[str] = []
    mounts: list[Mount] = []
    declared = {mount.target for mount in service.volumes}
    for mount in service.volumes:
        if mount.type == "bind" and (mount.bind is None or mount.bind.create_host_path or mount.bind.selinux):
            binds.append(_bind(mount))
        else:
            mounts.append(_mount(project, mount, inherited))
    for target, name in inherited.items():
        if target not in declared:
            mounts.append(Mount(type="volume", source=name, target=target))
    uploads: list[Upload] = []
    for folder, references, sources in (
        ("/run/secrets/", service.secrets, project.secrets),
        ("/", service.configs, project.configs),
    ):
        for reference in references:
            _place(reference, sources[reference.source], folder, project, mounts, uploads)
    return Mounts(tuple(binds), tuple(mounts), tuple(uploads))


def _bind(mount: ServiceMount) -> str:
    options = ["ro" if mount.read_only else "rw"]
    if mount.bind is not None:
        options += [option for option in (mount.bind.selinux, mount.bind.propagation) if option]
    return f"{mount.source}:{mount.target}:{','.join(options)}"


def _mount(project: Project, mount: ServiceMount, inherited: Mapping[str, str]) -> Mount:
    result = Mount(
        type=mount.type,
        target=mount.target,
        source=mount.source,
        read_only=mount.read_only or None,
        consistency=mount.consistency,
    )
    if mount.type == "bind" and mount.bind is not None:
        result.bind_options = MountBindOptions(
            propagation=mount.bind.propagation,
            non_recursive=True if mount.bind.recursive == "disabled" else None,
            read_only_non_recursive=True if mount.bind.recursive == "writable" else None,
            read_only_force_recursive=True if mount.bind.recursive == "readonly" else None,
        )
    elif mount.type == "volume":
        _volume(project, mount, inherited, result)
    elif mount.type == "tmpfs" and mount.tmpfs is not None:
        result.tmpfs_options = MountTmpfsOptions(size_bytes=mount.tmpfs.size or None, mode=mount.tmpfs.mode or None)
    elif mount.type == "image" and mount.image is not None:
        result.image_options = MountImageOptions(subpath=mount.image.subpath)
    return result


def _volume(project: Project, mount: ServiceMount, inherited: Mapping[str, str], result: Mount) -> None:
    if mount.source is None:
        result.source = inherited.get(mount.target)
    else:
        volume = project.volumes[mount.source]
        result.source = volume.name
        if volume.driver:
            config = MountVolumeOptionsDriverConfig(name=volume.driver, options=dict(volume.driver_opts) or None)
            result.volume_options = MountVolumeOptions(driver_config=config)
    if mount.volume is not None:
        options = result.volume_options or MountVolumeOptions()
        options.no_copy = mount.volume.nocopy or None
        options.subpath = mount.volume.subpath
        options.labels = dict(mount.volume.labels) or None
        result.volume_options = options


def _place(
    reference: FileReference, source: FileSource, folder: str, project: Project, mounts: list[Mount], uploads: list[Upload]
) -> None:
    target = reference.target or reference.source
    if not target.startswith("/"):
        target = folder + target
    plain = reference.mode is None and reference.uid is None and reference.gid is None
    if source.file is not None and plain:
        mounts.append(Mount(type="bind", source=source.file, target=target, read_only=True))
        return
    mode = reference.mode if reference.mode is not None else 0o444
    uploads.append(Upload(target, file_content(source, project), mode, _number(reference.uid), _number(reference.gid)))


def _number(value: str | None) -> int:
    if value is None:
        return 0
    if not value.isdigit():
        raise ComposeInvalid(f"uid and gid of secrets and configs are numbers, not {value!r}")
    return int(value)


def file_content(source: FileSource, project: Project) -> bytes:
    """The content of a secret or config. Raises ComposeInvalid when it is not there."""
    if source.content is not None:
        return source.content.encode()
    if source.environment is not None:
        value = project.environment.get(source.environment)
        if value is None:
            raise ComposeInvalid(f"environment variable {source.environment!r} required by {source.name!r} is not set")
        return value.encode()
    if source.file is not None:
        try:
            with open(source.file, "rb") as file:
                return file.read()
        except OSError as error:
            raise ComposeInvalid(f"cannot read {source.file} for {source.name!r}: {error.strerror}") from error
    raise ComposeInvalid(f"{source.name!r} has no content: give it one of file, environment and content")
