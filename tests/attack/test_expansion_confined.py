"""SECURITY row 22: what decompresses foreign bytes has no rights, no files and no way out, and cannot fill or hang the engine."""

from __future__ import annotations

import ast
import asyncio
import bz2
import gzip
import hashlib
import json
import lzma
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from backports import zstd

import berth
from berth.errors import DataLoss, InvalidArgument, ResourceExhausted, Unavailable
from berth.storage import expansion
from berth.storage.expander import Expander
from berth.storage.workers import Workers
from support.engine import EngineProcess
from support.spawning import Spawner, opened_trees
from support.stores import archive, stream

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="confining a process takes root")

FORMATS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress, "zstd": zstd.compress, "bzip2": bz2.compress, "xz": lzma.compress,
}  # fmt: skip
TEXT = b"".join(b"line %d of what is compressed\n" % number for number in range(20_000))


class Confined:
    """Expansions in confined workers, called from a thread as the engine does."""

    def __init__(self, spawner: Spawner, **limits: int) -> None:
        self.spawner = spawner
        self.limits = limits

    def run(self, use: Callable[[Expander], object]) -> object:
        """`use` gets the expander, in a thread."""

        async def inside() -> object:
            workers = Workers(self.spawner.spawn)
            try:
                return await asyncio.to_thread(use, Expander(workers, **self.limits))
            finally:
                workers.close()

        return asyncio.run(inside())

    def expand(self, data: bytes, piece: int = 60_000) -> bytes:
        """The whole of a stream."""
        chunks = iter([data[at : at + piece] for at in range(0, len(data), piece)])
        return bytes(self.run(lambda expand: b"".join(expand(lambda: next(chunks, b"")))))  # type: ignore[call-overload]

    def workers(self) -> list[int]:
        """The processes that expand at this moment."""
        found = []
        for parent in self.spawner.children:
            found += Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        return [int(pid) for pid in found]


@contextmanager
def confined(**limits: int) -> Iterator[Confined]:
    spawner = Spawner()
    yield Confined(spawner, **limits)
    spawner.end()


ATTEMPTS = """
import ctypes, json, mmap, os, signal, socket, sys
from berth.kernel import seccomp
from berth.kernel.confine import confine
libc = ctypes.CDLL(None, use_errno=True)
out, parent, inside = int(sys.argv[1]), os.getppid(), os.getpid()
if not int(sys.argv[2]):
    seccomp.load = lambda program: None
confine(2_147_352_576, 1 << 30, [out])

def number(call, *arguments):
    if libc.syscall(ctypes.c_long(call), *[ctypes.c_long(a) for a in arguments]) < 0:
        raise OSError(ctypes.get_errno(), "")

attempts = {
    "open": lambda: os.open("/", os.O_RDONLY), "open the data root": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "list": lambda: os.listdir("/"), "list proc": lambda: os.listdir("/proc"), "make": lambda: os.mkdir("/x"),
    "root": lambda: os.setresuid(0, 0, 0), "groups": lambda: os.setgroups([0]), "chroot": lambda: os.chroot("/"),
    "fork": lambda: os.fork() or os._exit(0), "execute": lambda: os.execv("/bin/true", ["true"]),
    "signal": lambda: os.kill(parent, 0), "connect": lambda: socket.socket(socket.AF_UNIX), "network": lambda: socket.socket(),
    "trace": lambda: number(101, 16, parent, 0, 0), "unshare": lambda: number(272, 0x10000000),
    "bpf": lambda: number(321, 0, 0, 0), "io_uring": lambda: number(425, 1, 0), "userfaultfd": lambda: number(323, 0),
    "keys": lambda: number(250, 0, -3, 0), "code": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    "make executable": lambda: number(10, 0, 4096, 4), "memory": lambda: bytearray(2 << 30), "pid": lambda: number(39),
}
refused = {}
for name, attempt in attempts.items():
    try:
        attempt()
    except OSError as error:
        refused[name] = error.errno
    except (MemoryError, PermissionError) as error:
        refused[name] = type(error).__name__
os.write(out, json.dumps([sorted(attempts), refused]).encode())
"""


def attempts(filtered: bool) -> dict[str, object]:
    """What the confined process was refused, by name of the attempt; all that was tried is in there or was allowed."""
    reading, writing = os.pipe()
    path = f"import sys; sys.path[:0] = {sys.path!r}\n"
    try:
        command = [sys.executable, "-I", "-c", path + ATTEMPTS, str(writing), str(int(filtered))]
        subprocess.run(command, pass_fds=[writing], check=True, timeout=30)
        tried, refused = json.loads(os.read(reading, 1 << 16))
    finally:
        os.close(reading)
        os.close(writing)
    assert len(tried) == 23
    return {name: refused.get(name, "allowed") for name in tried}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the attempts are system call numbers of x86_64")
def test_row_22_a_confined_process_can_do_nothing() -> None:
    result = attempts(filtered=True)
    assert result.pop("memory") == "MemoryError"
    assert set(result.values()) == {1}, result
    # Without the filter most of it is refused as well: ids, root and limits are a second wall.
    behind = attempts(filtered=False)
    for name in ("open", "list", "list proc", "make", "root", "groups", "chroot", "fork", "execute", "connect"):
        assert behind[name] != "allowed", (name, behind)


ALONE = """
import os, sys
from berth.kernel import seccomp
from berth.kernel.confine import confine
from berth.kernel.process import prctl
out, status = int(sys.argv[1]), os.open("/proc/self/status", os.O_RDONLY)
seccomp.load = lambda program: None
os.setresuid = os.setresgid = lambda *ids: None
confine(2_147_352_576, 1 << 30, sorted([out, status]))
fields = dict(line.split(":\\t", 1) for line in os.pread(status, 1 << 16, 0).decode().splitlines() if ":\\t" in line)
seen = [fields["Uid"].split()[0], fields["CapInh"], fields["CapPrm"], fields["CapEff"], str(prctl(3, 0))]
os.write(out, " ".join(seen).encode())
"""


def test_row_22_capabilities_and_dumpable_do_not_depend_on_the_ids() -> None:
    """The kernel takes both away when root becomes another user. Here it stays root: what is gone was given up by itself."""
    reading, writing = os.pipe()
    try:
        command = [sys.executable, "-I", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n" + ALONE, str(writing)]
        subprocess.run(command, pass_fds=[writing], check=True, timeout=30)
        said = os.read(reading, 4096).decode().split()
    finally:
        os.close(reading)
        os.close(writing)
    assert said == ["0", *["0" * 16] * 3, "0"]


def test_row_22_the_worker_is_that_process(tmp_path: Path) -> None:
    data = gzip.compress(os.urandom(3 << 20))
    seen: dict[str, object] = {}
    with confined() as made:

        def look(expand: Expander) -> None:
            chunks = iter([data[: 1 << 20], data[1 << 20 :]])
            pieces = expand(lambda: next(chunks, b""))
            next(pieces)
            (pid,) = made.workers()
            status = Path(f"/proc/{pid}/status").read_text()
            fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            wanted = ("Uid", "Gid", "Groups", "CapEff", "CapPrm", "NoNewPrivs", "Seccomp")
            seen.update({name: fields[name].split() for name in wanted})
            seen["fds"] = sorted(os.readlink(f"/proc/{pid}/fd/{fd}").split(":")[0] for fd in os.listdir(f"/proc/{pid}/fd"))
            seen["root"] = os.listdir(f"/proc/{pid}/root/")
            seen["owner"] = os.stat(f"/proc/{pid}/fd").st_uid
            for _ in pieces:
                pass

        made.run(look)
    identity, nothing = [str(expansion.IDENTITY)] * 4, ["0000000000000000"]
    assert seen == {
        "Uid": identity, "Gid": identity, "Groups": [], "CapEff": nothing, "CapPrm": nothing,
        "NoNewPrivs": ["1"], "Seccomp": ["2"],
        "fds": ["/dev/null"] * 3 + ["pipe"] * 2 + ["socket"], "root": [],
        # Root owns the /proc entries of a process that is not dumpable.
        "owner": 0,
    }  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_row_22_what_is_whole_comes_out_and_what_is_not_is_named(name: str) -> None:
    compress = FORMATS[name]
    whole = compress(TEXT)
    with confined() as made:
        assert made.expand(whole) == TEXT
        assert made.expand(whole, piece=777) == TEXT
        assert made.expand(whole + compress(b"second") + bytes(700)) == TEXT + b"second", "members and padding"
        swapped = whole[:40] + b"\xff\xfe" + whole[42:]
        for damaged in (whole[:-9], whole[: len(whole) // 2], whole[:8], whole + b"garbage", swapped):
            with pytest.raises(DataLoss, match=f"^not valid {name}: "):
                made.expand(damaged)
        assert made.expand(TEXT) == TEXT and made.expand(b"") == b"", "what is not compressed passes by"
    assert len(made.spawner.children) == 0


def test_row_22_bombs_are_bounded() -> None:
    with confined(limit=10 << 20) as made:
        assert len(made.expand(gzip.compress(bytes(9 << 20)))) == 9 << 20
        for compress in FORMATS.values():
            with pytest.raises(ResourceExhausted, match=f"more than {10 << 20} bytes .*--expansion-limit"):
                made.expand(compress(bytes(20 << 20)))


def test_row_22_a_ratio_counts_for_large_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    data = lzma.compress(bytes(64 << 20))
    assert len(data) * 1000 < 64 << 20

    def run(ratio: int) -> int:
        source, feed = os.pipe()
        out, sink = os.pipe()
        count = 0

        def drain() -> None:
            nonlocal count
            while piece := os.read(out, 1 << 20):
                count += len(piece)

        thread = threading.Thread(target=drain)
        thread.start()
        try:
            os.write(feed, data)
            os.close(feed)
            expansion._pump(source, sink, ratio, 0)
        finally:
            os.close(sink)
            thread.join()
            os.close(source)
            os.close(out)
        return count

    assert run(1000) == 64 << 20
    monkeypatch.setattr(expansion, "RATIO_COUNTS_FROM", 1 << 20)
    assert run(0) == 64 << 20
    with pytest.raises(ResourceExhausted, match="more than 1000 times its size"):
        run(1000)


def test_row_22_memory_is_bounded() -> None:
    huge = {zstd.CompressionParameter.window_log: 30, zstd.CompressionParameter.content_size_flag: 0}
    compressor = zstd.ZstdCompressor(options=huge)
    window = compressor.compress(b"x" * 1000) + compressor.flush()
    # xz: a dictionary of 4 GiB, told by one byte of the block header, which has a checksum.
    dictionary = bytearray(lzma.compress(TEXT))
    size = (dictionary[12] + 1) * 4
    dictionary[16] = 40
    dictionary[12 + size - 4 : 12 + size] = zlib.crc32(dictionary[12 : 12 + size - 4]).to_bytes(4, "little")
    with confined() as made:
        with pytest.raises(DataLoss, match="not valid zstd"):
            made.expand(window)
        with pytest.raises(DataLoss, match="not valid xz: Memory usage limit exceeded"):
            made.expand(bytes(dictionary))


def test_row_22_killed_in_the_middle() -> None:
    data = gzip.compress(os.urandom(4 << 20))
    with confined() as made:

        def kill(expand: Expander) -> None:
            halves = iter([data[: len(data) // 2], b"kill", data[len(data) // 2 :]])

            def read() -> bytes:
                chunk = next(halves, b"")
                if chunk == b"kill":
                    (pid,) = made.workers()
                    os.kill(pid, signal.SIGKILL)
                    return data[:10]
                return chunk

            with pytest.raises(Unavailable, match="undoes the gzip compression was ended: try again"):
                for _ in expand(read):
                    pass
            again = iter([data])
            assert len(b"".join(expand(lambda: next(again, b"")))) == 4 << 20

        made.run(kill)


def test_row_22_a_stream_that_is_given_up_ends_its_worker() -> None:
    data = gzip.compress(bytes(64 << 20))
    with confined() as made:

        def give_up(expand: Expander) -> None:
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(5):
                chunks = iter([data])
                pieces = expand(lambda chunks=chunks: next(chunks, b""))  # type: ignore[misc]
                next(pieces)
                pieces.close()  # type: ignore[attr-defined]
            assert len(os.listdir("/proc/self/fd")) - before <= 1, "the parent's socket"
            until = time.monotonic() + 20
            while made.workers():
                assert time.monotonic() < until, "a worker goes on for nobody"
                time.sleep(0.01)

        made.run(give_up)


def test_row_22_archives_put_into_a_tree(tmp_path: Path) -> None:
    """A tree's worker gets a plain tar, and what is wrong with the compression is the client's fault."""
    (tmp_path / "fs").mkdir()
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    whole = gzip.compress(archive(("made", "file", os.urandom(300_000))))

    async def put() -> None:
        async with trees.of_pid(process.pid, 0) as tree:
            await tree.put(str(tmp_path / "fs"), stream(whole))
            for damaged in (whole[:-20], whole[:1000], whole + b"rest"):
                with pytest.raises(InvalidArgument, match="invalid archive: not valid gzip: "):
                    await tree.put(str(tmp_path / "fs"), stream(damaged))
            assert (await tree.stat(str(tmp_path / "fs/made"))).size == 300_000

    with opened_trees() as trees:
        asyncio.run(put())
    process.communicate()


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def test_row_22_every_way_in(engine: EngineProcess) -> None:
    """load, import, build, ADD and archives put into containers, in every format, whole and cut off."""
    saved = subprocess.run(
        ["docker", "save", "busybox"], env=engine.environment(), check=True, capture_output=True, timeout=60
    ).stdout  # fmt: skip
    tar = archive(("f", "file", "content"), ("noise", "file", os.urandom(50_000)))
    engine.ok("create", "--name", "box", "busybox", "cat", "/tmp/f")
    for name, compress in FORMATS.items():
        assert "Loaded image: busybox" in engine.ok("load", input=compress(saved))
        assert f"not valid {name}: " in engine.docker("load", input=half(compress(saved))).stderr
        engine.ok("import", "-", f"made:{name}", input=compress(tar))
        assert f"not valid {name}: " in engine.docker("import", "-", "made:not", input=half(compress(tar))).stderr
        context = archive(("Dockerfile", "file", "FROM busybox\nADD a /a/\nRUN cat /a/f\n"), ("a", "file", compress(tar)))
        assert "content" in engine.ok("build", "--no-cache", "-t", f"built:{name}", "-", input=compress(context))
        assert f"not valid {name}: " in engine.docker("build", "-", input=half(compress(context))).stderr
        with engine.client as client:
            body, query = compress(tar), {"path": "/tmp"}
            client.request("PUT", "/containers/box/archive", query=query, body=body).read()
            with pytest.raises(InvalidArgument, match=f"not valid {name}: "):
                client.request("PUT", "/containers/box/archive", query=query, body=half(body)).read()
        assert engine.ok("start", "-a", "box") == "content"
        engine.ok("rmi", f"made:{name}", f"built:{name}")


def test_row_22_a_damaged_layer_is_named(engine: EngineProcess) -> None:
    layer = archive(("f", "file", os.urandom(100_000)))
    diff_id = "sha256:" + hashlib.sha256(layer).hexdigest()
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [diff_id]}}
    manifest = [{"Config": "config.json", "RepoTags": ["damaged:1"], "Layers": ["layer"]}]
    for name, compress in FORMATS.items():
        files = {"config.json": json.dumps(config), "manifest.json": json.dumps(manifest), "layer": compress(layer)[:-2000]}
        done = engine.docker("load", input=archive(*((path, "file", data) for path, data in files.items())))
        assert f"layer {diff_id}: not valid {name}: " in done.stderr + done.stdout, done
    assert engine.docker("image", "inspect", "damaged:1").returncode != 0


DECOMPRESSORS = ("gzip", "bz2", "lzma", "zlib", "isal", "backports", "berth.storage.compression")
HARMLESS = ("detect", "opening", "counting", "compress_gzip", "Pipeline", "PIECE", "LONGEST_MAGIC", "adler32", "crc32")


def test_row_22_nothing_else_decompresses() -> None:
    """The product's only caller of decompressors is the confined worker; what else imports them only compresses, but for the
    logs, which the engine's own shims have compressed."""
    package = Path(berth.__file__).parent
    found = set()
    for path in package.rglob("*.py"):
        text = path.read_text()
        # Most modules need not be parsed to see that they have nothing to do with it.
        for node in ast.walk(ast.parse(text)) if any(name in text for name in DECOMPRESSORS) else ():
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = node.module if isinstance(node, ast.ImportFrom) else ""
            where = str(path.relative_to(package))
            found |= {(where, name) for name in names if name not in HARMLESS and (module or name) in DECOMPRESSORS}
    inside = {("storage/compression.py", name) for name in ("bz2", "lzma", "zstd", "igzip_lib", "isal_zlib")}
    compressing = {("engine/images/compress.py", "isal_zlib"), ("runtime/logpress.py", "zlib")}
    assert found == {("storage/expansion.py", "expand"), ("engine/log_files.py", "zlib"), *compressing, *inside}
    for where, _ in compressing:
        assert "decompress" not in (package / where).read_text()
