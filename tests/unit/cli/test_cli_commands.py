"""The command line as a whole: help, switches with values, wrong calls."""

from __future__ import annotations

import click
import pytest

from berth.cli.command import spell_switches, usage_failure
from berth.cli.commands.bootstrap import check_suite, suite_of
from berth.cli.root import _GROUPS, _SECTIONS, root
from berth.client.engine import address, percent
from berth.errors import InvalidArgument, NotImplementedKind


def _failure(*arguments: str) -> tuple[str, int]:
    with pytest.raises(click.UsageError) as caught:
        root().main(args=list(arguments), prog_name="berth", standalone_mode=False)
    return usage_failure(caught.value)


def _command(*names: str) -> click.Command:
    group: click.Command | None = root()
    context = click.Context(root())
    for name in names:
        assert isinstance(group, click.Group)
        group = group.get_command(context, name)
    assert group is not None
    return group


def test_help_lists_every_command_with_its_own_words() -> None:
    shown = {name: text for rows in _SECTIONS.values() for name, text in rows.items()}
    assert set(shown) == set(root().list_commands(click.Context(root())))
    for name, text in shown.items():
        if name not in _GROUPS:
            assert text == (_command(name).help or "").splitlines()[0].removesuffix("."), name


def test_every_command_of_every_group_is_there() -> None:
    for group, (modules, _) in _GROUPS.items():
        for name in modules:
            assert isinstance(_command(group, name), click.Command), (group, name)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--rm=true", "-t=false", "image"], ["--rm", "image"]),
        (["-it=false", "image"], ["-i", "image"]),
        (["--sig-proxy=false", "image", "--rm=false"], ["--no-sig-proxy", "image", "--rm=false"]),
        (["-e", "--rm=false", "image"], ["-e", "--rm=false", "image"]),
        (["-ie", "--rm=false", "image"], ["-ie", "--rm=false", "image"]),
        (["--name=true", "image"], ["--name=true", "image"]),
        (["--", "--rm=true"], ["--", "--rm=true"]),
    ],
)
def test_switches_with_values(given: list[str], expected: list[str]) -> None:
    assert spell_switches(given, _command("run").params, False) == expected


@pytest.mark.parametrize(
    ("arguments", "text", "code"),
    [
        (("run",), "'berth run' requires at least 1 argument", 1),
        (("run", "--nope", "x"), "unknown flag: --nope", 125),
        (("ps", "--last"), "flag needs an argument: --last", 125),
        (("ps", "-n", "x"), "invalid value for '-n'", 125),
        (("ps", "x"), "'berth ps' accepts no arguments", 1),
        (("rename", "x"), "'berth rename' requires 2 arguments", 1),
        (("lgos",), "unknown command: berth lgos: did you mean 'logs'?", 1),
        (("network", "nope"), "unknown command: berth network nope", 1),
    ],
)
def test_wrong_calls(arguments: tuple[str, ...], text: str, code: int) -> None:
    shown, found = _failure(*arguments)
    assert shown.startswith(f"berth: {text}") and found == code
    assert f"Run 'berth{''.join(' ' + a for a in arguments[:1] if a not in ('lgos',))} --help'" in shown


@pytest.mark.parametrize("flag", ["--gpus=all", "--cpu-count=2", "--io-maxiops=1", "--use-api-socket", "--kernel-memory=1g"])
def test_flags_that_are_refused_by_name(flag: str) -> None:
    with pytest.raises(NotImplementedKind, match=flag.partition("=")[0]):
        root().main(args=["run", flag, "image"], prog_name="berth", standalone_mode=False)


@pytest.mark.parametrize(
    ("tag", "suite"),
    [("trixie", "trixie"), ("bookworm-slim", "bookworm"), ("12", "bookworm"), ("13.1", "trixie"), ("latest", "")],
)
def test_the_suite_of_a_tag(tag: str, suite: str) -> None:
    assert suite_of(tag) == suite


@pytest.mark.parametrize("suite", ["", "--help", "a b", "../x"])
def test_suites_that_are_none(suite: str) -> None:
    with pytest.raises(InvalidArgument, match="suite"):
        check_suite(suite, "debian")


def test_dockers_socket_is_never_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.delenv("BERTH_HOST", raising=False)
    assert str(address()) == "unix:///run/berth/berth.sock"
    monkeypatch.setenv("DOCKER_HOST", "unix:///var/run/docker.sock")
    assert str(address()) == "unix:///var/run/docker.sock"
    assert str(address("tcp://a:1")) == "tcp://a:1"


def test_percent_encoding() -> None:
    assert percent('{"a": ["ü/~"]}') == "%7B%22a%22%3A%20%5B%22%C3%BC%2F~%22%5D%7D"
