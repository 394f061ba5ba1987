"""The configuration file of `berthd`: its options as JSON, with dockerd's names where dockerd has the same.

    {"hosts": ["tcp://127.0.0.1:2375"], "registry-mirrors": ["https://mirror"], "log-opts": {"max-size": "5m"},
     "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 1024, "Hard": 4096}}, "runtimes": {"x": {"path": "/usr/bin/x"}}}

It comes to arguments that stand before those of the command line: these win, lists are joined.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from berth.errors import InvalidArgument

DEFAULT_FILE = "/etc/berth/daemon.json"
# Names of dockerd's file that are not the option's own.
_NAMES = {
    "data-root": "root",
    "default-address-pools": "default-address-pool",
    "default-ulimits": "default-ulimit",
    "hosts": "host",
    "insecure-registries": "insecure-registry",
    "log-opts": "log-opt",
    "registry-mirrors": "registry-mirror",
    "runtimes": "add-runtime",
    "storage-opts": "storage-opt",
}


def from_file(path: str, known: Collection[str], *, required: bool) -> list[str]:
    """The file as arguments; none when it is not there and not `required`. InvalidArgument names what it cannot take.
    `known` are the options that there are, as --name."""
    try:
        with open(path, "rb") as file:
            document = msgspec.json.decode(file.read() or b"{}")
    except FileNotFoundError:
        if required:
            raise InvalidArgument(f"--config-file {path}: there is no such file") from None
        return []
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"the configuration file {path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise InvalidArgument(f'the configuration file {path} must hold an object, {{"option": value}}')
    found: list[str] = []
    for key, value in document.items():
        option = f"--{_NAMES.get(key, key)}"
        if option not in known or key == "config-file":
            raise InvalidArgument(f"{path}: there is no option {key!r}: `berthd --help` lists those that there are")
        try:
            found += [argument for text in _texts(option, value) for argument in _spelled(option, text)]
        except TypeError:
            raise InvalidArgument(f"{path}: the value of {key!r} cannot be used: {str(value)[:80]}") from None
    return found


def _spelled(option: str, text: str | bool) -> list[str]:
    if isinstance(text, str):
        return [f"{option}={text}"]
    if option in ("--tls", "--tlsverify"):
        return [f"{option}={str(text).lower()}"]
    return [option] if text else []


def _texts(option: str, value: Any) -> list[str | bool]:
    """Its values, one for each time that the option is given."""
    if isinstance(value, bool):
        return [value]
    if isinstance(value, str | int | float):
        return [str(value)]
    if isinstance(value, list):
        return [text for entry in value for text in _texts(option, entry)]
    if isinstance(value, dict) and option == "--default-address-pool":
        return [",".join(f"{name}={_entry(option, entry)}" for name, entry in value.items())]
    if isinstance(value, dict):
        return [f"{name}={_entry(option, entry)}" for name, entry in value.items()]
    raise TypeError


def _entry(option: str, value: Any) -> str:
    if isinstance(value, dict) and option == "--default-ulimit":
        return f"{value['Soft']}:{value['Hard']}" if {"Soft", "Hard"} <= set(value) else _fail()
    if isinstance(value, dict) and option == "--add-runtime":
        return str(value["path"]) if "path" in value else _fail()
    return str(value) if isinstance(value, str | int | float) else _fail()


def _fail() -> str:
    raise TypeError
