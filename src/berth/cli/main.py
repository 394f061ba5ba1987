"""`berth`: Docker's commands for berth, or for any other Docker engine.

Commands are imported when they are called, so that a short command stays short. Errors that the user can act on are one
line on stderr and exit code 1; `run`, `create` and `exec` have Docker's own exit codes (125, 126, 127).
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from berth.errors import BerthError

_CONTAINER = {
    **dict.fromkeys(("attach", "create", "exec", "run", "start"), "run"),
    **dict.fromkeys(("commit", "diff", "export", "kill", "pause", "port", "rename", "restart"), "container"),
    **dict.fromkeys(("rm", "stop", "top", "unpause", "wait"), "container"),
    "cp": "copy",
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
_SYSTEM = {"df": "system", "events": "system", "info": "system", "prune": "prune"}
_TOP = {
    **{name: module for name, module in _CONTAINER.items() if name not in ("ls", "prune", "inspect")},
    **{name: module for name, module in _IMAGE.items() if name not in ("ls", "prune", "rm", "inspect", "bootstrap")},
    "compose": "compose", "events": "system", "images": "listing", "info": "system", "inspect": "inspect", "login": "login",
    "logout": "login", "ps": "listing", "rmi": "image", "search": "image", "version": "system",
}  # fmt: skip
_GROUPS = {
    "builder": ({"build": "build", "prune": "prune"}, "Manage builds"),
    "container": (_CONTAINER, "Manage containers"),
    "engine": ({"start": "engine", "stop": "engine"}, "Start and stop the engine"),
    "image": (_IMAGE, "Manage images"),
    "network": (_NETWORK, "Manage networks"),
    "system": (_SYSTEM, "Manage berth"),
    "volume": (_VOLUME, "Manage volumes"),
}
_ALIASES = {"list": "ls", "remove": "rm", "ps": "ls"}


class LazyGroup(click.Group):
    """A group whose commands are found in modules of `commands` by name: `module.GROUP_NAME` or `module.NAME`."""

    def __init__(self, name: str, modules: dict[str, str], help: str) -> None:
        super().__init__(name, help=help, no_args_is_help=True)
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


def _root() -> click.Group:
    group = TopGroup("berth", _TOP, "Containers: build, share and run applications. Compatible with Docker.")
    group.params += [
        click.Option(["-H", "--host"], help="Engine to talk to: unix:///path or tcp://host:port (default: berth's own)"),
        click.Option(["-v", "--version"], is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
                     help="Print version information and quit"),
    ]  # fmt: skip
    group.callback = _remember
    return group


def _remember(host: str | None) -> None:
    click.get_current_context().obj = {"host": host}


def _print_version(ctx: click.Context, _: click.Parameter, value: Any) -> None:
    if value:
        click.echo("berth version 0.1.0")
        ctx.exit()


def main() -> None:
    """The entry point."""
    try:
        _root().main(prog_name="berth", standalone_mode=False)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.UsageError as error:
        error.show()
        # Docker: 125 for a wrong flag of run, 1 elsewhere.
        name = error.ctx.info_name if error.ctx else ""
        sys.exit(125 if name in ("run", "create", "exec") else 1)
    except click.ClickException as error:
        error.show()
        sys.exit(1)
    except click.Abort:
        sys.exit(130)
    except BerthError as error:
        print(f"berth: {error.message}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away (`berth ps | head -1`): nothing is left to say.
        sys.stderr.close()
        sys.exit(141)
