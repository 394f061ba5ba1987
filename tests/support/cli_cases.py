"""The case list of the docker CLI: reading it, running it against an engine, making answers comparable.

A file of `tests/conformance/cli_cases` holds cases:

    == run-exit-code              a case; its id is also the name ($N) of what it makes
    ! alone                       nothing else may work on the engine meanwhile
    - docker create --name $N x   a step that has to succeed; what it prints does not count
    $ docker start -a $N          a step whose exit code and output are compared with Docker's
      more lines of it
    ~ stderr why                  berth's differs from Docker's here, for this reason (of the step above)

Steps are run by sh in a directory of the case's own. What Docker answers is in tests/data/docker-cli, made by
`make cli-cases-record`; what berth answers stands beside it where it differs.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from berth.client.address import Address
from berth.client.engine import Engine
from berth.errors import BerthError

TESTS = Path(__file__).parents[1]
FOLDER = TESTS / "conformance/cli_cases"
DATA = TESTS / "data/docker-cli"
STREAMS = ("exit", "stdout", "stderr")
STEP_SECONDS = 60.0
WORKERS = 4


@dataclass
class Step:
    """A command line; `differs` has the reason for each stream that is not Docker's."""

    text: str
    compared: bool
    differs: dict[str, str] = field(default_factory=dict)


@dataclass
class Case:
    """Steps in order."""

    id: str
    area: str
    steps: list[Step] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)

    @property
    def compared(self) -> list[Step]:
        return [step for step in self.steps if step.compared]


Answer = dict[str, list[str]]


def _read(path: Path) -> Iterator[Case]:
    case: Case | None = None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        mark, _, rest = line.partition(" ")
        if not line.strip() or mark == "#":
            continue
        if mark == "==":
            if case:
                yield case
            case = Case(rest.strip(), path.stem)
            continue
        assert case, f"{path}:{number}: no case yet"
        if mark == "!":
            case.tags.update(rest.split())
        elif mark in ("-", "$"):
            case.steps.append(Step(rest, mark == "$"))
        elif mark == "~":
            stream, _, reason = rest.partition(" ")
            assert stream in STREAMS and reason and case.steps[-1].compared, f"{path}:{number}: ~ STREAM REASON after a $ step"
            case.steps[-1].differs[stream] = reason
        else:
            assert line.startswith("  ") and case.steps, f"{path}:{number}: {line!r} is no part of a case"
            case.steps[-1].text += "\n" + line[2:]
    if case:
        yield case


def read_cases() -> list[Case]:
    """All cases, in the order of the files."""
    cases = [case for path in sorted(FOLDER.glob("*.cases")) for case in _read(path)]
    ids = [case.id for case in cases]
    assert len(set(ids)) == len(ids), sorted(id for id in ids if ids.count(id) > 1)
    return cases


_NORMAL = [
    (re.compile(r"\b[0-9a-f]{64}\b"), "<id>"),
    (re.compile(r"\b(?=[0-9]*[a-f])[0-9a-f]{12}\b"), "<short>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?(Z|[+-]\d\d:?\d\d)( UTC)?)?"), "<time>"),
    (re.compile(r"\b(Less than a second|(About )?an? (second|minute|hour)|\d+ (second|minute|hour|day)s?)( ago)?\b"), "<age>"),
    (re.compile(r"\b(?!92:)([0-9a-f]{2}:){5}[0-9a-f]{2}\b"), "<mac>"),
    (re.compile(r"\b(172\.(1[6-9]|2\d|3[01])|192\.168|10\.2\d\d)(\.\d+){2}(?=\D|$)"), "<ip>"),
    (re.compile(r"[ \t]*$", re.MULTILINE), ""),
    (re.compile(r"[\r\0]|\^@"), ""),
    (re.compile(r"(?<=\S) {2,}"), "  "),
]
_SIZE = re.compile(r"\b\d+(\.\d+)?([kMGT]?i?B)(?=\W|$)")


class Runner:
    """Runs cases on one engine. `ran` is given each answer as it comes."""

    def __init__(self, host: str, hide: Iterable[tuple[str, str]], environment: dict[str, str]) -> None:
        """`hide`: texts of the engine's own (paths, addresses) and what stands for them. `environment`: for all steps."""
        self.host = host
        self.hide = [(old, new) for old, new in hide if old]
        self.environment = environment
        self._lock = threading.Lock()

    def normal(self, text: str, case: Case, folder: str) -> list[str]:
        """Lines without what is another in every run."""
        for old, new in [(folder, "<dir>"), *self.hide]:
            text = text.replace(old, new)
        for pattern, new in _NORMAL:
            text = pattern.sub(new, text)
        if "sizes" in case.tags:
            text = _SIZE.sub("<size>", text)
        lines = text.split("\n")
        return sorted(lines) if "unsorted" in case.tags else lines

    def run(self, case: Case) -> list[Answer]:
        """What each compared step answered. Nothing with the case's name stays on the engine.

        Raises:
            AssertionError: a step that only prepares has failed.
        """
        folder = tempfile.mkdtemp(prefix="cli-case-")
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("DOCKER_", "COLUMNS"))},
            **self.environment,
            "N": case.id, "D": folder, "DOCKER_HOST": self.host, "DOCKER_CONFIG": f"{folder}/.docker", "DOCKER_BUILDKIT": "0",
            "DOCKER_CLI_HINTS": "false", "HOME": folder, "LC_ALL": "C.UTF-8", "TZ": "UTC",
        }  # fmt: skip
        answers = []
        try:
            for step in case.steps:
                try:
                    done = subprocess.run(
                        ["sh", "-c", step.text], cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
                        timeout=STEP_SECONDS, check=False,
                    )  # fmt: skip
                    code, out, err = done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
                except subprocess.TimeoutExpired:
                    code, out, err = -1, "", f"no end within {STEP_SECONDS:.0f} s"
                if step.compared:
                    texts = (str(code), out, err)
                    answer = {stream: self.normal(text, case, folder) for stream, text in zip(STREAMS, texts, strict=True)}
                    answers.append({"step": step.text.split("\n"), **answer})
                elif code:
                    raise AssertionError(f"{case.id}: {step.text}\nexit {code}\n{out}\n{err}")
        finally:
            self._clean(case.id)
            shutil.rmtree(folder, ignore_errors=True)
        return answers

    def _clean(self, id: str) -> None:
        """Remove what has the case's name."""
        mine = re.compile(rf"^/?{re.escape(id)}(-([a-e]|keep))?$")
        with Engine(Address(path=self.host.removeprefix("unix://"))) as client:

            def ask(method: str, path: str, **query: object) -> object:
                try:
                    text = client.request(method, path, query=query).read()
                except BerthError:
                    return None
                return json.loads(text) if text.strip() and method == "GET" else None

            for row in ask("GET", "/containers/json", all=True) or []:
                if any(mine.match(name) for name in row["Names"]):
                    ask("DELETE", f"/containers/{row['Id']}", force=True, v=True)
            # Twice: one that others are made after goes last.
            for row in [*(ask("GET", "/networks") or []), *(ask("GET", "/networks") or [])]:
                if mine.match(row["Name"]):
                    ask("DELETE", f"/networks/{row['Id']}")
            for row in (ask("GET", "/volumes") or {}).get("Volumes") or []:
                if mine.match(row["Name"]):
                    ask("DELETE", f"/volumes/{row['Name']}", force=True)
            for row in ask("GET", "/images/json") or []:
                for tag in row["RepoTags"] or []:
                    if mine.match(tag.partition(":")[0]):
                        ask("DELETE", f"/images/{tag}", force=True)

    def run_all(self, cases: list[Case], ran: Callable[[Case, list[Answer] | str], None]) -> None:
        """All of them: side by side, then those that need the engine for themselves."""

        def one(case: Case) -> None:
            try:
                result: list[Answer] | str = self.run(case)
            except AssertionError as error:
                result = str(error)
            with self._lock:
                ran(case, result)

        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(one, [case for case in cases if "alone" not in case.tags]))
        self._sweep()
        for case in cases:
            if "alone" in case.tags:
                one(case)

    def _sweep(self) -> None:
        """Remove what cases have made without giving it their names."""
        with Engine(Address(path=self.host.removeprefix("unix://"))) as client:
            for row in client.json("GET", "/containers/json", query={"all": True}):
                client.request("DELETE", f"/containers/{row['Id']}", query={"force": True, "v": True}).read()
            for noun in ("networks", "volumes", "build"):
                client.request("POST", f"/{noun}/prune", query={"all": True}).read()


def is_current(case: Case, answers: list[Answer] | None) -> bool:
    """Whether the answers are to the steps that the case has."""
    return answers is not None and [answer["step"] for answer in answers] == [step.text.split("\n") for step in case.compared]


def recorded() -> dict[str, list[Answer]]:
    """What Docker answered, by case."""
    return {id: answers for path in sorted(DATA.glob("*.docker.json")) for id, answers in json.loads(path.read_text()).items()}


def recorded_differences() -> dict[str, dict[str, list[str]]]:
    """What berth answers where it differs: by case, then by `step.stream`."""
    return {id: found for path in sorted(DATA.glob("*.berth.json")) for id, found in json.loads(path.read_text()).items()}


def differences(case: Case, answers: list[Answer], docker: list[Answer]) -> dict[str, list[str]]:
    """The streams that are not Docker's: `step.stream` and berth's lines."""
    return {
        f"{number}.{stream}": answer[stream]
        for number, (answer, theirs) in enumerate(zip(answers, docker, strict=True))
        for stream in STREAMS
        if answer[stream] != theirs[stream]
    }


def used(cases: list[Case], commands: set[str]) -> dict[str, dict[str, list[str]]]:
    """Which case uses which flag: command (`network create`), flag (or "" for the command itself), ids."""
    found: dict[str, dict[str, list[str]]] = {}
    for case in cases:
        for step in case.steps:
            for words in _docker_calls(step.text):
                command, flags = _split(words, commands)
                for flag in ["", *flags]:
                    ids = found.setdefault(command, {}).setdefault(flag, [])
                    if case.id not in ids:
                        ids.append(case.id)
    return found


def _docker_calls(text: str) -> Iterator[list[str]]:
    """The arguments of each `docker` in a command line."""
    lexer = shlex.shlex(text.replace("\n", " ; "), posix=True, punctuation_chars="|&;()`")
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("|&;()`"):
            for place, name in enumerate(words):
                if name.endswith("docker") and "/" not in name:
                    yield words[place + 1 :]
                    break
            words = []
        elif word.startswith("docker "):
            yield from _docker_calls(word)
        else:
            words.append(word)


# Where the command line of a process in a container begins.
_ENDS = dict.fromkeys(("run", "create", "container run", "container create"), ("busybox", "$R/"))
_ENDS |= dict.fromkeys(("exec", "container exec"), ("$N",))


def _split(words: list[str], commands: set[str]) -> tuple[str, list[str]]:
    """The command and its flags, without those of a process in a container."""
    rest = [word for word in words if not word.startswith("-")]
    command = next((" ".join(rest[:size]) for size in (3, 2, 1) if " ".join(rest[:size]) in commands), "")
    flags = []
    for word in words:
        if word == "--" or (command in _ENDS and word.startswith(_ENDS[command])):
            break
        if word.startswith("--"):
            flags.append(word.partition("=")[0])
        elif re.fullmatch(r"-[A-Za-z]+", word):
            flags += [f"-{letter}" for letter in word[1:]]
    return command, flags
