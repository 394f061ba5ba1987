"""run, create, start, attach, exec: everything that joins the terminal to a process."""

from __future__ import annotations

import os
import sys
from typing import Any

import click
import msgspec

from berth.cli import progress, terminal
from berth.cli.command import declare
from berth.cli.run.flags import add_flags
from berth.cli.run.request import create_body, environment
from berth.cli.session import each, engine
from berth.client.containers import CreateBody
from berth.client.engine import Engine
from berth.client.exec import ExecConfig
from berth.errors import BerthError, InvalidArgument, NotFound


def _pull(target: Engine, options: dict[str, Any], image: str) -> None:
    if not options["quiet"]:
        print(f"Unable to find image '{image if ':' in image or '@' in image else image + ':latest'}' locally", file=sys.stderr)
    out = sys.stdout
    sys.stdout = sys.stderr
    try:
        progress.show(target.images.pull(image, platform=options["platform"]), quiet=options["quiet"])
    finally:
        sys.stdout = out


def _create(target: Engine, options: dict[str, Any], image: str, command: list[str]) -> str:
    """The new container's id; the image is pulled when it is missing, or always, or never, as --pull says."""
    policy = options["pull"] or "missing"
    if policy not in ("always", "missing", "never"):
        raise InvalidArgument(f"invalid pull option: '{policy}': must be one of always, missing or never")
    if options["cidfile"] and os.path.exists(options["cidfile"]):
        raise InvalidArgument(
            f"container ID file found, make sure the other container isn't running or delete {options['cidfile']}"
        )
    body = msgspec.convert(create_body(options, image, command), CreateBody)
    if policy == "always":
        _pull(target, options, image)
    try:
        created = target.containers.create(body, name=options["name"], platform=options["platform"])
    except NotFound as error:
        if policy != "missing" or not error.message.startswith("No such image"):
            raise
        _pull(target, options, image)
        created = target.containers.create(body, name=options["name"], platform=options["platform"])
    for warning in created.warnings or []:
        print(f"WARNING: {warning}", file=sys.stderr)
    if options["cidfile"]:
        with open(options["cidfile"], "w", encoding="ascii") as file:
            file.write(created.id or "")
    return created.id or ""


def _fail(error: BerthError) -> None:
    """Docker's exit codes when nothing ran: 127 not found, 126 cannot be run, 125 anything else."""
    text = error.message
    print(f"berth: {text}", file=sys.stderr)
    if "executable file not found" in text or "no such file or directory: unknown" in text:
        sys.exit(127)
    sys.exit(126 if "permission denied" in text or "is a directory" in text else 125)


@declare("run", context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.option("-d", "--detach", is_flag=True, help="Run container in background and print container ID")
@click.option("--sig-proxy/--no-sig-proxy", default=True, help="Proxy received signals to the process")
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND] [ARG...]")
def run(image: str, command: tuple[str, ...], **options: Any) -> None:
    """Create and run a new container from an image."""
    target = engine()
    try:
        code = _run(target, options, image, list(command))
    except BerthError as error:
        _fail(error)
    else:
        sys.exit(code)


def _run(target: Engine, options: dict[str, Any], image: str, command: list[str]) -> int:
    if options["tty"] and options["interactive"] and not options["detach"] and not terminal.is_terminal(0):
        raise InvalidArgument("the input device is not a TTY: leave out -t, or run this in a terminal")
    container = _create(target, options, image, command)
    if options["detach"]:
        target.containers.start(container)
        click.echo(container)
        return 0
    return _foreground(target, options, container)


def _foreground(target: Engine, options: dict[str, Any], container: str) -> int:
    attached = [name.lower() for name in options["attach"]] or ["stdin", "stdout", "stderr"]
    use_stdin = options["interactive"] and "stdin" in attached
    tty = options["tty"]
    stream = target.containers.attach(
        container,
        tty=tty,
        stdin=use_stdin,
        stdout="stdout" in attached,
        stderr="stderr" in attached,
        detach_keys=options["detach_keys"],
    )
    waiting = target.containers.begin_wait(container, condition="removed" if options["rm"] else "next-exit")
    with (
        stream,
        terminal.proxy_signals(lambda name: target.containers.kill(container, signal=name), options["sig_proxy"] and not tty),
    ):
        try:
            target.containers.start(container)
        except BerthError:
            if options["rm"]:
                _discard(target, container)
            raise
        resize = terminal.follow_size(lambda h, w: target.containers.resize(container, height=h, width=w), tty)
        with terminal.raw_mode(tty and use_stdin), resize:
            if terminal.join(stream, stdin=use_stdin, detach_keys=options["detach_keys"]):
                return 0
    result = target.containers.finish_wait(waiting)
    return result.status_code or 0


def _discard(target: Engine, container: str) -> None:
    try:
        target.containers.remove(container, force=True, volumes=True)
    except BerthError:
        pass  # The engine removed it already.


@declare("create", context_settings={"allow_interspersed_args": False})
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND] [ARG...]")
def create(image: str, command: tuple[str, ...], **options: Any) -> None:
    """Create a new container."""
    try:
        click.echo(_create(engine(), options | {"detach": False}, image, list(command)))
    except BerthError as error:
        print(f"berth: {error.message}", file=sys.stderr)
        sys.exit(1)


@declare("start")
@click.option("-a", "--attach", is_flag=True, help="Attach STDOUT/STDERR and forward signals")
@click.option("-i", "--interactive", is_flag=True, help="Attach container's STDIN")
@click.option("--detach-keys", help="Override the key sequence for detaching a container")
@click.argument("names", nargs=-1, required=True, metavar="CONTAINER...")
def start(names: tuple[str, ...], attach: bool, interactive: bool, detach_keys: str | None) -> None:
    """Start one or more stopped containers."""
    target = engine()
    if not attach and not interactive:
        each(names, lambda name: target.containers.start(name))
        return
    if len(names) > 1:
        raise click.UsageError("you cannot start and attach multiple containers at once")
    config = target.containers.inspect_raw(names[0])
    tty = bool(config["Config"].get("Tty"))
    options = {
        "attach": (),
        "interactive": interactive and bool(config["Config"].get("OpenStdin")),
        "tty": tty,
        "detach_keys": detach_keys,
        "rm": bool((config.get("HostConfig") or {}).get("AutoRemove")),
        "sig_proxy": True,
    }
    sys.exit(_foreground(target, options, config["Id"]))


@declare("attach")
@click.option("--no-stdin", is_flag=True, help="Do not attach STDIN")
@click.option("--detach-keys", help="Override the key sequence for detaching a container")
@click.option("--sig-proxy/--no-sig-proxy", default=True, help="Proxy all received signals to the process")
@click.argument("name", metavar="CONTAINER")
def attach(name: str, no_stdin: bool, detach_keys: str | None, sig_proxy: bool) -> None:
    """Attach local standard input, output, and error streams to a running container."""
    target = engine()
    document = target.containers.inspect_raw(name)
    if not document["State"]["Running"]:
        raise InvalidArgument("You cannot attach to a stopped container, start it first")
    if document["State"].get("Paused"):
        raise InvalidArgument("You cannot attach to a paused container, unpause it first")
    tty, use_stdin = bool(document["Config"].get("Tty")), bool(document["Config"].get("OpenStdin")) and not no_stdin
    stream = target.containers.attach(name, tty=tty, stdin=use_stdin, detach_keys=detach_keys)
    with stream, terminal.proxy_signals(lambda s: target.containers.kill(name, signal=s), sig_proxy and not tty):
        resize = terminal.follow_size(lambda h, w: target.containers.resize(name, height=h, width=w), tty)
        waiting = target.containers.begin_wait(name)
        with terminal.raw_mode(tty and use_stdin), resize:
            if terminal.join(stream, stdin=use_stdin, detach_keys=detach_keys):
                return
    sys.exit(target.containers.finish_wait(waiting).status_code or 0)


@declare("exec", context_settings={"allow_interspersed_args": False})
@click.option("-d", "--detach", is_flag=True, help="Detached mode: run command in the background")
@click.option("--detach-keys", help="Override the key sequence for detaching a container")
@click.option("-e", "--env", multiple=True, help="Set environment variables")
@click.option("--env-file", multiple=True, help="Read in a file of environment variables")
@click.option("-i", "--interactive", is_flag=True, help="Keep STDIN open even if not attached")
@click.option(
    "--on-disconnect",
    type=click.Choice(["keep", "kill"]),
    default="kill",
    show_default=True,
    help="What becomes of the command when this client goes without detaching (killed, its terminal closed)",
)
@click.option("--privileged", is_flag=True, help="Give extended privileges to the command")
@click.option("-t", "--tty", is_flag=True, help="Allocate a pseudo-TTY")
@click.option("-u", "--user", help='Username or UID (format: "<name|uid>[:<group|gid>]")')
@click.option("-w", "--workdir", help="Working directory inside the container")
@click.argument("name", metavar="CONTAINER")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND [ARG...]")
def exec_(name: str, command: tuple[str, ...], **options: Any) -> None:
    """Execute a command in a running container."""
    try:
        code = _exec(engine(), name, list(command), options)
    except BerthError as error:
        text = error.message
        print(f"berth: {text}", file=sys.stderr)
        sys.exit(127 if "executable file not found" in text else 126 if "permission denied" in text else 1)
    sys.exit(code)


def _exec(target: Engine, name: str, command: list[str], options: dict[str, Any]) -> int:
    tty, interactive, detach = options["tty"], options["interactive"], options["detach"]
    if tty and interactive and not detach and not terminal.is_terminal(0):
        raise InvalidArgument("the input device is not a TTY: leave out -t, or run this in a terminal")
    config = ExecConfig(
        cmd=command,
        env=environment(options) or None,
        user=options["user"],
        working_dir=options["workdir"],
        tty=tty or None,
        privileged=options["privileged"] or None,
        attach_stdin=(interactive and not detach) or None,
        attach_stdout=not detach or None,
        attach_stderr=not detach or None,
        detach_keys=options["detach_keys"],
        console_size=list(terminal.size()) if tty else None,
        on_disconnect=None if detach else options["on_disconnect"],
    )
    identifier = target.execs.create(name, config)
    if detach:
        target.execs.start_detached(identifier, tty=tty)
        return 0
    with target.execs.start(identifier, tty=tty) as stream:
        resize = terminal.follow_size(lambda h, w: target.execs.resize(identifier, height=h, width=w), tty)
        with terminal.raw_mode(tty and interactive), resize:
            if terminal.join(stream, stdin=interactive, detach_keys=options["detach_keys"]):
                return 0
    return target.execs.inspect(identifier).exit_code or 0


COMMANDS = {"run": add_flags(run), "create": add_flags(create), "start": start, "attach": attach, "exec": exec_}
