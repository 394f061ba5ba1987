"""compose: the flags of Docker's Compose; what they do is in berth.compose.commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import click

from berth.cli import terminal
from berth.client.stream import Hijacked
from berth.compose.load.source import LoadOptions
from berth.compose.progress import Progress
from berth.compose.session import Resize, Session
from berth.errors import InvalidArgument

Command = Callable[..., Any]


class _Terminal:
    """The command line's terminal for Compose."""

    def is_terminal(self) -> bool:
        """Whether both ends are one."""
        return os.isatty(0) and os.isatty(1)

    def prepared(self, resize: Resize, *, raw: bool) -> AbstractContextManager[None]:
        """Raw mode and the window's size."""
        return _prepared(resize, raw)

    def join(self, stream: Hijacked, *, stdin: bool) -> bool:
        """Copy both ways."""
        return terminal.join(stream, stdin=stdin)


@contextmanager
def _prepared(resize: Resize, raw: bool) -> Iterator[None]:
    with terminal.raw_mode(raw), terminal.follow_size(resize, raw):
        yield


@click.group("compose", no_args_is_help=True)
@click.option("-f", "--file", "files", multiple=True, help="Compose configuration files")
@click.option("-p", "--project-name", help="Project name")
@click.option("--profile", "profiles", multiple=True, help="Specify a profile to enable")
@click.option("--env-file", "env_files", multiple=True, help="Specify an alternate environment file")
@click.option("--project-directory", help="Specify an alternate working directory (default: that of the first file)")
@click.option("--dry-run", is_flag=True, help="Show what would be done and do nothing")
@click.option("--parallel", type=int, default=-1, help="Control max parallelism, -1 for the default")
@click.option(
    "--ansi", type=click.Choice(["never", "always", "auto"]), default="auto", help="Control when to print ANSI control characters"
)
@click.option(
    "--progress",
    "progress",
    type=click.Choice(["auto", "tty", "plain", "json", "quiet"]),
    default="auto",
    help="Type of progress output",
)
@click.option("--all-resources", is_flag=True, hidden=True)
@click.option("--compatibility", is_flag=True, hidden=True)
@click.pass_context
def compose(
    ctx: click.Context,
    files: tuple[str, ...],
    project_name: str | None,
    profiles: tuple[str, ...],
    env_files: tuple[str, ...],
    project_directory: str | None,
    dry_run: bool,
    parallel: int,
    ansi: str,
    progress: str,
    all_resources: bool,
    compatibility: bool,
) -> None:
    """Define and run multi-container applications."""
    from berth.cli.session import engine

    limit = os.environ.get("COMPOSE_PARALLEL_LIMIT", "")
    ctx.meta["session"] = Session(
        options=LoadOptions(files, project_name, project_directory, profiles, env_files),
        connect=engine,
        terminal=_Terminal(),
        progress=Progress(sys.stderr, quiet=progress == "quiet"),
        dry_run=dry_run,
        parallel=parallel if parallel > 0 else int(limit) if limit.isdigit() and int(limit) > 0 else 16,
        color=ansi == "always" or (ansi == "auto" and os.isatty(1) and not os.environ.get("NO_COLOR")),
    )


def _session() -> Session:
    found: Session = click.get_current_context().meta["session"]
    return found


def _pairs(entries: tuple[str, ...], flag: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in entries:
        name, equals, count = entry.partition("=")
        if not equals or not count.isdigit():
            raise InvalidArgument(f"invalid {flag} value {entry!r}: write SERVICE=NUMBER")
        found[name] = int(count)
    return found


def _services(function: Command) -> Command:
    return click.argument("services", nargs=-1, metavar="[SERVICE...]")(function)


def _create_flags(function: Command) -> Command:
    for option in reversed(
        (
            click.option("--build", is_flag=True, help="Build images before starting containers"),
            click.option("--no-build", is_flag=True, help="Don't build an image, even if it is missing"),
            click.option("--scale", multiple=True, metavar="SERVICE=NUM", help="Scale SERVICE to NUM containers"),
            click.option("--force-recreate", is_flag=True, help="Recreate containers even if nothing changed"),
            click.option("--no-recreate", is_flag=True, help="If containers already exist, don't recreate them"),
            click.option("--remove-orphans", is_flag=True, help="Remove containers for services not defined in the files"),
            click.option("--pull", type=click.Choice(["always", "missing", "never", "build"]), help="Pull image before running"),
            click.option("--quiet-pull", is_flag=True, help="Pull without printing progress"),
            click.option("-y", "--yes", is_flag=True, hidden=True),
        )
    ):
        function = option(function)
    return function


@compose.command("up")
@_create_flags
@click.option("-d", "--detach", is_flag=True, help="Run containers in the background")
@click.option("--wait", is_flag=True, help="Wait for services to be running or healthy, or to have ended with 0")
@click.option("--wait-timeout", type=int, help="Maximum seconds to wait for the project to be ready")
@click.option("--always-recreate-deps", is_flag=True, help="Recreate dependent containers")
@click.option("--no-deps", is_flag=True, help="Don't start linked services")
@click.option("--quiet-build", is_flag=True, help="Suppress the build output")
@click.option("-t", "--timeout", type=int, help="Seconds to wait when containers are stopped")
@click.option("--abort-on-container-exit", is_flag=True, help="Stop all containers if any container was stopped")
@click.option("--abort-on-container-failure", is_flag=True, help="Stop all containers if any container exited with failure")
@click.option("--exit-code-from", metavar="SERVICE", help="Return the exit code of the service's container")
@click.option("--no-start", is_flag=True, help="Don't start the services after creating them")
@click.option("-V", "--renew-anon-volumes", is_flag=True, help="Recreate anonymous volumes")
@click.option("--timestamps", is_flag=True, help="Show timestamps")
@click.option("--no-log-prefix", is_flag=True, help="Don't print prefix in logs")
@click.option("--no-color", is_flag=True, help="Produce monochrome output")
@click.option("--attach", multiple=True, metavar="SERVICE", help="Restrict attaching to the specified services")
@click.option("--no-attach", multiple=True, metavar="SERVICE", help="Do not attach to the specified services")
@_services
def up(scale: tuple[str, ...], yes: bool, **flags: Any) -> int:
    """Create and start containers."""
    from berth.compose.commands import up as command

    return command.run(_session(), command.UpOptions(scale=_pairs(scale, "--scale"), **flags))


@compose.command("create")
@_create_flags
@_services
def create(scale: tuple[str, ...], yes: bool, **flags: Any) -> int:
    """Create containers for services."""
    from berth.compose.commands import up as command

    return command.run(_session(), command.UpOptions(scale=_pairs(scale, "--scale"), no_start=True, **flags))


@compose.command("scale")
@click.option("--no-deps", is_flag=True, help="Don't start linked services")
@click.argument("scale", nargs=-1, required=True, metavar="SERVICE=NUMBER...")
def scale(scale: tuple[str, ...], no_deps: bool) -> int:
    """Scale services."""
    from berth.compose.commands import up as command

    wanted = _pairs(scale, "scale")
    return command.run(
        _session(), command.UpOptions(services=tuple(wanted), scale=wanted, detach=True, no_deps=no_deps, no_recreate=True)
    )


@compose.command("down")
@click.option("-v", "--volumes", is_flag=True, help="Remove named volumes and anonymous volumes attached to containers")
@click.option("--rmi", type=click.Choice(["all", "local"]), help="Remove images used by services")
@click.option("--remove-orphans", is_flag=True, help="Remove containers for services not defined in the files")
@click.option("-t", "--timeout", type=int, help="Seconds to wait when containers are stopped")
@_services
def down(**flags: Any) -> int:
    """Stop and remove containers, networks."""
    from berth.compose.commands import down as command

    return command.run(_session(), command.DownOptions(**flags))


@compose.command("ps")
@click.option("-a", "--all", is_flag=True, help="Show all stopped containers")
@click.option("-q", "--quiet", is_flag=True, help="Only display IDs")
@click.option("--format", default="table", help="table or json")
@click.option("--services", "only_services", is_flag=True, help="Display services")
@click.option("--filter", "filters", multiple=True, help="Filter services by a property (status=...)")
@click.option("--status", multiple=True, help="Filter services by status")
@click.option("--no-trunc", is_flag=True, help="Don't truncate output")
@click.option("--orphans/--no-orphans", default=True, help="Include orphaned services")
@_services
def ps(filters: tuple[str, ...], status: tuple[str, ...], **flags: Any) -> int:
    """List containers."""
    from berth.compose.commands import ps as command

    for entry in filters:
        if not entry.startswith("status="):
            raise InvalidArgument(f"unknown filter {entry!r}: the only one is status=STATE")
    states = (*status, *(entry.removeprefix("status=") for entry in filters))
    return command.run(_session(), command.PsOptions(status=states, **flags))


@compose.command("logs")
@click.option("-f", "--follow", is_flag=True, help="Follow log output")
@click.option("-n", "--tail", default="all", help="Number of lines to show from the end of the logs for each container")
@click.option("-t", "--timestamps", is_flag=True, help="Show timestamps")
@click.option("--since", help="Show logs since timestamp or relative (42m)")
@click.option("--until", help="Show logs before a timestamp or relative (42m)")
@click.option("--no-color", is_flag=True, help="Produce monochrome output")
@click.option("--no-log-prefix", is_flag=True, help="Don't print prefix in logs")
@click.option("--index", type=int, default=0, help="Index of the container if the service has several")
@_services
def logs(**flags: Any) -> int:
    """View output from containers."""
    from berth.compose.commands import logs as command

    return command.run(_session(), command.LogsOptions(**flags))


_PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@compose.command("exec", context_settings=_PASS_ON)
@click.option("-d", "--detach", is_flag=True, help="Run command in the background")
@click.option("-e", "--env", multiple=True, help="Set environment variables")
@click.option("--index", type=int, default=0, help="Index of the container if the service has several")
@click.option("-i", "--interactive", is_flag=True, default=True, hidden=True)
@click.option("-t", "--tty", "_tty", is_flag=True, hidden=True)
@click.option("-T", "--no-tty", is_flag=True, help="Disable pseudo-TTY allocation")
@click.option("--privileged", is_flag=True, help="Give extended privileges to the process")
@click.option("-u", "--user", help="Run the command as this user")
@click.option("-w", "--workdir", help="Path to workdir directory for this command")
@click.argument("service")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(no_tty: bool, _tty: bool, **flags: Any) -> int:
    """Execute a command in a running container."""
    from berth.compose.commands import exec as command

    return command.run(_session(), command.ExecOptions(tty=not no_tty, **flags))


@compose.command("run", context_settings=_PASS_ON)
@click.option("--build", is_flag=True, help="Build image before starting container")
@click.option("-d", "--detach", is_flag=True, help="Run container in background and print container ID")
@click.option("--entrypoint", help="Override the entrypoint of the image")
@click.option("-e", "--env", multiple=True, help="Set environment variables")
@click.option("-i", "--interactive", is_flag=True, default=True, hidden=True)
@click.option("-l", "--label", "labels", multiple=True, help="Add or override a label")
@click.option("--name", help="Assign a name to the container")
@click.option("-t", "--tty", "_tty", is_flag=True, hidden=True)
@click.option("-T", "--no-TTY", "no_tty", is_flag=True, help="Disable pseudo-TTY allocation")
@click.option("--no-deps", is_flag=True, help="Don't start linked services")
@click.option("-p", "--publish", multiple=True, help="Publish a container's port(s) to the host")
@click.option("--quiet-pull", is_flag=True, help="Pull without printing progress")
@click.option("--remove-orphans", is_flag=True, hidden=True)
@click.option("--rm", is_flag=True, help="Automatically remove the container when it exits")
@click.option("-P", "--service-ports", is_flag=True, help="Run command with all service's ports enabled and mapped to the host")
@click.option("--use-aliases", is_flag=True, help="Use the service's network aliases")
@click.option("-u", "--user", help="Run as specified username or uid")
@click.option("-v", "--volume", multiple=True, help="Bind mount a volume")
@click.option("-w", "--workdir", help="Working directory inside the container")
@click.option("--cap-add", multiple=True, help="Add Linux capabilities")
@click.option("--cap-drop", multiple=True, help="Drop Linux capabilities")
@click.argument("service")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def run(no_tty: bool, _tty: bool, **flags: Any) -> int:
    """Run a one-off command on a service."""
    from berth.compose.commands import run as command

    return command.run(_session(), command.RunOptions(tty=not no_tty, **flags))


@compose.command("build")
@click.option("--no-cache", is_flag=True, help="Do not use cache when building the image")
@click.option("--pull", is_flag=True, help="Always attempt to pull a newer version of the image")
@click.option("--push", is_flag=True, help="Push service images")
@click.option("-q", "--quiet", is_flag=True, help="Suppress the build output")
@click.option("--build-arg", "build_args", multiple=True, metavar="KEY=VALUE", help="Set build-time variables for services")
@click.option("--with-dependencies", is_flag=True, help="Also build dependencies")
@click.option("--progress", hidden=True)
@_services
def build(build_args: tuple[str, ...], progress: str | None, **flags: Any) -> int:
    """Build or rebuild services."""
    from berth.compose.commands import images as command

    found = {name: value if equals else None for name, equals, value in (entry.partition("=") for entry in build_args)}
    return command.build(_session(), command.BuildCommand(build_args=found, **flags))


@compose.command("pull")
@click.option("-q", "--quiet", is_flag=True, help="Pull without printing progress information")
@click.option(
    "--ignore-pull-failures", "ignore_failures", is_flag=True, help="Pull what it can and ignore images with pull failures"
)
@click.option("--ignore-buildable", is_flag=True, help="Ignore images that can be built")
@click.option("--include-deps", is_flag=True, help="Also pull services declared as dependencies")
@click.option("--policy", type=click.Choice(["missing", "always"]), help="Apply pull policy")
@_services
def pull(**flags: Any) -> int:
    """Pull service images."""
    from berth.compose.commands import images as command

    return command.pull(_session(), command.TransferOptions(**flags))


@compose.command("push")
@click.option("-q", "--quiet", is_flag=True, help="Push without printing progress information")
@click.option(
    "--ignore-push-failures", "ignore_failures", is_flag=True, help="Push what it can and ignore images with push failures"
)
@click.option("--include-deps", is_flag=True, help="Also push images of services declared as dependencies")
@_services
def push(**flags: Any) -> int:
    """Push service images."""
    from berth.compose.commands import images as command

    return command.push(_session(), command.TransferOptions(**flags))


@compose.command("start")
@_services
def start(**flags: Any) -> int:
    """Start services."""
    from berth.compose.commands import lifecycle

    return lifecycle.start(_session(), lifecycle.LifecycleOptions(**flags))


@compose.command("stop")
@click.option("-t", "--timeout", type=int, help="Seconds to wait before killing a container")
@_services
def stop(**flags: Any) -> int:
    """Stop services."""
    from berth.compose.commands import lifecycle

    return lifecycle.stop(_session(), lifecycle.LifecycleOptions(**flags))


@compose.command("restart")
@click.option("-t", "--timeout", type=int, help="Seconds to wait before killing a container")
@click.option("--no-deps", is_flag=True, help="Don't restart dependent services")
@_services
def restart(**flags: Any) -> int:
    """Restart service containers."""
    from berth.compose.commands import lifecycle

    return lifecycle.restart(_session(), lifecycle.LifecycleOptions(**flags))


@compose.command("kill")
@click.option("-s", "--signal", help="SIGNAL to send to the container")
@_services
def kill(**flags: Any) -> int:
    """Force stop service containers."""
    from berth.compose.commands import lifecycle

    return lifecycle.kill(_session(), lifecycle.LifecycleOptions(**flags))


@compose.command("pause")
@_services
def pause(**flags: Any) -> int:
    """Pause services."""
    from berth.compose.commands import lifecycle

    return lifecycle.pause(_session(), lifecycle.LifecycleOptions(**flags))


@compose.command("unpause")
@_services
def unpause(**flags: Any) -> int:
    """Unpause services."""
    from berth.compose.commands import lifecycle

    return lifecycle.unpause(_session(), lifecycle.LifecycleOptions(**flags))


@compose.command("rm")
@click.option("-f", "--force", is_flag=True, help="Don't ask to confirm removal")
@click.option("-s", "--stop", is_flag=True, help="Stop the containers, if required, before removing")
@click.option("-v", "--volumes", is_flag=True, help="Remove any anonymous volumes attached to containers")
@_services
def rm(force: bool, **flags: Any) -> int:
    """Remove stopped service containers."""
    from berth.compose.commands import lifecycle

    def confirm(names: list[str]) -> bool:
        return force or click.confirm(f"Going to remove {', '.join(names)}", err=True)

    return lifecycle.rm(_session(), lifecycle.LifecycleOptions(**flags), confirm)


@compose.command("wait")
@click.option("--down-project", is_flag=True, help="Drops project when the first container stops")
@click.argument("services", nargs=-1, required=True, metavar="SERVICE...")
def wait(**flags: Any) -> int:
    """Block until containers of all (or specified) services stop."""
    from berth.compose.commands import lifecycle

    return lifecycle.wait(_session(), lifecycle.LifecycleOptions(**flags))


@compose.command("config")
@click.option("--services", "show", flag_value="services", help="Print the service names, one per line")
@click.option("--volumes", "show", flag_value="volumes", help="Print the volume names, one per line")
@click.option("--networks", "show", flag_value="networks", help="Print the network names, one per line")
@click.option("--images", "show", flag_value="images", help="Print the image names, one per line")
@click.option("--profiles", "show", flag_value="profiles", help="Print the profile names, one per line")
@click.option("--environment", "show", flag_value="environment", help="Print environment used for interpolation")
@click.option("--hash", "hash", metavar="SERVICE", help='Print the service config hash, one per line ("*" for all)')
@click.option("--format", type=click.Choice(["yaml", "json"]), default="yaml", help="Format the output")
@click.option("-q", "--quiet", is_flag=True, help="Only validate the configuration, don't print anything")
@click.option("-o", "--output", help="Save to file (default to stdout)")
@_services
def config(show: str | None, **flags: Any) -> int:
    """Parse, resolve and render compose file in canonical format."""
    from berth.compose.commands import config as command

    return command.run(_session(), command.ConfigOptions(show=show or "", **flags))


@compose.command("ls")
@click.option("-a", "--all", is_flag=True, help="Show all stopped Compose projects")
@click.option("-q", "--quiet", is_flag=True, help="Only display project names")
@click.option("--format", type=click.Choice(["table", "json"]), default="table", help="Format the output")
@click.option("--filter", "filters", multiple=True, help="Filter output (name=...)")
def ls(filters: tuple[str, ...], **flags: Any) -> int:
    """List running compose projects."""
    from berth.compose.commands import ps as command

    names = tuple(entry.removeprefix("name=") for entry in filters)
    return command.ls(_session(), command.LsOptions(names=names, **flags))


@compose.command("images")
@click.option("-q", "--quiet", is_flag=True, help="Only display IDs")
@click.option("--format", type=click.Choice(["table", "json"]), default="table", help="Format the output")
@_services
def images(services: tuple[str, ...], quiet: bool, format: str) -> int:
    """List images used by the created containers."""
    from berth.compose.commands import ps as command

    return command.images(_session(), services, quiet=quiet, format=format)


@compose.command("port")
@click.option("--protocol", type=click.Choice(["tcp", "udp"]), default="tcp", help="tcp or udp")
@click.option("--index", type=int, default=0, help="Index of the container if the service has several")
@click.argument("service")
@click.argument("private_port", type=int)
def port(service: str, private_port: int, protocol: str, index: int) -> int:
    """Print the public port for a port binding."""
    from berth.compose.commands import ps as command

    return command.port(_session(), service, private_port, protocol=protocol, index=index)


@compose.command("top")
@_services
def top(services: tuple[str, ...]) -> int:
    """Display the running processes."""
    from berth.compose.commands import ps as command

    return command.top(_session(), services)


@compose.command("events")
@click.option("--json", is_flag=True, help="Output events as a stream of json objects")
@click.option("--since", help="Show all events created since timestamp")
@click.option("--until", help="Stream events until this timestamp")
@_services
def events(services: tuple[str, ...], json: bool, since: str | None, until: str | None) -> int:
    """Receive real time events from containers."""
    from berth.compose.commands import logs as command

    return command.events(_session(), services, json=json, since=since, until=until)


@compose.command("cp")
@click.option("-a", "--archive", is_flag=True, help="Archive mode (copy all uid/gid information)")
@click.option("-L", "--follow-link", is_flag=True, help="Always follow symbol link in SRC_PATH")
@click.option("--index", type=int, default=0, help="Index of the container if the service has several")
@click.argument("source", metavar="SERVICE:SRC_PATH|SRC_PATH|-")
@click.argument("destination", metavar="DEST_PATH|-|SERVICE:DEST_PATH")
@click.pass_context
def cp(ctx: click.Context, source: str, destination: str, archive: bool, follow_link: bool, index: int) -> None:
    """Copy files/folders between a service container and the local filesystem."""
    from berth.cli.commands import copy
    from berth.compose.commands.ps import pick

    def located(place: str) -> str:
        service, path = copy.split(place)
        return f"{pick(_session(), service, index).id}:{path}" if service else place

    ctx.invoke(
        copy.cp, source=located(source), destination=located(destination), archive=archive, follow_link=follow_link, quiet=True
    )


@compose.command("version")
@click.option("--short", is_flag=True, help="Shows only Compose's version number")
@click.option("-f", "--format", type=click.Choice(["pretty", "json"]), default="pretty", help="Format the output")
def version(short: bool, format: str) -> int:
    """Show the Compose version information."""
    from berth.compose.label import COMPOSE_VERSION

    if short:
        click.echo(COMPOSE_VERSION)
    elif format == "json":
        click.echo(f'{{"version":"v{COMPOSE_VERSION}"}}')
    else:
        click.echo(f"Docker Compose version v{COMPOSE_VERSION} (berth)")
    return 0


@compose.result_callback()
def _finish(code: int | None, **_: Any) -> None:
    if code:
        sys.stdout.flush()
        sys.exit(code)


COMMANDS = {"compose": compose}
