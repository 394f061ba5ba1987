"""A worker for the test of spawn: answers on its socket, ends when that closes."""

from __future__ import annotations

import os
import socket


def main(arguments, fds):
    import msgspec

    sock = socket.socket(fileno=fds[0])
    namespaces = os.stat("/proc/self/ns/mnt").st_ino
    with open("/proc/self/status") as file:
        effective = next(line.split()[1] for line in file if line.startswith("CapEff"))
    os.setuid(65534)
    with open("/proc/self/status") as file:
        dropped = next(line.split()[1] for line in file if line.startswith("CapEff"))
    answer = {"pid": os.getpid(), "arguments": arguments, "mnt": namespaces, "effective": effective, "dropped": dropped}
    sock.send(msgspec.json.encode(answer))
    while sock.recv(10):
        pass
