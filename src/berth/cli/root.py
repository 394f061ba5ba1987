"""The tree of commands: which module has which, and what `--help` says of them.

Modules are imported when their command is called, so that a short command stays short; the lists of `--help` are written
here for the same reason. Entry point and exit codes are in `main`.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import click

from berth.cli.command import unknown
from berth.client.address import Tls, files_of
from berth.errors import NotFound
from berth.model.version import VERSION

_CONTAINER = {
    **dict.fromkeys(("attach", "create", "exec", "run", "start"), "run"),
    **dict.fromkeys(("commit", "diff", "export", "kill", "pause", "rename", "restart"), "container"),
    **dict.fromkeys(("rm", "stop", "top", "unpause", "wait"), "container"),
    "cp": "copy",
    "port": "port",
    "inspect": "inspect",
    "logs": "logs",
    "ls": "listing",
    "prune": "prune",
    "stats": "stats",
    "update": "update",
}
_IMAGE = {
    **dict.fromkeys(("import", "load", "save"), "archive"),
    **dict.fromkeys(("history", "pull", "push", "rm", "tag"), "image"),
    "bootstrap": "bootstrap",
    "build": "build",
    "inspect": "inspect",
    "ls": "listing",
    "prune": "prune",
}
_NETWORK = dict.fromkeys(("connect", "create", "disconnect", "inspect", "ls", "prune", "rm"), "network")
_VOLUME = dict.fromkeys(("create", "inspect", "ls", "prune", "rm"), "volume")
_SYSTEM = {"df": "system", "dial-stdio": "dial", "events": "system", "info": "system", "prune": "prune", "verify": "verify"}
_TOP = {
    **{name: module for name, module in _CONTAINER.items() if name not in ("ls", "prune", "inspect")},
    **{name: module for name, module in _IMAGE.items() if name not in ("ls", "prune", "rm", "inspect", "bootstrap")},
    "compose": "compose", "doctor": "doctor", "events": "system", "explain": "explain", "images": "listing", "info": "system",
    "inspect": "inspect", "login": "login", "logout": "login", "ps": "listing", "rmi": "image", "search": "image",
    "version": "system",
}  # fmt: skip
_GROUPS = {
    "builder": ({"build": "build", "prune": "prune"}, "Manage builds"),
    "container": (_CONTAINER, "Manage containers"),
    "context": ({"inspect": "context", "ls": "context", "show": "context"}, "Show which engine is used"),
    "engine": ({"start": "engine", "stop": "engine"}, "Start and stop the engine"),
    "image": (_IMAGE, "Manage images"),
    "network": (_NETWORK, "Manage networks"),
    "system": (_SYSTEM, "Manage berth"),
    "volume": (_VOLUME, "Manage volumes"),
}
_ALIASES = {"list": "ls", "remove": "rm", "ps": "ls"}


# What `berth --help` shows, as sections. A test holds this against the commands.
_SECTIONS: dict[str, dict[str, str]] = {
    "Common Commands": {
        "run": "Create and run a new container from an image",
        "exec": "Execute a command in a running container",
        "ps": "List containers",
        "logs": "Fetch the logs of a container",
        "build": "Build an image from a Dockerfile",
        "compose": "Define and run multi-container applications",
        "pull": "Download an image from a registry",
        "push": "Upload an image to a registry",
        "images": "List images",
        "login": "Authenticate to a registry",
        "logout": "Log out from a registry",
        "search": "Search Docker Hub for images",
        "version": "Show the berth version information",
        "info": "Display system-wide information",
    },
    "Management Commands": {name: help for name, (_, help) in sorted(_GROUPS.items())},
    "Commands": {
        "attach": "Attach local standard input, output, and error streams to a running container",
        "commit": "Create a new image from a container's changes",
        "cp": "Copy files/folders between a container and the local filesystem",
        "create": "Create a new container",
        "diff": "Inspect changes to files or directories on a container's filesystem",
        "doctor": "Examine this host and its engine: what works, what is exposed, what to change",
        "events": "Get real time events from the server",
        "explain": "Tell why a container is in the state it is in",
        "export": "Export a container's filesystem as a tar archive",
        "history": "Show the history of an image",
        "import": "Import the contents from a tarball to create a filesystem image",
        "inspect": "Return low-level information on berth objects",
        "kill": "Kill one or more running containers",
        "load": "Load an image from a tar archive or STDIN",
        "pause": "Pause all processes within one or more containers",
        "port": "List port mappings or a specific mapping for the container",
        "rename": "Rename a container",
        "restart": "Restart one or more containers",
        "rm": "Remove one or more containers",
        "rmi": "Remove one or more images",
        "save": "Save one or more images to a tar archive (streamed to STDOUT by default)",
        "start": "Start one or more stopped containers",
        "stats": "Display a live stream of container(s) resource usage statistics",
        "stop": "Stop one or more running containers",
        "tag": "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
        "top": "Display the running processes of a container",
        "unpause": "Unpause all processes within one or more containers",
        "update": "Update configuration of one or more containers",
        "wait": "Block until one or more containers stop, then print their exit codes",
    },
}


class LazyGroup(click.Group):
    """A group whose commands are found in modules of `commands` by name: `module.GROUP_NAME` or `module.NAME`."""

    def __init__(self, name: str, modules: dict[str, str], help: str) -> None:
        super().__init__(name, help=help, no_args_is_help=True, subcommand_metavar="COMMAND")
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names."""
        return sorted(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module and take the command from its COMMANDS table."""
        name = cmd_name if cmd_name in self._modules else _ALIASES.get(cmd_name, cmd_name)
        if name not in self._modules:
            return None
        module = importlib.import_module(f"berth.cli.commands.{self._modules[name]}")
        table: dict[str, click.Command] = module.COMMANDS
        return table.get(f"{self.name} {name}") or table.get(name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """With Docker's words for a command that is not there."""
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            ctx.fail(unknown(ctx.command_path, args[0], self.list_commands(ctx)))
        return super().resolve_command(ctx, args)


class TopGroup(LazyGroup):
    """The commands without a group, and the groups."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names."""
        return sorted([*self._modules, *_GROUPS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A group or a command."""
        if cmd_name in _GROUPS:
            modules, help = _GROUPS[cmd_name]
            return LazyGroup(cmd_name, modules, help)
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The sections of SECTIONS: no command's module is imported for them."""
        for title, rows in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(list(rows.items()))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Where to go on."""
        formatter.write("\nRun 'berth COMMAND --help' for more information on a command.\n")


def root() -> click.Group:
    """The command `berth`."""
    group = TopGroup("berth", _TOP, "Containers: build, share and run applications. Compatible with Docker.")
    group.params += [
        click.Option(["-H", "--host"], help="Engine to talk to: unix:///path, tcp://host:port, ssh://user@host (berth's own)"),
        click.Option(["-v", "--version"], is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
                     help="Print version information and quit"),
        click.Option(["--config"], help="Location of client config files (default: DOCKER_CONFIG, else ~/.docker)"),
        click.Option(["-D", "--debug"], is_flag=True, help="Show where in berth an unexpected error comes from"),
        click.Option(["-c", "--context"], hidden=True, expose_value=False, callback=_check_context),
        click.Option(["-l", "--log-level"], hidden=True, expose_value=False),
        click.Option(["--tls"], is_flag=True, help="Use TLS for tcp:// hosts; implied by --tlsverify"),
        click.Option(["--tlsverify"], is_flag=True, help="Use TLS and verify the engine's certificate"),
        click.Option(["--tlscacert"], help="Trust certificates signed by this CA (ca.pem of DOCKER_CERT_PATH, else ~/.docker)"),
        click.Option(["--tlscert"], help="Our certificate (cert.pem there)"),
        click.Option(["--tlskey"], help="Our key (key.pem there)"),
    ]  # fmt: skip
    group.callback = _remember
    return group


def _remember(host: str | None, config: str | None, debug: bool, **tls: Any) -> None:
    click.get_current_context().obj = {"host": host, "tls": _tls(**tls)}
    if config:
        os.environ["DOCKER_CONFIG"] = config
    if debug:
        os.environ["BERTH_DEBUG"] = "1"


def _tls(*, tls: bool, tlsverify: bool, tlscacert: str | None, tlscert: str | None, tlskey: str | None) -> Tls | None:
    if not (tls or tlsverify):
        return None
    return files_of(verify=tlsverify, ca=tlscacert or "", certificate=tlscert or "", key=tlskey or "")


def _check_context(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value not in (None, "default"):
        raise NotFound(f'context "{value}" not found: there is only "default"; --host and DOCKER_HOST choose another engine')


def _print_version(ctx: click.Context, _: click.Parameter, value: Any) -> None:
    if value:
        click.echo(f"berth version {VERSION}")
        ctx.exit()
