"""The flags of `run` and `create` as data: names, kind, help. `click` options are made from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from berth.cli.command import refusal
from berth.model.extension import EXTENSIONS, PREFIX


@dataclass(frozen=True, slots=True)
class Flag:
    """`kind`: bool, text, int, or list (may be given several times). `default` None means: not given."""

    names: tuple[str, ...]
    kind: str
    help: str
    default: Any = None


def _flags(kind: str, *rows: tuple[str, str]) -> list[Flag]:
    return [Flag(tuple(names.split()), kind, text) for names, text in rows]


FLAGS: list[Flag] = [
    *_flags(
        "list",
        ("--add-host", "Add a custom host-to-IP mapping (host:ip)"),
        ("--annotation", "Add an annotation to the container"),
        ("-a --attach", "Attach to STDIN, STDOUT or STDERR"),
        ("--blkio-weight-device", "Block IO weight (relative device weight)"),
        ("--cap-add", "Add Linux capabilities"),
        ("--cap-drop", "Drop Linux capabilities"),
        ("--device", "Add a host device to the container"),
        ("--device-cgroup-rule", "Add a rule to the cgroup allowed devices list"),
        ("--device-read-bps", "Limit read rate (bytes per second) from a device"),
        ("--device-read-iops", "Limit read rate (IO per second) from a device"),
        ("--device-write-bps", "Limit write rate (bytes per second) to a device"),
        ("--device-write-iops", "Limit write rate (IO per second) to a device"),
        ("--dns", "Set custom DNS servers"),
        ("--dns-option", "Set DNS options"),
        ("--dns-search", "Set custom DNS search domains"),
        ("-e --env", "Set environment variables"),
        ("--env-file", "Read in a file of environment variables"),
        ("--expose", "Expose a port or a range of ports"),
        ("--group-add", "Add additional groups to join"),
        ("-l --label", "Set meta data on a container"),
        ("--label-file", "Read in a line delimited file of labels"),
        ("--link", "Add link to another container"),
        ("--link-local-ip", "Container IPv4/IPv6 link-local addresses"),
        ("--log-opt", "Log driver options"),
        ("--mount", "Attach a filesystem mount to the container"),
        ("--network --net", "Connect a container to a network"),
        ("--network-alias --net-alias", "Add network-scoped alias for the container"),
        ("-p --publish", "Publish a container's port(s) to the host"),
        ("--security-opt", "Security Options"),
        ("--storage-opt", "Storage driver options for the container"),
        ("--sysctl", "Sysctl options"),
        ("--tmpfs", "Mount a tmpfs directory"),
        ("--ulimit", "Ulimit options"),
        ("-v --volume", "Bind mount a volume"),
        ("--volumes-from", "Mount volumes from the specified container(s)"),
    ),
    *_flags(
        "text",
        ("--cgroup-parent", "Optional parent cgroup for the container"),
        ("--cgroupns", "Cgroup namespace to use (host|private)"),
        ("--cidfile", "Write the container ID to the file"),
        ("--cpus", "Number of CPUs"),
        ("--cpuset-cpus", "CPUs in which to allow execution (0-3, 0,1)"),
        ("--cpuset-mems", "MEMs in which to allow execution (0-3, 0,1)"),
        ("--detach-keys", "Override the key sequence for detaching a container"),
        ("--domainname", "Container NIS domain name"),
        ("--entrypoint", "Overwrite the default ENTRYPOINT of the image"),
        ("--health-cmd", "Command to run to check health"),
        ("--health-interval", "Time between running the check (ms|s|m|h)"),
        ("--health-start-interval", "Time between running the check during the start period (ms|s|m|h)"),
        (
            "--health-start-period",
            "Start period for the container to initialize before starting health-retries countdown (ms|s|m|h)",
        ),
        ("--health-timeout", "Maximum time to allow one check to run (ms|s|m|h)"),
        ("-h --hostname", "Container host name"),
        ("--ip", "IPv4 address (e.g., 172.30.100.104)"),
        ("--ip6", "IPv6 address (e.g., 2001:db8::33)"),
        ("--ipc", "IPC mode to use"),
        ("--isolation", "Container isolation technology"),
        ("--log-driver", "Logging driver for the container"),
        ("--mac-address", "Container MAC address (e.g., 92:d0:c6:0a:29:33)"),
        ("-m --memory", "Memory limit"),
        ("--memory-reservation", "Memory soft limit"),
        ("--memory-swap", "Swap limit equal to memory plus swap: '-1' to enable unlimited swap"),
        ("--name", "Assign a name to the container"),
        ("--pid", "PID namespace to use"),
        ("--platform", "Set platform if server is multi-platform capable"),
        ("--pull", "Pull image before running (always, missing, never)"),
        ("--restart", "Restart policy to apply when a container exits"),
        ("--runtime", "Runtime to use for this container"),
        ("--shm-size", "Size of /dev/shm"),
        ("--stop-signal", "Signal to stop the container"),
        ("-u --user", "Username or UID (format: <name|uid>[:<group|gid>])"),
        ("--userns", "User namespace to use"),
        ("--uts", "UTS namespace to use"),
        ("--volume-driver", "Optional volume driver for the container"),
        ("-w --workdir", "Working directory inside the container"),
    ),
    *(Flag((f"--{e.name}",), "text", f"{e.help} (label {PREFIX}{e.name})") for e in EXTENSIONS),
    *_flags(
        "int",
        ("--blkio-weight", "Block IO (relative weight), between 10 and 1000, or 0 to disable"),
        ("--cpu-period", "Limit CPU CFS (Completely Fair Scheduler) period"),
        ("--cpu-quota", "Limit CPU CFS (Completely Fair Scheduler) quota"),
        ("--cpu-rt-period", "Limit CPU real-time period in microseconds"),
        ("--cpu-rt-runtime", "Limit CPU real-time runtime in microseconds"),
        ("-c --cpu-shares", "CPU shares (relative weight)"),
        ("--health-retries", "Consecutive failures needed to report unhealthy"),
        ("--memory-swappiness", "Tune container memory swappiness (0 to 100)"),
        ("--oom-score-adj", "Tune host's OOM preferences (-1000 to 1000)"),
        ("--pids-limit", "Tune container pids limit (set -1 for unlimited)"),
        ("--stop-timeout", "Timeout (in seconds) to stop a container"),
    ),
    *_flags(
        "bool",
        ("--init", "Run an init inside the container that forwards signals and reaps processes"),
        ("-i --interactive", "Keep STDIN open even if not attached"),
        ("--no-healthcheck", "Disable any container-specified HEALTHCHECK"),
        ("--oom-kill-disable", "Disable OOM Killer"),
        ("--privileged", "Give extended privileges to this container"),
        ("-P --publish-all", "Publish all exposed ports to random ports"),
        ("-q --quiet", "Suppress the pull output"),
        ("--read-only", "Mount the container's root filesystem as read only"),
        ("--rm", "Automatically remove the container and its associated anonymous volumes when it exits"),
        ("-t --tty", "Allocate a pseudo-TTY"),
    ),
]


# Flags that Docker has and berth refuses by name, and switches that change nothing.
REFUSED: dict[str, str] = {
    "--gpus": "graphics cards are not handed out by name; pass their device files with --device",
    "--kernel-memory": "the kernel has no such limit any more; --memory counts kernel memory too",
    "--cpu-count": "it is for Windows; use --cpus",
    "--cpu-percent": "it is for Windows; use --cpus",
    "--io-maxbandwidth": "it is for Windows; use --device-read-bps and --device-write-bps",
    "--io-maxiops": "it is for Windows; use --device-read-iops and --device-write-iops",
}
REFUSED_SWITCHES: dict[str, str] = {
    "--use-api-socket": "who has the engine's socket is root on the host; if that is wanted, mount it: "
    "-v /run/berth/berth.sock:/var/run/docker.sock",
}
IGNORED = ("--disable-content-trust",)


def add_flags(command: click.Command) -> click.Command:
    """Give a click command all flags of FLAGS."""
    for flag in FLAGS:
        match flag.kind:
            case "bool":
                option = click.Option([*flag.names], is_flag=True, default=False, help=flag.help)
            case "int":
                option = click.Option([*flag.names], type=int, default=None, help=flag.help)
            case "list":
                option = click.Option([*flag.names], multiple=True, help=flag.help)
            case _:
                option = click.Option([*flag.names], type=str, default=None, help=flag.help)
        command.params.append(option)
    for refused, switch in ((REFUSED, False), (REFUSED_SWITCHES, True)):
        for name, reason in refused.items():
            callback = refusal(name, reason)
            command.params.append(click.Option([name], expose_value=False, hidden=True, is_flag=switch, callback=callback))
    for name in IGNORED:
        command.params.append(click.Option([name], expose_value=False, hidden=True, is_flag=True))
    return command
