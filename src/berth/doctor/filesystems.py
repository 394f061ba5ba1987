"""Where the data root is: kind of file system, room, permissions."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from berth.doctor.check import Scene, note, ok, problem, warning
from berth.engine.system import FILESYSTEMS
from berth.model.units import human_binary_size
from berth.storage.mounted import Mounted, find_mounted
from berth.wire.doctor import Finding

_GIB = 1 << 30
_UNFIT = {
    "overlayfs": "an overlay cannot lie on another overlay",
    "nfs": "overlays cannot write to NFS",
    "cifs": "overlays cannot write to a share of Windows",
    "fuseblk": "overlays cannot write to FUSE",
    "fuse": "overlays cannot write to FUSE",
    "vfat": "it has no owners and no links",
    "zfs": "overlays on ZFS need OpenZFS 2.2 or newer",
}


def _place(scene: Scene) -> str:
    """The data root, or the directory that is to hold it."""
    path = scene.root
    while path != "/" and scene.host.status(path) is None:
        path = os.path.dirname(path)
    return path


def _mounted(scene: Scene, path: str) -> Mounted:
    return find_mounted(scene.host.text("/proc/self/mountinfo") or "", path)


def kind(scene: Scene) -> Iterator[Finding]:
    """Whether layers and containers can live there."""
    place = _place(scene)
    mounted = _mounted(scene, place)
    type_ = mounted.kind or FILESYSTEMS.get(scene.probes.filesystem(scene.host.path(place)), "an unknown file system")
    facts = {"directory": place, "mount_point": mounted.where, "type": type_, "options": list(mounted.options)}
    if type_ in _UNFIT:
        yield problem(
            f"{scene.root} is on {type_}: {_UNFIT[type_]}",
            why="Images and containers are overlays of directories there.",
            change="put the data root on ext4, xfs or btrfs: berthd --root DIR",
            facts=facts,
        )
    elif type_ == "tmpfs":
        yield warning(
            f"{scene.root} is in memory (tmpfs)",
            why="Images, containers and volumes are gone after a reboot, and use the memory that containers need.",
            change="put the data root on a disk: berthd --root DIR",
            facts=facts,
        )
    elif type_ == "xfs" and "ftype=0" in mounted.options:
        yield problem(
            f"{scene.root} is on an xfs without file types in its directories (ftype=0)",
            why="Overlays need them.",
            change="make the file system anew: mkfs.xfs -n ftype=1",
            facts=facts,
        )
    else:
        yield ok(f"{scene.root} is on {type_} ({mounted.where or place})", facts=facts)


def durability(scene: Scene) -> Iterator[Finding]:
    """What a power cut does to the file system."""
    mounted = _mounted(scene, _place(scene))
    journals = scene.host.names("/proc/fs/jbd2")
    facts = {"mount_point": mounted.where, "type": mounted.kind, "source": mounted.source}
    if mounted.kind == "ext4" and not any(name.startswith(os.path.basename(mounted.source) + "-") for name in journals):
        yield note(
            f"the file system at {mounted.where} has no journal",
            why="After a power cut it needs fsck, and directories that were written last may be damaged.",
            change=f"tune2fs -O has_journal {mounted.source}, while it is not mounted",
            facts=facts,
        )
    elif {"nobarrier", "barrier=0"} & set(mounted.options):
        yield warning(
            f"the file system at {mounted.where} is mounted without barriers",
            why="A power cut can undo what berth has reported as stored.",
            change=f"mount -o remount,barrier=1 {mounted.where}",
            facts=facts,
        )
    else:
        yield ok(f"the file system at {mounted.where} survives a power cut in order", facts=facts)


def space(scene: Scene) -> Iterator[Finding]:
    """Bytes that are left."""
    place = _place(scene)
    found = scene.host.space(place)
    if found is None:
        return
    free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    facts = {"free_bytes": free, "total_bytes": total}
    words = f"{human_binary_size(free)} of {human_binary_size(total)} are free for {scene.root}"
    if free < _GIB // 4:
        yield problem(
            f"only {words}",
            why="Pulls, builds and containers fail with `no space left on device`.",
            change="berth system prune, or make room otherwise",
            facts=facts,
        )
    elif free < 2 * _GIB or free < total * 0.05:
        yield warning(
            f"only {words}",
            why="One larger image fills it.",
            change="berth system prune (berth system df shows what uses it)",
            facts=facts,
        )
    else:
        yield ok(words, facts=facts)


def inodes(scene: Scene) -> Iterator[Finding]:
    """Files that can still be made."""
    found = scene.host.space(_place(scene))
    if found is None or not found.f_files:
        yield ok("the file system makes inodes as they are needed")
        return
    facts = {"free": found.f_favail, "total": found.f_files}
    words = f"{found.f_favail} of {found.f_files} inodes are free for {scene.root}"
    if found.f_favail < 5_000:
        yield problem(
            f"only {words}",
            why="No file can be made any more soon, though bytes are free: unpacking an image needs thousands.",
            change="berth system prune, or a file system with more inodes (mkfs.ext4 -i 8192)",
            facts=facts,
        )
    elif found.f_favail < 100_000 or found.f_favail < found.f_files * 0.05:
        yield warning(f"only {words}", why="A larger image has 50,000 files.", change="berth system prune", facts=facts)
    else:
        yield ok(words, facts=facts)


def permissions(scene: Scene) -> Iterator[Finding]:
    """Nobody but root walks through the data root."""
    found = scene.host.status(scene.root)
    if found is None:
        yield note(f"{scene.root} is not there yet: the engine makes it when it first starts")
        return
    mode = stat.S_IMODE(found.st_mode)
    facts = {"mode": f"{mode:04o}", "owner": found.st_uid}
    if found.st_uid != 0 or mode & 0o077:
        yield problem(
            f"{scene.root} is open to others: mode {mode:04o}, owner {scene.host.user(found.st_uid)}",
            why="Images hold programs with the set-user-id bit: any user of this host could run them and become root.",
            change=f"chown root:root {scene.root} && chmod 0700 {scene.root}",
            facts=facts,
        )
    else:
        yield ok(f"{scene.root} is closed to everybody but root", facts=facts)


def own_filesystem(scene: Scene) -> Iterator[Finding]:
    """Whether containers that write without end fill the host's disk."""
    mounted = _mounted(scene, _place(scene))
    facts = {"mount_point": mounted.where}
    if mounted.where in ("/", "/var"):
        yield note(
            f"containers and the host share the file system at {mounted.where}",
            why="What a container without a size writes is not limited, so it can fill the disk that the host itself needs.",
            change=f"mount a file system of its own at {scene.root}",
            facts=facts,
        )
    else:
        yield ok(f"the data root is on a file system of its own ({mounted.where})", facts=facts)


def quotas(scene: Scene) -> Iterator[Finding]:
    """Whether containers and volumes can be given a size."""
    place = _place(scene)
    scene.need_root("whether the data root's file system has project quotas")
    missing = scene.probes.sizes(scene.host.path(place))
    facts = {"possible": missing is None}
    if missing is None:
        yield ok("containers and volumes can have a size of their own (docker run --storage-opt size=10g)", facts=facts)
    else:
        yield note(
            f"containers and volumes cannot have a size: {missing.what}",
            why="`docker run --storage-opt size=` and `docker volume create -o size=` are refused.",
            change=missing.change,
            facts=facts,
        )
