"""login and logout: credentials in Docker's configuration file or its helper, so that both command lines share them."""

from __future__ import annotations

import sys

import click

from berth.cli.command import declare
from berth.cli.session import engine
from berth.client.credentials import config_path, forget, keep, server_key
from berth.errors import InvalidArgument


def _password(given: str | None, from_stdin: bool) -> str:
    if given and from_stdin:
        raise InvalidArgument("--password and --password-stdin are mutually exclusive")
    if from_stdin:
        return sys.stdin.read().rstrip("\r\n")
    if given:
        print("WARNING! Using --password via the CLI is insecure. Use --password-stdin.", file=sys.stderr)
        return given
    if not sys.stdin.isatty():
        raise InvalidArgument("cannot perform an interactive login from a non TTY device: use --password-stdin")
    return str(click.prompt("Password", hide_input=True))


@declare("login")
@click.option("-u", "--username", help="Username")
@click.option("-p", "--password", help="Password")
@click.option("--password-stdin", is_flag=True, help="Take the password from stdin")
@click.argument("server", required=False, metavar="[SERVER]")
def login(username: str | None, password: str | None, password_stdin: bool, server: str | None) -> None:
    """Authenticate to a registry."""
    key = server_key(server or "docker.io")
    if password_stdin and not username:
        raise InvalidArgument("must provide --username with --password-stdin")
    user = username or str(click.prompt("Username"))
    secret = _password(password, password_stdin)
    answer = engine().system.login(user, secret, key) or {}
    where = keep(key, user, secret, answer.get("IdentityToken") or "")
    if where == config_path():
        print(f"WARNING! Your credentials are stored unencrypted in '{where}'.", file=sys.stderr)
    click.echo(answer.get("Status") or "Login Succeeded")


@declare("logout")
@click.argument("server", required=False, metavar="[SERVER]")
def logout(server: str | None) -> None:
    """Log out from a registry."""
    key = server_key(server or "docker.io")
    if not forget(key):
        click.echo(f"Not logged in to {key}")
        return
    click.echo(f"Removing login credentials for {key}")


COMMANDS = {"login": login, "logout": logout}
