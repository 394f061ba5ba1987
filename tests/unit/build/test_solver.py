"""Builds on in-memory twins: stages, cache, copies, output, failures."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import pytest

from berth.build.runner import CommandFailed
from berth.errors import BerthError, InvalidArgument, NotImplementedKind
from berth.model.filters import Filters


def test_a_simple_build(bench: Any) -> None:
    image = bench.build(
        'FROM base\nENV A=1 B=$A\nENV C=${A}x\nWORKDIR /app\nCOPY src/ ./\nRUN write out $A\nCMD ["run"]\n',
        {"src/a.txt": "hello", "src/sub/b.txt": "more"},
        tags=("demo",),
    )
    files = bench.files(image)
    assert files["/app/a.txt"].data == b"hello"
    assert files["/app/sub/b.txt"].data == b"more"
    assert files["/app/out"].data == b"$A"
    config = image.document.config
    assert config.env[1:] == ["A=1", "B=", "C=1x"]
    assert (config.working_dir, config.cmd) == ("/app", ["run"])
    assert image.tags == ("demo:latest",)
    history = [entry.created_by for entry in image.document.history]
    assert history[0] == "/bin/sh -c #(nop)  ENV A=1 B="
    assert history[3].startswith("/bin/sh -c #(nop) COPY dir:")
    assert history[4] == "/bin/sh -c write out $A"
    assert history[5] == '/bin/sh -c #(nop)  CMD ["run"]'
    assert [entry.empty_layer for entry in image.document.history] == [True, True, False, False, False, True]
    assert len(image.document.rootfs.diff_ids) == 4


def test_the_output_is_what_classic_clients_parse(bench: Any) -> None:
    image = bench.build("FROM base\nRUN echo\n", tags=("demo", "other:1"))
    short = image.id[7:19]
    lines = bench.output.splitlines()
    assert lines[0] == "Step 1/2 : FROM base"
    assert lines[1].startswith(" ---> ")
    assert lines[2] == "Step 2/2 : RUN echo"
    assert lines[3].startswith(" ---> Running in ")
    assert lines[-3:] == [f"Successfully built {short}", "Successfully tagged demo:latest", "Successfully tagged other:1"]
    assert {"aux": {"ID": image.id}} in bench.messages
    assert f" ---> {short}" in lines


def test_quiet_says_the_id_alone(bench: Any) -> None:
    image = bench.build("FROM base\nRUN echo\n", quiet=True)
    assert bench.messages == [{"aux": {"ID": image.id}}, {"stream": f"{image.id}\n"}]


def test_a_second_build_is_all_cache_and_the_same_image(bench: Any) -> None:
    text = "FROM base\nARG X=1\nENV A=1\nCOPY a /a\nRUN write b x\nWORKDIR /w\nLABEL l=1\n"
    first = bench.build(text, {"a": "1"})
    bench.restart()
    second = bench.build(text, {"a": "1"})
    assert second.id == first.id
    assert bench.world.log == []
    assert bench.output.count("Using cache") == 6


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("FROM base\nENV A=1\nRUN write x y", "FROM base\nENV A=2\nRUN write x y"),
        ("FROM base\nUSER a\nRUN write x y", "FROM base\nUSER b\nRUN write x y"),
        ("FROM base\nHEALTHCHECK CMD a\nRUN write x y", "FROM base\nHEALTHCHECK CMD b\nRUN write x y"),
        ("FROM base\nHEALTHCHECK CMD a\nRUN write x y", "FROM base\nHEALTHCHECK --retries=3 CMD a\nRUN write x y"),
        ("FROM base\nONBUILD RUN a\nRUN write x y", "FROM base\nONBUILD RUN b\nRUN write x y"),
        ("FROM base\nSTOPSIGNAL 9\nRUN write x y", "FROM base\nSTOPSIGNAL 15\nRUN write x y"),
        ("FROM base\nVOLUME /a\nRUN write x y", "FROM base\nVOLUME /b\nRUN write x y"),
        ("FROM base\nEXPOSE 1\nRUN write x y", "FROM base\nEXPOSE 2\nRUN write x y"),
        ("FROM base\nLABEL a=1\nRUN write x y", "FROM base\nLABEL a=2\nRUN write x y"),
        ("FROM base\nCMD a\nRUN write x y", "FROM base\nENTRYPOINT a\nRUN write x y"),
        ('FROM base\nSHELL ["a"]\nRUN write x y', 'FROM base\nSHELL ["b"]\nRUN write x y'),
        ("FROM base\nRUN write x y", "FROM scratch\nRUN write x y"),
        ("FROM base\nRUN write x y", "FROM base\nRUN --network=none write x y"),
    ],
)
def test_a_different_parent_or_instruction_is_never_a_hit(bench: Any, before: str, after: str) -> None:
    bench.build(before)
    bench.build(after)
    assert "run write x y" in bench.world.log


def test_content_counts_and_time_does_not(bench: Any) -> None:
    text = "FROM base\nCOPY . /app/\n"
    bench.build(text, {"a": "1"})
    bench.build(text, {"a": "1"})
    assert bench.world.log == []
    bench.build(text, {"a": "2"})
    assert bench.world.log == ["commit"]


def test_build_args(bench: Any) -> None:
    text = "ARG NAME=base\nFROM $NAME\nARG X=d\nARG NAME\nRUN write x y\n"
    image = bench.build(text, build_args={"X": "1", "UNUSED": "2", "HTTP_PROXY": "http://p"})
    env = bench.world.env["write x y"]
    assert "X=1" in env and "NAME=base" in env and "HTTP_PROXY=http://p" in env
    assert image.document.history[2].created_by == "|2 NAME=base X=1 /bin/sh -c write x y"
    assert image.document.config.env == ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    assert "One or more build-args [UNUSED] were not consumed" in bench.output
    bench.build(text, build_args={"X": "2"})
    assert "run write x y" in bench.world.log
    bench.build(text, build_args={"X": "2", "HTTP_PROXY": "http://other"})
    assert "run write x y" not in bench.world.log


def test_only_what_the_target_needs_is_built(bench: Any) -> None:
    image = bench.build(
        "FROM base AS one\nRUN write one 1\nFROM base AS unused\nRUN fail 1\nFROM base AS two\nCOPY --from=one /one /copied\n"
        "FROM base\nRUN fail 2\n",
        target="two",
    )
    assert bench.files(image)["/copied"].data == b"1"
    assert "Step 4/4 : COPY --from=one /one /copied" in bench.output


def test_independent_stages_run_at_the_same_time_and_speak_in_order(bench: Any) -> None:
    bench.build(
        "FROM base AS a\nRUN write a 1\nFROM base AS b\nRUN write b 1\nFROM base\nCOPY --from=a /a /\nCOPY --from=b /b /\n"
    )
    assert bench.steps.most == 2
    numbers = [line.split()[1] for line in bench.output.splitlines() if line.startswith("Step")]
    assert numbers == [f"{n}/7" for n in range(1, 8)]


def test_copy_from_an_image_keeps_owners_and_hits_by_content(bench: Any) -> None:
    from build_twins import Node

    bench.world.add_image("tools", {"/bin": Node("d", mode=0o750), "/bin/x": Node("f", b"x", uid=7, gid=8, mode=0o755)})
    image = bench.build("FROM base\nCOPY --from=tools /bin /opt/bin\nCOPY --from=tools --chown=app /bin/x /y\n")
    files = bench.files(image)
    assert files["/opt/bin/x"] == Node("f", b"x", uid=7, gid=8, mode=0o755)
    assert files["/opt/bin"].mode == 0o750
    assert (files["/y"].uid, files["/y"].gid) == (1000, 1000)
    bench.world.images.pop(next(key for key, value in bench.world.images.items() if "tools:latest" in value.tags))
    bench.world.add_image(
        "tools", {"/bin": Node("d", mode=0o750), "/bin/x": Node("f", b"x", uid=7, gid=8, mode=0o755), "/new": Node("f")}
    )
    again = bench.build("FROM base\nCOPY --from=tools /bin /opt/bin\nCOPY --from=tools --chown=app /bin/x /y\n")
    assert again.id == image.id
    assert bench.output.count("Using cache") == 2


@pytest.mark.parametrize(
    ("copy", "expected"),
    [
        ("COPY a.txt /x", {"/x": "A"}),
        ("COPY a.txt /x/", {"/x/a.txt": "A"}),
        ("COPY a.txt /etc", {"/etc/a.txt": "A"}),
        ("COPY a.txt .", {"/a.txt": "A"}),
        ("COPY *.txt /x/", {"/x/a.txt": "A", "/x/b.txt": "B"}),
        ("COPY d /x", {"/x/c.txt": "C", "/x/e/f.txt": "F"}),
        ("COPY --exclude=e d /x", {"/x/c.txt": "C"}),
        ("COPY --parents d/e/f.txt /x/", {"/x/d/e/f.txt": "F"}),
        ("COPY --parents d/./e/f.txt /x/", {"/x/e/f.txt": "F"}),
        ("COPY --parents d/*/f.txt /x/", {"/x/d/e/f.txt": "F"}),
        ("COPY link /x", {"/x": "A"}),
        ("COPY a.txt d /x/", {"/x/a.txt": "A", "/x/c.txt": "C", "/x/e/f.txt": "F"}),
        ('COPY ["a.txt", "/with space"]', {"/with space": "A"}),
        ("COPY <<one <<'two' /x/\n$PATH_NOT ${V}\none\n$V\ntwo", {"/x/one": " val\n", "/x/two": "$V\n"}),
        ("ADD a.txt /x", {"/x": "A"}),
        ("COPY ../a.txt /x", {"/x": "A"}),
    ],
)
def test_copy(bench: Any, copy: str, expected: dict[str, str]) -> None:
    context = {"a.txt": "A", "b.txt": "B", "d/c.txt": "C", "d/e/f.txt": "F", "link": "-> a.txt"}
    image = bench.build(f"FROM base\nENV V=val\n{copy}\n", context)
    before = set(bench.world.files(bench.images.get("base").chain_id))
    files = {path: node.data.decode() for path, node in bench.files(image).items() if node.kind == "f" and path not in before}
    assert files == expected


def test_owner_and_mode(bench: Any) -> None:
    image = bench.build("FROM base\nCOPY --chown=app:5 --chmod=0640 a d/ /x/\n", {"a": "1", "d/b": "2"})
    files = bench.files(image)
    assert {(node.uid, node.gid) for path, node in files.items() if path.startswith("/x")} == {(1000, 5)}
    assert files["/x/b"].mode == 0o640


def test_symbolic_modes(bench: Any) -> None:
    image = bench.build("FROM base\nCOPY --chmod=go-rwx,+x d/ /x/\n", {"d/b": "2"})
    assert bench.files(image)["/x/b"].mode == 0o711
    with pytest.raises(InvalidArgument, match="invalid --chmod 'rwx'"):
        bench.build("FROM base\nCOPY --chmod=rwx d/ /x/\n", {"d/b": "2"})


def test_add_unpacks_local_archives_and_copy_does_not(bench: Any, context_tar: Any) -> None:
    archive = gzip.compress(context_tar({"in/side": "x"}))
    image = bench.build("FROM base\nADD a.tgz /x/\nCOPY a.tgz /y/\nADD --chown=3:4 a.tgz /z\n", {"a.tgz": archive})
    files = bench.files(image)
    assert files["/x/in/side"].data == b"x"
    assert files["/y/a.tgz"].data == archive
    assert (files["/z/in/side"].uid, files["/z/in/side"].gid) == (3, 4)


def test_a_failing_command(bench: Any) -> None:
    with pytest.raises(CommandFailed) as caught:
        bench.build("FROM base\nRUN fail 7\n")
    assert caught.value.code == 7
    assert caught.value.message == "The command '/bin/sh -c fail 7' returned a non-zero code: 7"
    assert "it fails é\n" in bench.output.replace("\x1b[91m", "").replace("\x1b[0m", "")
    assert bench.images.find("demo") is None


def test_a_failing_stage_ends_the_others(bench: Any) -> None:
    with pytest.raises(CommandFailed):
        bench.build("FROM base AS a\nRUN wait\nFROM base AS b\nRUN fail 1\nFROM base\nCOPY --from=a / /\nCOPY --from=b / /\n")
    assert bench.steps.killed == 1


def test_cancelling_kills_the_step_and_leaves_nothing(bench: Any) -> None:
    async def run() -> None:
        task = asyncio.create_task(bench.abuild("FROM base\nRUN wait\n"))
        await bench.steps.started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert bench.steps.killed == 1


def test_onbuild_triggers_of_the_base_are_carried_out_once(bench: Any) -> None:
    bench.build("FROM base\nONBUILD RUN write t 1\nONBUILD ENV T=1\n", tags=("trigger",))
    image = bench.build("FROM trigger\nRUN write u 1\n", tags=("child",))
    assert bench.files(image)["/t"].data == b"1"
    assert "T=1" in image.document.config.env
    assert image.document.config.on_build is None
    assert "# Executing 2 build triggers" in bench.output


def test_entrypoint_resets_an_inherited_command_only(bench: Any) -> None:
    bench.build("FROM base\nCMD old\n", tags=("withcmd",))
    assert bench.build('FROM withcmd\nENTRYPOINT ["e"]\n').document.config.cmd is None
    assert bench.build('FROM withcmd\nCMD ["c"]\nENTRYPOINT ["e"]\n').document.config.cmd == ["c"]


def test_labels_of_the_request_and_the_shell(bench: Any) -> None:
    image = bench.build('FROM base\nSHELL ["/bin/bash", "-ec"]\nRUN echo\n', labels={"b": "2", "a": "1"})
    assert image.document.config.labels == {"a": "1", "b": "2"}
    assert bench.world.steps[-1].args == ("/bin/bash", "-ec", "echo")


def test_heredocs_of_run(bench: Any) -> None:
    bench.build("FROM base\nRUN <<EOF\necho a\necho b\nEOF\nRUN cat <<X >y\ntext\nX\nRUN <<S\n#!/bin/python\nS\n")
    args = [step.args for step in bench.world.steps]
    assert args[0] == ("/bin/sh", "-c", "echo a\necho b\n")
    assert args[1] == ("/bin/sh", "-c", "cat <<X >y\ntext\nX")
    assert args[2] == ("/dev/pipes/S",)
    assert bench.world.steps[2].mounts[0].destination == "/dev/pipes"


@pytest.mark.parametrize(
    ("dockerfile", "kind", "text"),
    [
        ("FROM base\nCOPY missing /x\n", InvalidArgument, "file not found in build context"),
        ("FROM base\nCOPY a b /x\n", InvalidArgument, "destination must be a directory and end with a /"),
        ("FROM base\nCOPY --from=nowhere /a /b\n", InvalidArgument, "invalid from flag value nowhere"),
        ("FROM base AS me\nCOPY --from=me /a /b\n", InvalidArgument, "refers to its own build stage"),
        ("FROM base\nCOPY --from=3 /a /b\n", InvalidArgument, "no such stage"),
        ("FROM missing\n", BerthError, "pull access denied for missing"),
        ("FROM base\nCOPY --chown=ghost a /b\n", InvalidArgument, "can't find user 'ghost' in /etc/passwd"),
        ("FROM base\nRUN --mount=type=secret,id=x true\n", NotImplementedKind, "needs a client session"),
        ("FROM base\nRUN --network=host true\n", InvalidArgument, "docker build --network host"),
        ("FROM base\nEXPOSE 70000\n", InvalidArgument, "invalid range format"),
        ("FROM base\nSTOPSIGNAL nonsense\n", InvalidArgument, "Invalid signal: nonsense"),
        ('FROM base\nENV A="${B:?is missing}"\n', InvalidArgument, "B: is missing"),
        ("ARG N\nFROM $N\n", InvalidArgument, "should not be blank"),
        ("FROM base\nADD https://host/repo.git /x\n", NotImplementedKind, "git sources are not supported"),
    ],
)
def test_errors_say_what_and_where(bench: Any, dockerfile: str, kind: type[BerthError], text: str) -> None:
    with pytest.raises(kind) as caught:
        bench.build(dockerfile, {"a": "1", "b": "2"})
    assert text in caught.value.message
    assert ">>> " in caught.value.message


def test_an_unknown_target(bench: Any) -> None:
    with pytest.raises(InvalidArgument, match="failed to reach build target x in Dockerfile: the Dockerfile has one"):
        bench.build("FROM base AS one\n", target="x")


def test_an_entry_whose_layer_is_gone_counts_as_not_there(bench: Any) -> None:
    bench.build("FROM base\nRUN write a 1\n")
    bench.world.images.clear()
    layers = [chain for chain, (layer, _) in bench.world.layers.items() if layer.parent is not None]
    for chain in layers:
        del bench.world.layers[chain]
    from build_twins import Node

    bench.world.add_image("base", {"/etc": Node("d", mode=0o755), "/etc/passwd": Node("f", b"app:x:1000:1001::/:/bin/sh\n")})
    bench.build("FROM base\nRUN write a 1\n")
    assert "run write a 1" in bench.world.log


def test_pruning(bench: Any) -> None:
    bench.build("FROM base AS tool\nRUN write t 12345\nFROM base\nCOPY --from=tool /t /u\n", tags=("kept",))
    records = asyncio.run(bench.service.records())
    assert sorted(record.shared for record in records) == [False, True]
    layers = len(bench.world.layers)
    _, freed = asyncio.run(bench.service.prune(Filters(), everything=False))
    assert freed > 0 and len(bench.world.layers) == layers - 1
    assert bench.images.get("kept").chain_id in bench.world.layers
    asyncio.run(bench.service.prune(Filters(), everything=True))
    assert asyncio.run(bench.service.records()) == []
    assert bench.images.get("kept").chain_id in bench.world.layers
    assert bench.database.rows("SELECT id FROM leases") == []


def test_pulling(bench: Any) -> None:
    bench.build("FROM base\n")
    assert bench.images.pulls == []
    bench.build("FROM base\n", pull=True)
    assert bench.images.pulls == ["base:latest"]


def test_a_dockerfile_that_adds_nothing_gives_the_base_itself(bench: Any) -> None:
    base = bench.images.get("base")
    image = bench.build("FROM base\n", tags=("same",))
    assert image.id == base.id
    assert set(image.tags) == {"base:latest", "same:latest"}
    assert f" ---> {base.id[7:19]}" in bench.output
    assert bench.build("FROM base\n", labels={"a": "1"}).id != base.id
