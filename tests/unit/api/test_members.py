"""Names in bodies are found in any case, as Go's decoder finds them."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest

from berth.api.members import rename
from berth.engine.containers.creation import CreateBody


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"image": "x"}, {"Image": "x"}),
        ({"HOSTCONFIG": {"memory": 1}}, {"HostConfig": {"Memory": 1}}),
        ({"HostConfig": {"Mounts": [{"type": "bind"}]}}, {"HostConfig": {"Mounts": [{"Type": "bind"}]}}),
        (
            {"HostConfig": {"PortBindings": {"80/tcp": [{"hostport": "1"}]}}},
            {"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "1"}]}}},
        ),
        # The exact name wins, what is a key and no name stays, and so does what is not known.
        ({"image": "a", "Image": "b"}, {"image": "a", "Image": "b"}),
        ({"Labels": {"image": "a", "Image": "b"}}, {"Labels": {"image": "a", "Image": "b"}}),
        ({"nosuch": 1, "HostConfig": None, "NetworkingConfig": 5}, {"nosuch": 1, "HostConfig": None, "NetworkingConfig": 5}),
    ],
)
def test_names_in_any_case(given: dict[str, Any], meant: dict[str, Any]) -> None:
    assert rename(copy.deepcopy(given), CreateBody) == meant


def test_a_document_that_is_no_object_is_left_to_the_decoder() -> None:
    assert rename([1], CreateBody) == [1]
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(rename([1], CreateBody), CreateBody)
