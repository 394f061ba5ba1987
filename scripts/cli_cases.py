"""The docker CLI's case list against an engine: record what Docker answers, or see and record where berth differs.

    cli_cases.py record [PATTERN]          run the cases against Debian's dockerd and store the answers
    cli_cases.py compare [PATTERN]         run them against berthd and print every difference that is not listed
    cli_cases.py accept [PATTERN]          the same, and store berth's answers where a case lists a difference

PATTERN is a regular expression that a case's id or file has to match. dockerd runs in a network and mount namespace of its own:
its bridge and rules end with it.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from berth.client.address import Address
from berth.client.engine import Engine
from berth.errors import BerthError
from support.cli_cases import (
    DATA,
    STREAMS,
    Answer,
    Case,
    Runner,
    differences,
    is_current,
    read_cases,
    recorded,
    recorded_differences,
)
from support.cli_engine import cli_version, prepare, surroundings
from support.engine import EngineProcess

INSIDE = "BERTH_CLI_CASES_INSIDE"
READY_SECONDS = 60.0


@contextlib.contextmanager
def dockerd() -> Iterator[tuple[str, str]]:
    """Debian's engine: its DOCKER_HOST and its root."""
    directory = tempfile.mkdtemp(prefix="cli-cases-")
    socket = f"{directory}/sock"
    command = [
        "dockerd", "--data-root", f"{directory}/data", "--exec-root", f"{directory}/exec", "--pidfile", f"{directory}/pid",
        "-H", f"unix://{socket}", "--bip", "10.241.0.1/24", "--default-address-pool", "base=10.242.0.0/16,size=24",
    ]  # fmt: skip
    with open(f"{directory}/log", "wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                with Engine(Address(path=socket)) as client:
                    client.system.ping()
                break
            except BerthError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(Path(f"{directory}/log").read_text()[-3000:]) from None
                time.sleep(0.1)
        yield f"unix://{socket}", f"{directory}/data"
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def berthd() -> Iterator[tuple[str, str]]:
    """berth's: its DOCKER_HOST and its root."""
    engine = EngineProcess()
    try:
        engine.start()
        yield engine.host, engine.root
    finally:
        if os.environ.get("BERTH_CLI_CASES_LOG"):
            shutil.copy(engine.log, os.environ["BERTH_CLI_CASES_LOG"])
        engine.shut_down()


def run(cases: list[Case], engine: contextlib.AbstractContextManager[tuple[str, str]]) -> dict[str, list[Answer]]:
    """All answers by case; ends the program when one could not be run."""
    found: dict[str, list[Answer]] = {}
    failed: list[str] = []

    def ran(case: Case, result: list[Answer] | str) -> None:
        if isinstance(result, str):
            failed.append(result)
        else:
            found[case.id] = result

    with engine as (host, root), surroundings() as (hide, environment):
        prepare(host)
        Runner(host, [(root, "<root>"), (host, "<host>"), *hide], environment).run_all(cases, ran)
    if failed:
        print("\n\n".join(["These could not be run:", *failed]))
    return found


def write(name: str, area: str, new: dict[str, object], known: list[Case]) -> None:
    """Store answers of an area's cases, those of others stay."""
    path = DATA / f"{area}.{name}.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    ids = [case.id for case in known if case.area == area]
    merged = {id: new.get(id, old.get(id)) for id in ids}
    merged = {id: answer for id, answer in merged.items() if answer}
    DATA.mkdir(parents=True, exist_ok=True)
    if merged:
        path.write_text(json.dumps(merged, indent=1, ensure_ascii=False) + "\n")
    else:
        path.unlink(missing_ok=True)


def record(cases: list[Case]) -> int:
    """Docker's answers."""
    if not os.environ.get(INSIDE):
        command = ["unshare", "-n", "-m", "--propagation", "private", sys.executable, *sys.argv]
        return subprocess.run(command, env=os.environ | {INSIDE: "1"}, check=False).returncode
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    # Within the namespace mounts are shared, as on any host with systemd.
    subprocess.run(["mount", "--make-rshared", "/"], check=True)
    found = run(cases, dockerd())
    for area in {case.area for case in cases}:
        write("docker", area, dict(found), read_cases())
    (DATA / "cli.txt").write_text(cli_version() + "\n")
    print(f"{len(found)} of {len(cases)} cases recorded")
    return int(len(found) < len(cases))


def compare(cases: list[Case], accept: bool) -> int:
    """Differences to Docker's answers, those that are listed left out unless they have changed."""
    docker, theirs, wrong = recorded(), recorded_differences(), 0
    found = run(cases, berthd())
    listed: dict[str, object] = {}
    for case in cases:
        if case.id not in found or not is_current(case, docker.get(case.id)):
            print(f"== {case.id}: not recorded, or not as it is now, or not run")
            wrong += 1
            continue
        differ = differences(case, found[case.id], docker[case.id])
        for number, step in enumerate(case.compared):
            for stream in STREAMS:
                key = f"{number}.{stream}"
                is_listed = stream in step.differs
                if (key in differ) == is_listed and (not is_listed or accept or theirs.get(case.id, {}).get(key) == differ[key]):
                    continue
                wrong += 1
                print(f"\n== {case.id} {stream}\n   {step.text}")
                if key not in differ:
                    print("   is listed as different and is not")
                    continue
                lines = docker[case.id][number][stream], differ[key]
                print("\n".join(difflib.unified_diff(*lines, "docker", "berth", lineterm="", n=1)))
        listed[case.id] = differ
    if accept:
        for area in {case.area for case in cases}:
            write("berth", area, listed, read_cases())
    print(f"\n{len(found)} cases, {wrong} differences that are not listed")
    return int(wrong > 0)


def main() -> int:
    """The command."""
    action = sys.argv[1] if len(sys.argv) > 1 else ""
    pattern = re.compile(sys.argv[2] if len(sys.argv) > 2 else "")
    cases = [case for case in read_cases() if pattern.search(case.id) or pattern.search(case.area)]
    if action == "record":
        return record(cases)
    if action in ("compare", "accept"):
        return compare(cases, action == "accept")
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main())
