"""The plan of a build as text, and the order of what stages say."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from berth.build.dockerfile.parser import parse
from berth.build.graph import plan
from berth.build.progress import Progress, TextOutput
from berth.errors import InvalidArgument

TEXT = """
ARG BASE=one
FROM base AS one
FROM ${BASE} AS two
COPY --from=base /a /b
FROM scratch AS three
RUN --mount=type=bind,from=0,target=/x true
FROM two
COPY --from=THREE / /
"""


def test_plan() -> None:
    dockerfile = parse(TEXT)
    planned = plan(dockerfile, {"BASE": "one"})
    assert (
        planned.text() == "0 one from base\n1 two from stage 0 needs 0\n2 three from scratch needs 0\n3 - from stage 1 needs 1, 2"
    )
    assert planned.steps == 7
    assert plan(dockerfile, {"BASE": "one"}, "three").text() == "0 one from base\n2 three from scratch needs 0"
    assert plan(dockerfile, {"BASE": "other:1"}, "two").text() == "1 two from other:1"
    assert plan(dockerfile, {"BASE": "one"}, "1").target == 1
    with pytest.raises(InvalidArgument, match="failed to reach build target nine"):
        plan(dockerfile, {}, "nine")


def test_the_earliest_stage_speaks_first() -> None:
    said: list[str] = []

    async def send(message: dict[str, Any]) -> None:
        said.append(message["stream"])

    async def run() -> None:
        progress = Progress(send, [0, 1, 2], quiet=False)
        zero, one, two = (progress.channel(index) for index in range(3))
        await two.text("two")
        await zero.text("zero")
        await one.text("one")
        await two.finish()
        assert said == ["zero"]
        await zero.finish()
        assert said == ["zero", "one"]
        await one.text("more")
        await one.finish()
        assert said == ["zero", "one", "more", "two"]

    asyncio.run(run())


def test_characters_cut_in_two_are_put_together() -> None:
    said: list[str] = []

    async def send(message: dict[str, Any]) -> None:
        said.append(message["stream"])

    async def run() -> None:
        output = TextOutput(Progress(send, [0], quiet=False).channel(0))
        await output.write(1, b"caf\xc3")
        await output.write(2, b"\xffx")
        await output.write(1, b"\xa9\n")

    asyncio.run(run())
    assert said == ["caf", "\x1b[91m\ufffdx\x1b[0m", "é\n"]
