"""API versions."""

from __future__ import annotations

import pytest

from berth.api.versions import ADAPTERS, parse
from berth.errors import InvalidArgument


def test_versions_in_range() -> None:
    assert parse("v1.40") == (1, 40)
    assert parse("v1.55") == (1, 55)


def test_too_old_and_too_new_are_told_in_dockers_words() -> None:
    with pytest.raises(InvalidArgument, match=r"client version 1\.39 is too old\. Minimum supported API version is 1\.40"):
        parse("v1.39")
    with pytest.raises(InvalidArgument, match=r"client version 1\.99 is too new\. Maximum supported API version is 1\.55"):
        parse("v1.99")


def test_old_clients_see_the_short_id_among_the_aliases() -> None:
    def document() -> dict[str, object]:
        networks = {"app": {"Aliases": ["web"]}, "bridge": {"Aliases": None}}
        return {"Id": "0123456789abcdef", "NetworkSettings": {"Networks": networks}}

    adapt = ADAPTERS["GET", "/containers/{id}/json"]
    old = adapt(document(), (1, 44))["NetworkSettings"]["Networks"]
    assert old == {"app": {"Aliases": ["web", "0123456789ab"]}, "bridge": {"Aliases": None}}
    assert adapt(document(), (1, 45)) == document()
