"""Every kind of mount and of volume option by its effect inside the container, by the docker CLI."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.engine import SLOW, EngineProcess

_LOOP_SET_FD, _LOOP_CLR_FD, _LOOP_CTL_GET_FREE = 0x4C00, 0x4C01, 0x4C82


@contextmanager
def loop_device(image: Path) -> Iterator[str]:
    """A block device whose content is the file."""
    try:
        with open("/dev/loop-control", "rb") as control:
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
    except OSError as error:
        pytest.skip(f"no loop devices here: {error}")
    path = f"/dev/loop{number}"
    with open(path, "r+b") as device, open(image, "r+b") as file:
        fcntl.ioctl(device, _LOOP_SET_FD, file.fileno())
    try:
        yield path
    finally:
        with open(path, "rb") as device:
            fcntl.ioctl(device, _LOOP_CLR_FD)


def refused(engine: EngineProcess, *arguments: str) -> str:
    done = engine.docker(*arguments)
    assert done.returncode != 0, done.stdout
    return done.stderr


def test_an_image_is_mounted_read_only(engine: EngineProcess, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nRUN mkdir -p /tools/sub && echo one > /tools/sub/f && chown 1000:1000 /tools/sub/f\n"
        "RUN ln -s /tools/sub /link && rm /etc/group\n"
    )
    assert engine.docker("build", "-t", "tools", str(tmp_path), timeout=120).returncode == 0
    mount = "type=image,source=tools,target=/img"
    script = "cat /img/tools/sub/f; stat -c %u /img/tools/sub/f; ls /img/etc; touch /img/x 2>&1 || true"
    out = engine.ok("run", "--rm", "--mount", mount, "busybox", "sh", "-c", script)
    assert out.splitlines() == ["one", "1000", "passwd", "touch: /img/x: Read-only file system"]
    for subpath, listed in (("tools/sub", "f"), ("link", "f"), ("tools/sub/f", "/img")):
        assert engine.ok("run", "--rm", "--mount", f"{mount},image-subpath={subpath}", "busybox", "ls", "/img") == listed
    assert "image-subpath nowhere: no such file or directory" in refused(
        engine, "run", "--rm", "--mount", f"{mount},image-subpath=nowhere", "busybox", "true"
    )
    assert "No such image: nothing" in refused(
        engine, "run", "--rm", "--mount", "type=image,source=nothing,target=/img", "busybox", "true"
    )
    assert "must be a relative path" in refused(
        engine, "run", "--rm", "--mount", f"{mount},image-subpath=../x", "busybox", "true"
    )
    if shutil.which("crun"):
        out = engine.ok("run", "--rm", "--runtime", "crun", "--mount", mount, "busybox", "cat", "/img/tools/sub/f")
        assert out == "one"


def test_an_image_that_is_mounted_is_in_use(engine: EngineProcess) -> None:
    engine.ok("import", "-", "to-mount", input=_tar(b"x"))
    engine.ok("create", "--name", "mounts", "--mount", "type=image,source=to-mount,target=/img", "busybox", "cat", "/img/f")
    point = json.loads(engine.ok("inspect", "mounts"))[0]["Mounts"][0]
    assert (point["Type"], point["Name"], point["Destination"], point["RW"]) == ("image", "to-mount", "/img", False)
    assert "is using its referenced image" in refused(engine, "rmi", "to-mount")
    # Another image takes the name: the container keeps what it was made with.
    engine.ok("import", "-", "to-mount", input=_tar(b"y"))
    assert engine.ok("start", "-a", "mounts") == "x"
    engine.ok("rm", "mounts")
    engine.ok("rmi", "to-mount")
    engine.ok("image", "prune", "-f")


def _tar(content: bytes) -> bytes:
    import io
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("f")
        info.size, info.mode = len(content), 0o644
        tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def test_a_volume_on_a_disk_of_its_own(engine: EngineProcess, tmp_path: Path) -> None:
    if not shutil.which("mkfs.ext4"):
        pytest.skip("mkfs.ext4 is not installed")
    image = tmp_path / "disk"
    with open(image, "wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-E", "root_owner=1000:1000", str(image)], check=True)
    with loop_device(image) as device:
        engine.ok("volume", "create", "-o", "type=ext4", "-o", f"device={device}", "-o", "o=noatime", "disk")
        script = "stat -c '%u %F' /d; echo kept > /d/f; chown 5:6 /d/f; grep ' /d ' /proc/mounts"
        out = engine.ok("run", "--rm", "-v", "disk:/d", "busybox", "sh", "-c", script).splitlines()
        assert out[0] == "1000 directory" and "ext4" in out[1] and "noatime" in out[1] and "nodev" in out[1]
        # Two at once, and read-only in one of them.
        engine.ok("run", "-d", "--name", "holder", "-v", "disk:/d", "busybox", "sleep", "100")
        script = "cat /d/f; stat -c '%u %g' /d/f; touch /d/x 2>&1"
        out = engine.docker("run", "--rm", "-v", "disk:/d:ro", "busybox", "sh", "-c", script).stdout.splitlines()
        assert out == ["kept", "5 6", "touch: /d/x: Read-only file system"]
        engine.ok("rm", "-f", "holder")
        engine.ok("volume", "rm", "disk")
        # The mount goes with the container's namespace, a moment later.
        deadline = time.monotonic() + 10 * SLOW
        while device in Path("/proc/mounts").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
    engine.ok("volume", "create", "-o", "type=ext4", "-o", "device=/dev/no-such-disk", "disk")
    assert "/dev/no-such-disk as ext4" in refused(engine, "run", "--rm", "-v", "disk:/d", "busybox", "true")
    engine.ok("volume", "rm", "disk")


def test_a_volume_of_a_file_server_is_passed_to_the_kernel(engine: EngineProcess) -> None:
    options = ("-o", "type=nfs", "-o", "device=:/share", "-o", "o=addr=127.0.0.1,soft,timeo=1,retrans=1,nolock")
    engine.ok("volume", "create", *options, "nas")
    # Nobody serves files here, or the kernel has no NFS: either way its own word is told, with the share's.
    told = refused(engine, "run", "--rm", "-v", "nas:/n", "busybox", "true")
    assert ":/share as nfs" in told, told
    assert "needs the server's address" in refused(engine, "volume", "create", "-o", "type=nfs", "-o", "device=:/x", "bad")
    engine.ok("volume", "rm", "nas")


def test_volumes_in_memory_and_of_a_directory(engine: EngineProcess, tmp_path: Path) -> None:
    engine.ok("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,uid=1000,mode=700", "memory")
    out = engine.ok("run", "--rm", "-v", "memory:/m", "busybox", "sh", "-c", "stat -c '%u %a' /m; grep ' /m ' /proc/mounts")
    assert out.splitlines()[0] == "1000 700" and "size=1024k" in out
    (tmp_path / "f").write_text("host")
    engine.ok("volume", "create", "-o", "type=none", "-o", f"device={tmp_path}", "-o", "o=bind,ro", "dir")
    script = "cat /v/f; echo; touch /v/x 2>&1"
    out = engine.docker("run", "--rm", "-v", "dir:/v", "busybox", "sh", "-c", script).stdout.splitlines()
    assert out == ["host", "touch: /v/x: Read-only file system"]
    engine.ok("volume", "rm", "memory", "dir")
    assert (tmp_path / "f").exists()


def test_parts_of_volumes(engine: EngineProcess) -> None:
    engine.ok("run", "--rm", "-v", "whole:/w", "busybox", "sh", "-c", "mkdir -p /w/a/b; echo deep > /w/a/b/f")
    mount = "type=volume,source=whole,target=/p,volume-subpath=a/b"
    assert engine.ok("run", "--rm", "--mount", mount, "busybox", "cat", "/p/f") == "deep"
    assert "cannot access path" in refused(engine, "run", "--rm", "--mount", f"{mount}x", "busybox", "true")
    engine.ok("volume", "rm", "whole")


def test_nothing_is_copied_where_that_was_asked_for(engine: EngineProcess) -> None:
    assert engine.ok("run", "--rm", "-v", "filled:/home", "busybox", "ls", "/home") == "worker"
    assert engine.ok("run", "--rm", "-v", "bare:/home:nocopy", "busybox", "ls", "/home") == ""
    engine.ok("volume", "rm", "filled", "bare")


def test_prune_by_label_and_all(engine: EngineProcess) -> None:
    for name, label in (("one", "a=1"), ("two", "a=2"), ("three", "b=1")):
        engine.ok("volume", "create", "--label", label, name)
    assert "one" not in engine.ok("volume", "prune", "-f"), "named ones stay"
    assert "one" in engine.ok("volume", "prune", "-f", "-a", "--filter", "label=a=1")
    assert "three" in engine.ok("volume", "prune", "-f", "--filter", "all=true", "--filter", "label!=a")
    assert engine.ok("volume", "ls", "-q", "--filter", "name=two") == "two"
    engine.ok("volume", "rm", "two")


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host whose mounts travel, with a mount in it."""
    libc = ctypes.CDLL(None, use_errno=True)
    place = tmp_path / "shared"
    (place / "below").mkdir(parents=True)

    def mount(source: str, target: Path, kind: str, flags: int) -> None:
        if libc.mount(source.encode(), str(target).encode(), kind.encode(), ctypes.c_ulong(flags), None):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(target))

    mount(str(place), place, "none", 4096)
    mount("none", place, "none", 1 << 20)
    mount("tmpfs", place / "below", "tmpfs", 0)
    (place / "below" / "f").write_text("below")
    try:
        yield place
    finally:
        for path in (place / "late", place / "below", place):
            libc.umount2(str(path).encode(), 2)


def test_mounts_travel_as_far_as_they_may(engine: EngineProcess, shared: Path) -> None:
    """A mount made on the host while containers run: slaves see it, private ones do not."""
    (shared / "late").mkdir()
    for mode in ("rslave", "rprivate"):
        engine.ok("run", "-d", "--name", mode, "-v", f"{shared}:/s:{mode}", "busybox", "sleep", "100")
    subprocess.run(["mount", "-t", "tmpfs", "late", str(shared / "late")], check=True)
    (shared / "late" / "f").write_text("late")
    assert engine.ok("exec", "rslave", "cat", "/s/late/f") == "late"
    assert engine.ok("exec", "rprivate", "ls", "/s/late") == ""
    told = "propagation=rslave"
    assert told in engine.ok("inspect", "-f", "{{range .Mounts}}propagation={{.Propagation}}{{end}}", "rslave")
    engine.ok("rm", "-f", "rslave", "rprivate")


def test_a_mount_inside_reaches_the_host_only_when_shared(engine: EngineProcess, shared: Path) -> None:
    make = "mkdir -p /s/made; mount -t tmpfs made /s/made && touch /s/made/f"
    engine.ok("run", "--rm", "--privileged", "-v", f"{shared}:/s:rslave", "busybox", "sh", "-c", make)
    assert not (shared / "made" / "f").exists()
    engine.ok("run", "--rm", "--privileged", "-v", f"{shared}:/s:rshared", "busybox", "sh", "-c", make)
    assert (shared / "made" / "f").exists()
    subprocess.run(["umount", str(shared / "made")], check=True)


@pytest.mark.parametrize(
    ("options", "seen", "top", "below"),
    [
        ("readonly", "below", False, False),
        ("readonly,bind-recursive=readonly,bind-propagation=rprivate", "below", False, False),
        ("readonly,bind-recursive=writable", "below", False, True),
        ("bind-recursive=disabled", "", True, True),
        ("bind-recursive=enabled", "below", True, True),
    ],
)
def test_how_deep_a_bind_and_read_only_go(
    engine: EngineProcess, shared: Path, options: str, seen: str, top: bool, below: bool
) -> None:
    mount = f"type=bind,source={shared},target=/s,{options}"
    script = "cat /s/below/f 2>/dev/null && echo; for d in /s /s/below; do touch $d/x 2>/dev/null && echo yes || echo no; done"
    out = engine.ok("run", "--rm", "--mount", mount, "busybox", "sh", "-c", script).split()
    assert out == [*([seen] if seen else []), "yes" if top else "no", "yes" if below else "no"]
