"""Several files on top of each other."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from berth.compose.load.merge import merge

BASE = """
services:
  app:
    image: base
    command: [a, b]
    environment: {A: 1, B: 2}
    ports: ["80:80", "443:443"]
    volumes: [data:/data, ./x:/x]
    cap_add: [NET_ADMIN]
    healthcheck: {test: [CMD, old], retries: 3}
    logging: {driver: local, options: {max-size: 1m}}
volumes: {data: , other: }
"""


def _merged(files: Any, over: str) -> Any:
    return files.load(BASE, f"services:\n  app:\n{over}").services["app"]


def test_scalars_and_command_lines_are_replaced(files: Any) -> None:
    app = _merged(files, "    image: new\n    command: c\n")
    assert (app.image, app.command) == ("new", ("c",))


def test_mappings_merge_in_either_form(files: Any) -> None:
    assert _merged(files, "    environment: [B=3, C=4]\n").environment == {"A": "1", "B": "3", "C": "4"}


def test_ports_are_added_and_the_same_one_is_kept_once(files: Any) -> None:
    app = _merged(files, '    ports: ["443:443", "81:81"]\n')
    assert [(port.published, port.target) for port in app.ports] == [("80", 80), ("443", 443), ("81", 81)]


def test_a_mount_replaces_the_one_with_its_target(files: Any) -> None:
    app = _merged(files, "    volumes: [other:/data]\n")
    assert [(mount.source, mount.target) for mount in app.volumes] == [("other", "/data"), (f"{files.folder}/x", "/x")]


def test_lists_of_words_keep_one_of_each(files: Any) -> None:
    assert _merged(files, "    cap_add: [SYS_TIME, NET_ADMIN]\n").cap_add == ("NET_ADMIN", "SYS_TIME")


def test_health_tests_are_replaced_and_the_rest_is_kept(files: Any) -> None:
    check = _merged(files, "    healthcheck: {test: new}\n").healthcheck
    assert (check.test, check.retries) == (("CMD-SHELL", "new"), 3)


def test_options_of_another_log_driver_do_not_mix(files: Any) -> None:
    assert _merged(files, "    logging: {driver: journald}\n").logging.options == {}
    assert _merged(files, "    logging: {options: {max-file: '2'}}\n").logging.options == {"max-size": "1m", "max-file": "2"}


def test_reset_takes_away(files: Any) -> None:
    app = _merged(files, "    ports: !reset []\n    environment: {A: !reset null}\n    command: !reset null\n")
    assert (app.ports, app.environment, app.command) == ((), {"B": "2"}, None)


def test_override_replaces(files: Any) -> None:
    app = _merged(files, '    ports: !override ["9:9"]\n    environment: !override {Z: 1}\n')
    assert [port.target for port in app.ports] == [9] and app.environment == {"Z": "1"}


def test_the_override_file_is_found(files: Any) -> None:
    files.write("compose.yaml", "services: {app: {image: a}}\n")
    files.write("compose.override.yaml", "services: {app: {user: u}}\n")
    app = files.load().services["app"]
    assert (app.image, app.user) == ("a", "u")


names = st.text(alphabet="abc", min_size=1, max_size=2)
trees = st.recursive(st.integers() | st.text(max_size=3), lambda inner: st.dictionaries(names, inner, max_size=3), max_leaves=8)
mappings = st.dictionaries(names, trees, max_size=3)


@given(mappings)
def test_merging_with_nothing_or_itself_changes_nothing(tree: dict[str, Any]) -> None:
    assert merge(tree, {}) == merge({}, tree) == merge(tree, tree) == tree


def shaped(depth: int) -> st.SearchStrategy[dict[str, Any]]:
    """Trees in which a key holds the same kind of value everywhere, as keys of the specification do."""
    inner = {"deep": shaped(depth - 1)} if depth else {}
    return st.fixed_dictionaries({}, optional={"number": st.integers(), "text": st.text(max_size=2), **inner})


@given(shaped(3), shaped(3), shaped(3))
def test_the_order_of_grouping_does_not_matter(a: dict[str, Any], b: dict[str, Any], c: dict[str, Any]) -> None:
    assert merge(merge(a, b), c) == merge(a, merge(b, c))


@given(mappings, mappings)
def test_later_scalars_win_and_no_key_is_lost(a: dict[str, Any], b: dict[str, Any]) -> None:
    merged = merge(a, b)
    assert set(merged) == set(a) | set(b)
    assert all(merged[key] == value for key, value in b.items() if not isinstance(value, dict))
