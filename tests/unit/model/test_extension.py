"""The labels by which any client asks for what Docker does not have."""

from __future__ import annotations

import pytest

from berth.errors import InvalidArgument
from berth.model import extension
from berth.model.extension import EXTENSIONS, Settings


def test_every_extension_is_a_setting() -> None:
    assert {e.field for e in EXTENSIONS} == set(Settings.__struct_fields__)


def test_texts_become_settings() -> None:
    found = extension.read({"health-on-failure": "restart", "restart-delay": "1m30s", "restart-factor": "1.5"})
    assert found == Settings(health_on_failure="restart", restart_delay=90.0, restart_factor=1.5)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("health-on-failure", "reboot", "it is one of none, kill, restart, stop"),
        ("restart-delay", "0s", "at least 10ms"),
        ("restart-delay", "soon", "invalid duration"),
        ("health-cooldown", "-5s", "negative"),
        ("restart-factor", "0.5", "from 1 to 1000"),
        ("restart-factor", "nan", "from 1 to 1000"),
    ],
)
def test_what_is_wrong_is_named(name: str, text: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        extension.asked({f"berth.{name}": text}, {})
    assert f"invalid berth.{name} {text!r}" in caught.value.message and words in caught.value.message


def test_a_misspelt_label_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(InvalidArgument) as caught:
        extension.asked({"berth.health-on-fail": "kill"}, {})
    assert "unknown label berth.health-on-fail: there are berth.health-on-failure, " in caught.value.message


def test_labels_of_the_image_ask_for_nothing() -> None:
    """Also when a client that makes a container again repeats them."""
    inherited = {"berth.health-on-failure": "stop", "berth.what": "ever"}
    assert extension.asked(dict(inherited), inherited) == {}
    assert extension.asked({"berth.health-on-failure": "kill", "other": "x"}, inherited) == {"health-on-failure": "kill"}


def test_what_a_later_version_has_stored_is_left_out() -> None:
    assert extension.of_record({"from-the-future": "1", "restart-delay": "2s"}) == Settings(restart_delay=2.0)
