"""One OCI bundle for three runtimes, and running it with each of them.

The configuration is the one that berth's engine makes for a default container of `docker run busybox true`: user namespace,
seccomp profile, 14 capabilities, masks, devices, and a limit for memory and processes. The root filesystem is a plain directory,
and nobody gives the network namespace an interface: so the runtimes do less here than berth's engine does for each container.
"""

from __future__ import annotations

import glob
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import msgspec

from bench.engine import busybox
from berth.engine.containers import capability
from berth.engine.containers.isolation import decide
from berth.engine.containers.seccomp import filter_for
from berth.engine.containers.security import parse_security_options
from berth.engine.containers.spec import Surroundings, compile_spec
from berth.kernel.mount import make_private, umount2
from berth.kernel.namespace import CLONE_NEWNS, setns, unshare
from berth.model.oci import IdMapping
from berth.wire.container import ContainerConfig, HostConfig

BASE = 700_000_000
_UNIFIED = "/sys/fs/cgroup/unified"
_MOUNT_POINTS = ("dev", "proc", "sys", "etc", "tmp")


class Bundle:
    """A bundle in a directory of its own."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._count = 0
        root = f"{directory}/rootfs"
        with tarfile.open(fileobj=io.BytesIO(busybox())) as tar:
            tar.extractall(root)
        for name in _MOUNT_POINTS:
            os.makedirs(f"{root}/{name}", exist_ok=True)
        for path in (root, *(str(found) for found in Path(root).rglob("*"))):
            os.chown(path, BASE, BASE, follow_symlinks=False)
        os.chmod(directory, 0o711)
        Path(f"{directory}/config.json").write_bytes(self._config())

    def _config(self) -> bytes:
        host = HostConfig(memory=512 << 20, pids_limit=512)
        options = parse_security_options([], privileged=False)
        names = capability.effective([], [], privileged=False, host_user=False)
        around = Surroundings(
            hostname="bench",
            cgroups_path="/berth-bench/bundle",
            id_map=[IdMapping(container_id=0, host_id=BASE, size=65_536)],
            mounts=[],
            seccomp=filter_for(options, names),
        )
        spec = compile_spec(ContainerConfig(cmd=["true"]), host, decide(host), options, around)
        document = json.loads(msgspec.json.encode(spec))
        # Debian's crun knows this version of the specification at most.
        document["ociVersion"] = "1.0.2"
        return json.dumps(document).encode()

    def run(self, runtime: tuple[str, ...], view: CrunView | None = None) -> float:
        """Seconds from the shell's point of view: start of the runtime's process to its end."""
        self._count += 1
        command = [*runtime, "run", "--bundle", self.directory, f"bench-{os.getpid()}-{self._count}"]
        with view.entered() if view else nullcontext():
            begun = time.perf_counter()
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
            spent = time.perf_counter() - begun
        if done.returncode:
            raise SystemExit(f"bench: {' '.join(command)}: exit {done.returncode}: {done.stderr.decode(errors='replace')}")
        return spent


class CrunView:
    """A mount namespace in which a hybrid host looks like one with version 1 only: Debian's crun refuses others."""

    def __init__(self) -> None:
        self._home = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self._there = self._make()

    @staticmethod
    def _make() -> int:
        ready, go = os.pipe()
        end, leave = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(leave)
                unshare(CLONE_NEWNS)
                make_private()
                if os.path.ismount(_UNIFIED):
                    umount2(_UNIFIED)
                os.write(go, b"1")
                os.read(end, 1)
            finally:
                os._exit(0)
        os.close(go)
        os.read(ready, 1)
        fd = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        for each in (ready, end, leave):
            os.close(each)
        os.waitpid(pid, 0)
        return fd

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Inside. The calling process must have one thread."""
        setns(self._there, CLONE_NEWNS)
        try:
            yield
        finally:
            setns(self._home, CLONE_NEWNS)

    def __enter__(self) -> CrunView:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._there)
        os.close(self._home)


def runtimes(state: str) -> dict[str, tuple[str, ...]]:
    """The command lines of those that are installed, by name."""
    script = Path(sys.executable).parent / "berth-runtime"
    found: dict[str, tuple[str, ...]] = {"berth-runtime": (str(script), "--root", f"{state}/berth-runtime")}
    if shutil.which("runc"):
        found["runc"] = ("runc", "--root", f"{state}/runc")
    if shutil.which("crun"):
        found["crun"] = ("crun", "--cgroup-manager", "disabled", "--root", f"{state}/crun")
        found["crun-cgroups"] = ("crun", "--root", f"{state}/crun")
    return found


def remove_groups() -> None:
    """The control groups that runtimes leave above the containers' own."""
    for directory in glob.glob("/sys/fs/cgroup/berth-bench") + glob.glob("/sys/fs/cgroup/*/berth-bench"):
        for below in (*glob.glob(f"{directory}/*/"), directory):
            try:
                os.rmdir(below)
            except OSError:
                pass
