"""The tables by which bundles are read, against the model that the engine writes them with; what is said of a bad document."""

from __future__ import annotations

import json
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import pytest

from berth.errors import InvalidArgument
from berth.model import oci
from berth.runtime.oci import document, jsontext
from berth.runtime.oci.usage import COMMANDS, GLOBAL, help_text, read

# What the tables leave out, or take without being told.
_LENIENT = {"user", "args", "linux", "uid", "gid"}


def compare(table: dict[str, Any], struct: type, where: str) -> int:
    """Each field of the struct has a row of the same key and kind; how many there are."""
    hints = get_type_hints(struct)
    names = {field.name: field for field in msgspec.structs.fields(struct)}
    assert set(table) == set(names), where
    for name, (key, kind, default) in table.items():
        assert (key or document.camel(name)) == names[name].encode_name, f"{where}.{name}"
        assert kind_of(hints[name]) == shape(kind), f"{where}.{name}"
        required = names[name].required
        assert name in _LENIENT or (default is document.REQUIRED) == required, f"{where}.{name}"
    return len(table)


def kind_of(hint: Any) -> Any:
    options = [part for part in get_args(hint) if part is not type(None)]
    if get_origin(hint) is list:
        return [kind_of(options[0])]
    if get_origin(hint) is dict:
        return {"": kind_of(options[1])}
    if options and get_origin(hint) is not list:
        return kind_of(options[0])
    return "object" if isinstance(hint, type) and issubclass(hint, msgspec.Struct) else hint


def shape(kind: Any) -> Any:
    if isinstance(kind, list):
        return [shape(kind[0])]
    if isinstance(kind, dict):
        return {"": shape(kind[""])} if "" in kind else "object"
    return kind


def test_every_object_of_the_model_has_its_table() -> None:
    pairs = {
        "ConsoleSize": document.CONSOLE_SIZE,
        "User": document.USER,
        "Rlimit": document.RLIMIT,
        "Capabilities": document.CAPABILITIES,
        "Scheduler": document.SCHEDULER,
        "IOPriority": document.IO_PRIORITY,
        "Process": document.PROCESS,
        "IdMapping": document.ID_MAPPING,
        "Mount": document.MOUNT,
        "Root": document.ROOT,
        "Namespace": document.NAMESPACE,
        "Device": document.DEVICE,
        "DeviceRule": document.DEVICE_RULE,
        "Memory": document.MEMORY,
        "Cpu": document.CPU,
        "Pids": document.PIDS,
        "WeightDevice": document.WEIGHT_DEVICE,
        "ThrottleDevice": document.THROTTLE_DEVICE,
        "BlockIO": document.BLOCK_IO,
        "HugepageLimit": document.HUGEPAGE_LIMIT,
        "Resources": document.RESOURCES,
        "SeccompArg": document.SECCOMP_ARG,
        "SeccompRule": document.SECCOMP_RULE,
        "Seccomp": document.SECCOMP,
        "Personality": document.PERSONALITY,
        "TimeOffset": document.TIME_OFFSET,
        "Linux": document.LINUX,
        "Spec": document.SPEC,
    }
    structs = {
        name: value
        for name, value in vars(oci).items()
        if isinstance(value, type) and issubclass(value, msgspec.Struct) and not name.startswith("_") and name != "Struct"
    }
    assert set(pairs) == set(structs)
    assert sum(compare(pairs[name], structs[name], name) for name in pairs) > 100


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([], "an object is expected, not []"),
        ({"root": {"path": "x"}}, "process is missing"),
        ({"process": {}, "root": {}}, "root: path is missing"),
        ({"process": {"args": "sh"}, "root": {"path": "x"}}, "process.args: a list is expected, not 'sh'"),
        ({"process": {"args": ["sh", 1]}, "root": {"path": "x"}}, "process.args[1]: a string is expected, not 1"),
        ({"process": {"user": {"uid": True}}, "root": {"path": "x"}}, "process.user.uid: an integer is expected, not True"),
        (
            {"process": {}, "root": {"path": "x"}, "linux": {"sysctl": {"a": 1}}},
            "linux.sysctl.a: a string is expected, not 1",
        ),
        (
            {"process": {}, "root": {"path": "x"}, "linux": {"namespaces": [{}]}},
            "linux.namespaces[0]: type is missing",
        ),
    ],
)
def test_what_does_not_fit_is_named(value: Any, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        document.read(value, document.SPEC, "")
    assert caught.value.message == text


def test_null_is_absent_and_defaults_are_there() -> None:
    spec = document.read({"process": {"cwd": None}, "root": {"path": "x"}, "unknown": 1}, document.SPEC, "")
    assert (spec.process.cwd, spec.process.user.uid, spec.mounts, spec.annotations) == ("/", 0, [], {})
    assert spec.linux.seccomp is None and spec.linux.namespaces == []


@pytest.mark.parametrize(
    "value", [None, True, 1, -7, 1.5, "", 'a"\\\n\0é💡', [], {}, {"a": [1, {"b": None}], "c": "d"}, 18446744073709551615]
)
def test_json_is_read_and_written_as_the_library_does(value: Any) -> None:
    assert json.loads(jsontext.encode(value)) == value
    assert jsontext.decode(f" \n{json.dumps(value)}\t") == value
    assert jsontext.encode(value, indent=2) == json.dumps(value, indent=2)


@pytest.mark.parametrize("text", ["", " ", "{", '{"a":1', "[1,]", "nope", "[1] x", '"a'])
def test_json_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="char"):
        jsontext.decode(text)


def test_flags_are_read_as_runc_reads_them() -> None:
    options = read(COMMANDS["exec"][0], ["-t", "--env", "A=1", "-e=B=2", "--cwd=/x", "-user", "1:2", "--", "id", "-u"])
    assert (options.all("env"), options.text("cwd"), options.text("user"), options.arguments) == (
        ["A=1", "B=2"],
        "/x",
        "1:2",
        ["id", "-u"],
    )
    assert "tty" in options and "detach" not in options
    assert read(COMMANDS["exec"][0], ["id", "sh", "-c", "x"]).arguments == ["id", "sh", "-c", "x"]
    assert "all" not in read(COMMANDS["kill"][0], ["--all=false", "x"])
    for words, text in ((["--nope"], "flag provided but not defined: -nope"), (["--env"], "flag needs an argument: -env")):
        with pytest.raises(InvalidArgument, match=text):
            read(COMMANDS["exec"][0], words)
    with pytest.raises(InvalidArgument, match='invalid value "x" for flag -preserve-fds'):
        read(COMMANDS["run"][0], ["--preserve-fds", "x"]).number("preserve-fds")


def test_help_names_every_command_and_flag() -> None:
    assert all(f"  {name} " in help_text() for name in COMMANDS)
    assert all("--" + names.split()[0] in help_text() for names, _, _ in GLOBAL)
    for name, (flags, *_) in COMMANDS.items():
        assert all("--" + names.split()[0] in help_text(name) for names, _, _ in flags)
