"""Commands with the manners of Docker's: `--flag=false`, and usage errors in its words and with its exit codes.

Exit codes: 125 for a flag that is wrong, 1 for too few or too many arguments and for a command that is not there.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

import click

_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")
FLAG_ERROR = 125


class Command(click.Command):
    """A command whose switches may be written as `--name=true` and `--name=false`, as Go's flags may."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Bring switches with values into click's form first."""
        try:
            return super().parse_args(ctx, spell_switches(args, self.params, ctx.allow_interspersed_args))
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise


def declare(name: str, **attributes: Any) -> Callable[[Callable[..., Any]], Command]:
    """As `click.command`."""
    return click.command(name, cls=Command, **attributes)


def refuse(names: str, reason: str, *, switch: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A flag of Docker's that is known and not supported: its use ends the command with the reason."""
    return click.option(*names.split(), expose_value=False, hidden=True, is_flag=switch, callback=refusal(names, reason))


def ignore(names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A switch of Docker's that changes nothing here."""
    return click.option(*names.split(), expose_value=False, hidden=True, is_flag=True)


def refusal(names: str, reason: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    """The callback of a flag that is not supported."""

    def check(_ctx: click.Context, _parameter: click.Parameter, value: Any) -> None:
        from berth.errors import NotImplementedKind

        if value not in (None, (), False):
            raise NotImplementedKind(f"{names.rsplit(maxsplit=1)[-1]} is not supported: {reason}")

    return check


def spell_switches(args: list[str], params: Iterable[click.Parameter], interspersed: bool) -> list[str]:
    """`--rm=true` as `--rm`, `--rm=false` as its opposite, or as nothing where off is the default.

    Only what stands before the first argument of a command that passes its arguments on (`run`, `exec`) is touched.
    """
    known = [param for param in params if isinstance(param, click.Option)]
    options = {name: option for option in known for name in (*option.opts, *option.secondary_opts)}
    out: list[str] = []
    rest = iter(args)
    for text in rest:
        name, equals, value = text.partition("=")
        option = options.get(name)
        if text == "--" or not (interspersed or text.startswith("-")) or text == "-":
            out.append(text)
            if text == "--" or not interspersed:
                break
        elif option is None and equals and _all_switches(name, options) and value in _TRUE + _FALSE:
            out.append(name if value in _TRUE else name[:-1])  # -it=false is -i
        elif option is None:
            out.append(text)
            if text.startswith("-") and not text.startswith("--") and _cluster_wants_value(text, options):
                out.extend(_next(rest))
        elif option.is_flag and equals and value in _TRUE:
            out.append(name)
        elif option.is_flag and equals and value in _FALSE:
            out.extend(option.secondary_opts[:1])
        else:
            out.append(text)
            if not option.is_flag and not equals:
                out.extend(_next(rest))
    out.extend(rest)
    return out


def _next(rest: Iterable[str]) -> list[str]:
    for text in rest:
        return [text]
    return []


def _all_switches(text: str, options: dict[str, click.Option]) -> bool:
    found = [options.get(f"-{letter}") for letter in text[1:]]
    return len(found) > 1 and not text.startswith("--") and all(option is not None and option.is_flag for option in found)


def _cluster_wants_value(text: str, options: dict[str, click.Option]) -> bool:
    """Whether `-itv` ends with a flag whose value is the next argument; `-p80:80` has its value already."""
    for index, letter in enumerate(text[1:], 1):
        option = options.get(f"-{letter}")
        if option is None:
            return False
        if not option.is_flag:
            return index == len(text) - 1
    return False


def usage_failure(error: click.UsageError) -> tuple[str, int]:
    """What to print for a wrong call, and the exit code."""
    path = error.ctx.command_path if error.ctx else "berth"
    text, code = _words(error, path)
    if error.ctx is None:
        return f"berth: {text}", code
    usage = error.ctx.get_usage().removeprefix("Usage:").strip()
    return f"berth: {text}\n\nUsage:  {usage}\n\nRun '{path} --help' for more information", code


def _words(error: click.UsageError, path: str) -> tuple[str, int]:
    text = error.format_message().rstrip(".")
    match error:
        case click.NoSuchOption():
            hint = f" (did you mean {', '.join(error.possibilities)}?)" if error.possibilities else ""
            return f"unknown flag: {error.option_name}{hint}", FLAG_ERROR
        case click.BadOptionUsage():
            if "requires an argument" in text:
                return f"flag needs an argument: {error.option_name}", FLAG_ERROR
            return text, FLAG_ERROR
        case click.MissingParameter():
            return f"'{path}' {_count(error.ctx)}", 1
        case click.BadParameter(param=click.Option()):
            return text[:1].lower() + text[1:], FLAG_ERROR
    if text.startswith("Got unexpected extra argument"):
        return f"'{path}' {_count(error.ctx)}: {text[4:]}", 1
    return text, 1


def _count(ctx: click.Context | None) -> str:
    """`requires at least 1 argument` and its like."""
    arguments = [p for p in ctx.command.params if isinstance(p, click.Argument)] if ctx else []
    least = sum(1 for p in arguments if p.required)
    endless = any(p.nargs == -1 for p in arguments)
    plural = "" if least == 1 else "s"
    if endless:
        return f"requires at least {least} argument{plural}"
    if not arguments:
        return "accepts no arguments"
    if least == len(arguments):
        return f"requires {least} argument{plural}"
    most = len(arguments)
    if least == 0:
        return f"requires at most {most} argument{'s' if most > 1 else ''}"
    return f"requires at least {least} and at most {most} arguments"


def unknown(path: str, name: str, names: Iterable[str]) -> str:
    """The text for a command that is not there, with the nearest one that is."""
    near = difflib.get_close_matches(name, list(names), 1)
    return f"unknown command: {path} {name}" + (f": did you mean '{near[0]}'?" if near else "")
