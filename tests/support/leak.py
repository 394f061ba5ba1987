"""What a test must not leave behind: mounts, network devices, control groups, firewall elements, processes, files."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SETTLE_SECONDS = 5.0


def mounts() -> set[str]:
    """Mount points with their types, in the host's namespace."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {f"mount {line.split(' ')[4]} {line.split(' - ')[1].split(' ')[0]}" for line in lines}


def links(engine_id: str) -> set[str]:
    """Network devices of one engine: its bridges, and what is attached to them. Other engines may work at the same time."""
    found = set()
    for name in os.listdir("/sys/class/net"):
        try:
            parent = os.path.basename(os.readlink(f"/sys/class/net/{name}/master"))
        except OSError:
            parent = ""
        if engine_id in name or engine_id in parent:
            found.add(f"link {name}")
    return found


def control_groups(name: str) -> set[str]:
    """Control groups with the name in their path, in every hierarchy, without the empty parent itself."""
    found = set()
    for top in (
        Path("/sys/fs/cgroup").iterdir() if not Path("/sys/fs/cgroup/cgroup.controllers").exists() else [Path("/sys/fs/cgroup")]
    ):
        parent = top / name
        if parent.is_dir():
            found |= {f"cgroup {path}" for path in parent.iterdir() if path.is_dir()}
    return found


def slots(name: str, containers: str, most: int) -> set[str]:
    """The ids and pids of the slots that the engine keeps ready: groups of no container, with the processes in them, their
    parents and those parents' children. None when there are more than `most`: then some of them are left behind."""
    groups = {entry.rpartition("/")[2] for entry in control_groups(name)}
    ids = groups - set(os.listdir(containers)) if os.path.isdir(containers) else set()
    found = set(ids)
    for id in ids:
        for path in Path("/sys/fs/cgroup").glob(f"**/{name}/{id}/cgroup.procs"):
            for pid in path.read_text().split():
                status = Path(f"/proc/{pid}/status").read_text()
                parent = next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:"))
                found |= {parent, *Path(f"/proc/{parent}/task/{parent}/children").read_text().split()}
            break
    return found if len(ids) <= most else set()


def firewall(name: str) -> set[str]:
    """Rules and elements of the engine's tables, without counters and handles."""
    done = subprocess.run(["nft", "-s", "list", "ruleset"], capture_output=True, text=True, check=True)
    found, inside = set(), False
    for line in done.stdout.splitlines():
        if line.startswith("table"):
            inside = line.split()[2] == name
        elif inside and line.strip() not in ("", "}"):
            found.add(f"nft {line.strip()}")
    return found


def processes(marks: tuple[str, ...]) -> set[str]:
    """Processes whose command line holds one of the marks (data root, run directory), other than the engine itself."""
    found = set()
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if any(mark in command for mark in marks) and "berthd" not in command and "pytest" not in command:
            found.add(f"process {entry} {command.strip()}")
    return found


def other_runtimes(run: str) -> set[str]:
    """Processes of another runtime's binary that make a container of this engine, and have not become its program yet.

    What they do takes moments: one that stays was left behind. They have been told by their environment whose they are.
    """
    mark = f"{run}/oci/".encode()
    found = set()
    for entry in os.listdir("/proc"):
        try:
            program = os.readlink(f"/proc/{entry}/exe") if entry.isdigit() else ""
            if not os.path.basename(program).removeprefix("memfd:").startswith(("runc", "crun")):
                continue
            own = mark in Path(f"/proc/{entry}/environ").read_bytes() + Path(f"/proc/{entry}/cmdline").read_bytes()
        except OSError:
            continue
        if own:
            found.add(f"process {entry} {program}")
    return found


def files(*folders: str) -> set[str]:
    """Entries of folders."""
    return {f"file {folder}/{name}" for folder in folders if os.path.isdir(folder) for name in os.listdir(folder)}


def network_namespaces(marks: tuple[str, ...], without: set[str]) -> set[str]:
    """Network namespaces that processes with one of the marks in their command line are in, but for those `without`."""
    found = set()
    for entry in (line.split(" ")[1] for line in processes(marks)):
        if entry not in without:
            try:
                found.add("netns " + os.readlink(f"/proc/{entry}/ns/net"))
            except OSError:
                continue
    return found


def pidfds(pid: int) -> set[str]:
    """The processes that a process holds a pidfd of."""
    found = set()
    for entry in os.listdir(f"/proc/{pid}/fdinfo"):
        try:
            lines = Path(f"/proc/{pid}/fdinfo/{entry}").read_text().splitlines()
        except OSError:
            continue
        found |= {line.split()[1] for line in lines if line.startswith("Pid:")}
    return found


def descriptors(pid: int) -> set[str]:
    """Open descriptors of a process by what they are, without numbers."""
    found: dict[str, int] = {}
    for entry in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{entry}")
        except OSError:
            continue
        kind = target.split(":")[0] if target.startswith(("socket", "pipe", "anon_inode")) else target
        found[kind] = found.get(kind, 0) + 1
    return {f"fd {count} x {kind}" for kind, count in found.items() if not kind.startswith("socket")}


@contextmanager
def nothing_left(snapshot: object) -> Iterator[None]:
    """Compare `snapshot()` before and after; what the kernel removes in its own time gets a few seconds."""
    assert callable(snapshot)
    before: set[str] = snapshot()
    yield
    deadline = time.monotonic() + SETTLE_SECONDS
    while (left := snapshot() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left, "left behind:\n" + "\n".join(sorted(left))
