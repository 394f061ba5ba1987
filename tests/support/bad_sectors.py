"""A filesystem some of whose sectors cannot be read: ext4 on a loop device, on a file that a FUSE server gives out.

Every layer above the server is the kernel's own: what a program gets is the EIO that it would get from a disk with bad sectors,
whoever reads (SQLite, the page cache under a mapped program, execve, overlayfs), and none of the programs is touched.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from pathlib import Path

SIZE = 96 << 20
_BLOCK = 4096

# linux/fuse.h
_HEADER = struct.Struct("=IIQQIIII")
_ANSWER = struct.Struct("=IiQ")
_GETATTR, _SETATTR, _OPEN, _READ, _WRITE, _STATFS, _RELEASE, _FSYNC, _FLUSH, _INIT = 3, 4, 14, 15, 16, 17, 18, 20, 25, 26
_FORGET, _INTERRUPT, _BATCH_FORGET = 2, 36, 42
_ATTRIBUTES = struct.Struct("=QQQQQQIIIIIIIIII")
_ATTRIBUTES_VALID = struct.Struct("=QII")
_READ_IN, _WRITE_IN = struct.Struct("=QQI"), struct.Struct("=QQI")
_LARGEST = 1 << 17
_DIRECT_IO = 1
_ENOSYS, _EIO = 38, 5

# linux/fiemap.h, linux/fs.h
_FIEMAP = 0xC020660B
_FIEMAP_HEAD, _FIEMAP_EXTENT = struct.Struct("=QQIIII"), struct.Struct("=QQQQQIIII")
_BLKFLSBUF = 0x1261


class BadDisk:
    """Made, mounted at `place`, and taken down by `close`."""

    def __init__(self, directory: Path) -> None:
        self.place = directory / "disk"
        self._front, self._back = directory / "front", directory / "back"
        self.place.mkdir()
        self._front.touch()
        with self._back.open("wb") as file:
            file.truncate(SIZE)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-b", str(_BLOCK), str(self._back)], check=True)
        self._server = subprocess.Popen(
            [sys.executable, "-m", "support.bad_sectors", str(self._back), str(self._front)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        self._loop = ""
        try:
            self._answer()
            found = subprocess.run(["losetup", "-f", "--show", str(self._front)], check=True, capture_output=True, text=True)
            self._loop = found.stdout.strip()
            subprocess.run(["mount", self._loop, str(self.place)], check=True)
        except BaseException:
            self.close()
            raise

    def _answer(self) -> None:
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "done\n", "the server of the disk has ended"

    def _tell(self, line: str) -> None:
        assert self._server.stdin is not None
        self._server.stdin.write(line + "\n")
        self._server.stdin.flush()
        self._answer()

    def spoil(self, path: Path, offset: int = 0, length: int | None = None) -> None:
        """The sectors of a file, from an offset on, can no longer be read, and nothing of them is in memory."""
        for start, size in _extents(path, offset, length):
            self._tell(f"{start} {size}")
        self.forget(path)

    def forget(self, path: Path) -> None:
        """Nothing of the file is in memory (but what is mapped)."""
        fd = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)

    def heal(self) -> None:
        """Everything can be read again."""
        self._tell("heal")

    def close(self) -> None:
        """Nothing is left of it."""
        subprocess.run(["umount", "-l", str(self.place)], check=False, capture_output=True)
        if self._loop:
            deadline = time.monotonic() + 20
            while subprocess.run(["losetup", "-d", self._loop], capture_output=True).returncode == 0:
                # A device in use goes when the last of its users does.
                if not subprocess.run(["losetup", "-j", str(self._front)], capture_output=True).stdout:
                    break
                assert time.monotonic() < deadline, f"{self._loop} is in use"
                time.sleep(0.05)
        subprocess.run(["umount", "-l", str(self._front)], check=False, capture_output=True)
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(20)
        self._server.stdout.close()


def _extents(path: Path, offset: int, length: int | None) -> list[tuple[int, int]]:
    """Where the bytes of a file are on its filesystem, in whole blocks."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        room = 64
        request = bytearray(_FIEMAP_HEAD.size + room * _FIEMAP_EXTENT.size)
        wanted = length if length is not None else max(os.fstat(fd).st_size - offset, 1)
        _FIEMAP_HEAD.pack_into(request, 0, offset, wanted, 1, 0, room, 0)
        fcntl.ioctl(fd, _FIEMAP, request)
    finally:
        os.close(fd)
    count = _FIEMAP_HEAD.unpack_from(request)[3]
    assert 0 < count < room, f"{path} has {count} extents"
    found = []
    for n in range(count):
        logical, physical, size, *_ = _FIEMAP_EXTENT.unpack_from(request, _FIEMAP_HEAD.size + n * _FIEMAP_EXTENT.size)
        first = max(logical, offset // _BLOCK * _BLOCK)
        end = min(logical + size, -(-(offset + wanted) // _BLOCK) * _BLOCK)
        found.append((physical + first - logical, end - first))
    return found


# The server


def _attributes() -> bytes:
    return _ATTRIBUTES.pack(1, SIZE, SIZE // 512, 0, 0, 0, 0, 0, 0, 0o100600, 1, 0, 0, 0, _BLOCK, 0)


class _Server:
    def __init__(self, back: str, front: str) -> None:
        self._back = os.open(back, os.O_RDWR)
        self._device = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self._device},rootmode=100000,user_id=0,group_id=0,max_read={_LARGEST}"
        from berth.kernel import mount

        mount.mount("bad-disk", front, "fuse", 0, options)
        self._bad: list[tuple[int, int]] = []

    def run(self) -> None:
        watched = select.poll()
        watched.register(self._device, select.POLLIN)
        watched.register(0, select.POLLIN)
        while True:
            for fd, events in watched.poll():
                if fd == 0:
                    line = os.read(0, 4096).decode()
                    for word in line.splitlines():
                        self._order(word)
                    if not line:
                        watched.unregister(0)
                elif events & select.POLLERR:
                    # Unmounted.
                    return
                else:
                    self._serve()

    def _order(self, line: str) -> None:
        if line == "heal":
            self._bad.clear()
        else:
            start, size = map(int, line.split())
            self._bad.append((start, start + size))
        print("done", flush=True)

    def _serve(self) -> None:
        try:
            message = os.read(self._device, _LARGEST + 4096)
        except OSError:
            return
        _, code, unique, *_ = _HEADER.unpack_from(message)
        if code in (_FORGET, _INTERRUPT, _BATCH_FORGET):
            return
        error, data = self._do(code, message[_HEADER.size :])
        os.write(self._device, _ANSWER.pack(_ANSWER.size + len(data), -error, unique) + data)

    def _do(self, code: int, body: bytes) -> tuple[int, bytes]:
        match code:
            case c if c == _INIT:
                major, minor, ahead, _ = struct.unpack_from("=IIII", body)
                return 0, struct.pack("=IIIIHHIIHHI28x", major, min(minor, 31), ahead, 0, 8, 6, _LARGEST, 1, _LARGEST >> 12, 0, 0)
            case c if c in (_GETATTR, _SETATTR):
                return 0, _ATTRIBUTES_VALID.pack(3600, 0, 0) + _attributes()
            case c if c == _OPEN:
                return 0, struct.pack("=QII", 0, _DIRECT_IO, 0)
            case c if c == _READ:
                _, offset, size = _READ_IN.unpack_from(body)
                if any(offset < end and start < offset + size for start, end in self._bad):
                    return _EIO, b""
                return 0, os.pread(self._back, size, offset)
            case c if c == _WRITE:
                _, offset, size = _WRITE_IN.unpack_from(body)
                os.pwrite(self._back, body[40 : 40 + size], offset)
                return 0, struct.pack("=II", size, 0)
            case c if c == _STATFS:
                return 0, struct.pack("=QQQQQIIII24x", SIZE // _BLOCK, 0, 0, 1, 0, _BLOCK, 255, _BLOCK, 0)
            case c if c in (_RELEASE, _FSYNC, _FLUSH):
                return 0, b""
        return _ENOSYS, b""


def main() -> None:
    """`bad_sectors BACK FRONT`: serve the file BACK at the file FRONT; orders come by standard input."""
    server = _Server(sys.argv[1], sys.argv[2])
    print("done", flush=True)
    server.run()


if __name__ == "__main__":
    main()
