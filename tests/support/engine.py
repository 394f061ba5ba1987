"""An engine for tests: berthd with a data root of its own, and the unmodified docker CLI to drive it."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from berth.client.address import Address
from berth.client.engine import Engine
from berth.engine.config import EngineConfig
from berth.errors import BerthError
from support import leak
from support.zygote import ForkedProcess, Zygote

BIN = Path(sys.executable).parent
# Software emulation is many times slower: what waits for something there waits longer.
SLOW = float(os.environ.get("BERTH_TEST_SLOW", "1"))
READY_SECONDS = 20.0 * SLOW
APPLETS = """
    sh cat echo ls true false sleep id env mount umount ping wget nc ps touch mkdir rm ln stat head tail dd wc grep sed cut tr
    kill test tty stty seq date find chmod chown df free ip nslookup httpd yes mknod su more md5sum sha256sum sync uname printf
    hostname expr basename dirname sort uniq xargs tee timeout mkfifo readlink cp mv unshare chroot awk pwd trap usleep
"""


def busybox_tar() -> bytes:
    """A root filesystem with busybox and the accounts that tests use."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:

        def add(name: str, kind: bytes = tarfile.REGTYPE, mode: int = 0o755, data: bytes = b"", link: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.size, info.linkname = kind, mode, len(data), link
            tar.addfile(info, io.BytesIO(data) if kind == tarfile.REGTYPE else None)

        for folder in ("bin", "etc", "root", "home", "home/worker", "var", "var/spool", "usr", "usr/bin"):
            add(folder, tarfile.DIRTYPE)
        add("tmp", tarfile.DIRTYPE, 0o1777)
        add("bin/busybox", data=Path(shutil.which("busybox") or "/bin/busybox").read_bytes())
        for applet in APPLETS.split():
            add(f"bin/{applet}", tarfile.SYMTYPE, link="busybox")
        add("etc/passwd", mode=0o644, data=b"root:x:0:0:root:/root:/bin/sh\nworker:x:1000:1000::/home/worker:/bin/sh\n")
        add("etc/group", mode=0o644, data=b"root:x:0:\nworker:x:1000:\nextra:x:2000:worker\n")
    return out.getvalue()


class EngineProcess:
    """A running berthd. `docker` runs the docker CLI, `berth` berth's own, `client` speaks to it directly."""

    def __init__(
        self,
        *options: str,
        root: str | None = None,
        environment: dict[str, str] | None = None,
        prefix: tuple[str, ...] = (),
        zygote: Zygote | None = None,
    ) -> None:
        """`prefix` is a command that runs the rest of its arguments in another surrounding. A `zygote` forks the engine."""
        self.directory = tempfile.mkdtemp(prefix="berth-test-")
        self.root = root or f"{self.directory}/root"
        self.socket = f"{self.directory}/berth.sock"
        self.log = f"{self.directory}/berthd.log"
        self.config = EngineConfig(root=self.root, socket=self.socket)
        self._options = options
        self._prefix = prefix
        self._environment = environment or {}
        self._zygote = zygote
        self.process: subprocess.Popen[bytes] | ForkedProcess | None = None

    @property
    def host(self) -> str:
        """For DOCKER_HOST."""
        return f"unix://{self.socket}"

    @property
    def client(self) -> Engine:
        """A client of its own connection."""
        return Engine(Address(path=self.socket))

    def spawn(self) -> None:
        """Start it and do not wait."""
        arguments = ["--root", self.root, "--socket", self.socket, *self._options]
        environment = os.environ | self._environment
        if self._zygote is not None:
            self.process = self._zygote.start(arguments, environment, self.log)
            return
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*self._prefix, str(BIN / "berthd"), *arguments],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, start_new_session=True,
            )  # fmt: skip

    def start(self) -> None:
        """Start and wait until it answers."""
        self.spawn()
        assert self.process is not None
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            try:
                with self.client as client:
                    client.system.ping()
                return
            except BerthError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.01)
        if isinstance(self.process, ForkedProcess):
            self.process.send_signal(signal.SIGUSR1)
            time.sleep(1)
        self.process.kill()
        self.process.wait()
        raise AssertionError(f"berthd did not become ready:\n{self.log_text()}")

    def log_text(self) -> str:
        """What it printed."""
        return Path(self.log).read_text(errors="replace")[-6000:]

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def terminate(self) -> None:
        """SIGTERM: containers go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(15) == 0, self.log_text()

    def shut_down(self) -> None:
        """Stop the engine with its containers and remove everything."""
        if self.process is not None and self.process.poll() is None:
            with self.client as client:
                client.request("POST", "/berth/stop", query={"containers": True}, versioned=False).read()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"berthd did not end:\n{self.log_text()}") from None
        shutil.rmtree(self.directory, ignore_errors=True)

    def environment(self) -> dict[str, str]:
        """For child processes that talk to it."""
        return os.environ | {"DOCKER_HOST": self.host, "DOCKER_CONFIG": f"{self.directory}/docker", "DOCKER_BUILDKIT": "0"}

    def run(
        self, *command: str, input: str | bytes | None = None, timeout: float = 60, cwd: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Any command with DOCKER_HOST set."""
        data = input.encode() if isinstance(input, str) else input
        done = subprocess.run(
            command, input=data, stdin=subprocess.DEVNULL if data is None else None, capture_output=True, timeout=timeout * SLOW,
            env=self.environment(), check=False, cwd=cwd,
        )  # fmt: skip
        return subprocess.CompletedProcess(
            command, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )

    def docker(
        self, *arguments: str, input: str | bytes | None = None, timeout: float = 60, cwd: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The unmodified docker CLI."""
        return self.run("docker", *arguments, input=input, timeout=timeout, cwd=cwd)

    def berth(
        self, *arguments: str, input: str | bytes | None = None, timeout: float = 60, cwd: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """berth's own CLI."""
        return self.run(str(BIN / "berth"), *arguments, input=input, timeout=timeout, cwd=cwd)

    def ok(self, *arguments: str, input: str | bytes | None = None, timeout: float = 60) -> str:
        """The docker CLI's output, without the last line end; fails the test on an error."""
        done = self.docker(*arguments, input=input, timeout=timeout)
        assert done.returncode == 0, f"docker {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout.rstrip("\n")

    def python(self, program: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run a program by the host's interpreter in a container; the interpreter's files are bound read-only."""
        interpreter = os.path.realpath(sys.executable)
        places = {path for path in (sys.base_prefix, "/usr", "/lib", "/lib64") if os.path.isdir(path)}
        binds = [option for path in sorted(places) for option in ("-v", f"{path}:{path}:ro")]
        return self.docker("run", "--rm", *binds, *options, "busybox", interpreter, "-I", "-S", "-c", program)

    def add_busybox(self, name: str = "busybox") -> None:
        """Import the test image."""
        self.ok("import", "-c", 'CMD ["sh"]', "-", name, input=busybox_tar())

    def slots(self) -> set[str]:
        """Ids and pids of the slots that it keeps ready."""
        return leak.slots(self.config.name, f"{self.root}/containers", self.config.pool_size)

    def await_slots(self) -> None:
        """Until the pool is full: so much belongs to an engine at rest. It has heard of a slot when it holds its shim's pidfd."""
        assert self.process is not None
        deadline = time.monotonic() + READY_SECONDS
        while len(self.slots() & leak.pidfds(self.process.pid)) < self.config.pool_size:
            assert time.monotonic() < deadline, f"the pool does not fill:\n{self.log_text()}"
            time.sleep(0.02)

    def network_namespaces(self) -> set[str]:
        """Those that its processes are in, without the slots."""
        return leak.network_namespaces((self.root, self.config.run), self.slots())

    def snapshot(self) -> set[str]:
        """Everything that a test on this engine could leave behind."""
        config = self.config
        slots = self.slots()
        found = (
            leak.mounts()
            | leak.links(config.engine_id)
            | leak.control_groups(config.name)
            | leak.firewall(config.name)
            | leak.processes((self.root, config.run))
            | leak.files(config.shims, f"{self.root}/containers", f"{self.root}/ingest")
            | leak.files(f"{config.run}/oci/runc", f"{config.run}/oci/crun")
        )
        # Rules name no slot; where processes have small numbers, one may look like a part of an address.
        return {entry for entry in found if entry.startswith("nft ") or slots.isdisjoint(entry.replace("/", " ").split(" "))}


@contextmanager
def engine_with(*options: str) -> Iterator[EngineProcess]:
    """An engine with a busybox image, and options of berthd, of which nothing stays."""
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces, mounts and network devices are made")
    engine = EngineProcess(*options)
    with leak.nothing_left(engine.snapshot):
        try:
            engine.start()
            engine.add_busybox()
            yield engine
        finally:
            engine.shut_down()
