"""The engine itself: whether it answers, who may talk to it, how it is set, what it costs."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from berth.doctor.check import Scene, listed, note, ok, problem, warning
from berth.errors import Forbidden
from berth.model.units import human_binary_size
from berth.wire.doctor import Finding

_GROUP = "berth"
_AUTOSTART = ("/etc/systemd/system", "/lib/systemd/system", "/usr/lib/systemd/system")


def running(scene: Scene) -> Iterator[Finding]:
    """Whether it answers."""
    facts = {"address": scene.address, "root": scene.root}
    if scene.engine is None:
        yield _silent(scene, facts)
        return
    info = scene.engine.info
    version = f"{info.get('ServerVersion')}"
    states = f"{info.get('ContainersRunning', 0)} of {info.get('Containers', 0)} containers run"
    yield ok(f"the engine at {scene.address} answers (version {version}): {states}", facts={**facts, "version": version})


def _silent(scene: Scene, facts: dict[str, str]) -> Finding:
    why = scene.refusal.message if scene.refusal else ""
    if isinstance(scene.refusal, Forbidden):
        return note(f"the engine at {scene.address} may not be asked", why=why, change="sudo berth doctor", facts=facts)
    if scene.named:
        return problem(
            f"no engine answers at {scene.address}",
            why=why,
            change="start that engine, or name another one: --host, BERTH_HOST, DOCKER_HOST",
            facts=facts,
        )
    return note(
        f"no engine answers at {scene.address}",
        why=why,
        change="berth engine start (other commands start it too); what it says is in /var/log/berth.log",
        facts=facts,
    )


def socket(scene: Scene) -> Iterator[Finding]:
    """Who may talk to the engine: each of them is root."""
    found = scene.host.status(scene.socket) if scene.socket else None
    if found is None:
        return
    mode = stat.S_IMODE(found.st_mode)
    owner, group = scene.host.user(found.st_uid), scene.host.group(found.st_gid)
    members = scene.host.members(group) if mode & 0o020 and found.st_gid else []
    facts = {"path": scene.socket, "mode": f"{mode:04o}", "owner": owner, "group": group, "members": members}
    words = f"the API's socket {scene.socket} belongs to {owner} and group {group}, mode {mode:04o}"
    if mode & 0o002:
        yield problem(
            f"{words}: any user of this host can use it",
            why="Whoever talks to the engine can become root of this host: one container with / mounted is enough.",
            change=f"chmod o-rwx {scene.socket}",
            facts=facts,
        )
    elif members:
        yield note(
            f"{words}: {listed(members)} can use it",
            why="Whoever talks to the engine can become root of this host, so these users are as good as root.",
            change=f"take those out who should not be: gpasswd -d USER {group}",
            facts=facts,
        )
    else:
        yield ok(words, facts=facts)


def settings(scene: Scene) -> Iterator[Finding]:
    """Settings that open something."""
    if scene.engine is None:
        return
    configs = (scene.engine.info.get("RegistryConfig") or {}).get("IndexConfigs") or {}
    insecure = sorted(name for name, config in configs.items() if config.get("Secure") is False)
    if insecure:
        yield warning(
            f"images from {listed(insecure)} may come without TLS",
            why="Whoever is on the way can put other images in their place, and reads the password.",
            change="give that registry a certificate, and leave --insecure-registry out",
            facts={"insecure_registries": insecure},
        )
    else:
        yield ok("registries are asked over TLS only (those on 127.0.0.1 excepted)")


def at_boot(scene: Scene) -> Iterator[Finding]:
    """Whether containers with a restart policy come back after a reboot."""
    units = [
        f"{folder}/{name}"
        for folder in _AUTOSTART
        for name in scene.host.names(folder)
        if name.startswith("berth") and name.endswith(".service")
    ]
    if units:
        yield ok(f"systemd can start the engine ({listed(units)})", facts={"units": units})
        return
    yield note(
        "nothing starts the engine when this host boots",
        why="Containers with --restart always or unless-stopped come back only when somebody runs a command of berth.",
        change="a systemd unit with ExecStart=/path/to/berthd, KillMode=process and Delegate=yes; then systemctl enable it",
        facts={"units": []},
    )


def memory(scene: Scene) -> Iterator[Finding]:
    """What the engine's own processes use, containers not counted."""
    scene.need_root("the memory of the engine's processes")
    if scene.engine is None:
        return
    found: dict[str, int] = {}
    for pid in scene.host.names("/proc"):
        # Launcher, shims and resolver carry the run directory in their command lines, and nobody else does.
        words = (scene.host.text(f"/proc/{pid}/cmdline") or "").split("\0") if pid.isdigit() else []
        if pid == str(scene.engine.pid) or any(word == scene.run or word.startswith(f"{scene.run}/") for word in words):
            lines = (scene.host.text(f"/proc/{pid}/smaps_rollup") or "").splitlines()
            found[pid] = sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    total = sum(found.values())
    yield ok(
        f"the engine's {len(found)} processes use {human_binary_size(total)} of memory (PSS)",
        facts={"processes": len(found), "pss_bytes": total},
    )
