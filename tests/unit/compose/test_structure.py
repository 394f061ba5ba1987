"""extends, include, profiles, names, defaults, and whether the parts fit together."""

from __future__ import annotations

from typing import Any

import pytest

from berth.compose.load.consistency import service_order
from berth.compose.problem import ComposeInvalid
from berth.errors import InvalidArgument, NotFound


def test_extends_in_the_same_file_and_over_several_steps(files: Any) -> None:
    project = files.load(
        "services:\n"
        "  a: {image: x, environment: {A: 1, B: 1}, cap_add: [X]}\n"
        "  b: {extends: a, environment: {B: 2}}\n"
        "  c: {extends: {service: b}, cap_add: [Y]}\n"
    )
    c = project.services["c"]
    assert (c.image, c.environment, c.cap_add) == ("x", {"A": "1", "B": "2"}, ("X", "Y"))


def test_extends_from_another_file_takes_its_paths_from_there(files: Any) -> None:
    files.write("sub/base.yaml", "services:\n  base: {build: ., volumes: ['./d:/d'], env_file: e.env}\n")
    files.write("sub/e.env", "FROM=sub\n")
    app = files.load("services:\n  app: {extends: {file: sub/base.yaml, service: base}}\n").services["app"]
    assert app.build.context == f"{files.folder}/sub"
    assert app.volumes[0].source == f"{files.folder}/sub/d"
    assert app.environment == {"FROM": "sub"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("services:\n  a: {extends: b}\n  b: {extends: a}\n", "circular reference with extends: a -> b -> a"),
        ("services:\n  a: {image: x, extends: no}\n", 'c0.yaml:2: cannot extend service "no"'),
    ],
)
def test_extends_that_lead_nowhere(files: Any, text: str, message: str) -> None:
    with pytest.raises(ComposeInvalid, match=message):
        files.load(text)


def test_include(files: Any) -> None:
    files.write("db/compose.yaml", "services:\n  db: {image: 'pg:$TAG', volumes: ['./data:/d']}\nvolumes: {v: }\n")
    files.write("db/.env", "TAG=9\n")
    project = files.load("include: [db/compose.yaml]\nservices:\n  app: {image: x, depends_on: [db]}\n")
    assert project.services["db"].image == "pg:9"
    assert project.services["db"].volumes[0].source == f"{files.folder}/db/data"
    assert list(project.volumes) == ["v"]


def test_include_conflicts(files: Any) -> None:
    files.write("other.yaml", "services: {app: {image: y}}\n")
    with pytest.raises(ComposeInvalid, match=r"services.app conflicts with imported resource"):
        files.load("include: [other.yaml]\nservices: {app: {image: x}}\n")


PROFILES = "services:\n  a: {image: x}\n  b: {image: x, profiles: [p]}\n  c: {image: x, profiles: [q]}\n"


@pytest.mark.parametrize(
    ("profiles", "services", "active"),
    [((), (), ["a"]), (("p",), (), ["a", "b"]), (("*",), (), ["a", "b", "c"]), ((), ("c",), ["a", "c"])],
)
def test_profiles(files: Any, profiles: tuple[str, ...], services: tuple[str, ...], active: list[str]) -> None:
    project = files.load(PROFILES, profiles=profiles, services=services)
    assert list(project.services) == active


def test_profiles_from_the_environment(files: Any) -> None:
    assert list(files.load(PROFILES, environ={"COMPOSE_PROFILES": "p,q"}).services) == ["a", "b", "c"]


def test_names_in_the_engine(files: Any) -> None:
    project = files.load(
        "services:\n  a: {image: x, networks: [n, m, e], volumes: ['v:/v', 'w:/w']}\n"
        "networks: {n: , m: {name: mine}, e: {external: true}}\nvolumes: {v: , w: {external: true, name: theirs}}\n"
    )
    assert {key: n.name for key, n in project.networks.items()} == {"n": "demo_n", "m": "mine", "e": "e"}
    assert {key: v.name for key, v in project.volumes.items()} == {"v": "demo_v", "w": "theirs"}


def test_the_default_network_is_there_only_when_it_is_used(files: Any) -> None:
    assert list(files.load("services: {a: {image: x}}\n").networks) == ["default"]
    assert list(files.load("services: {a: {image: x, network_mode: none}}\n").networks) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("services: {a: {command: x}}\n", 'service "a" has neither an image nor a build context'),
        ("services: {a: {image: x, networks: [no]}}\n", "refers to undefined network no"),
        ("services: {a: {image: x, volumes: ['no:/x']}}\n", "refers to undefined volume no"),
        ("services: {a: {image: x, secrets: [no]}}\n", "refers to undefined secret no"),
        ("services: {a: {image: x, depends_on: [no]}}\n", 'depends on undefined service "no"'),
        ("services: {a: {image: x, network_mode: host, networks: [n]}}\nnetworks: {n: }\n", "mutually exclusive"),
        ("services: {a: {image: x, container_name: one, scale: 2}}\n", "more than one container with the same container_name"),
        ("services: {a: {image: x, volumes: ['/a:/x', '/b:/x']}}\n", "two mounts have the target"),
        ("services: {a: {image: x, depends_on: [b]}, b: {image: x, links: [a]}}\n", "dependency cycle detected: a -> b -> a"),
        ("services: {a: {image: x, depends_on: [b]}, b: {image: x, profiles: [p]}}\n", r"whose profile \(p\) is not active"),
    ],
)
def test_parts_that_do_not_fit(files: Any, text: str, message: str) -> None:
    with pytest.raises(ComposeInvalid, match=message):
        files.load(text)


def test_dependencies_come_first(files: Any) -> None:
    project = files.load(
        "services:\n  a: {image: x, depends_on: [c]}\n  b: {image: x, network_mode: 'service:a'}\n"
        "  c: {image: x}\n  d: {image: x, links: [b]}\n"
    )
    assert service_order(project.services) == ["c", "a", "b", "d"]


def test_files_are_found_above(files: Any) -> None:
    from berth.compose.load.project import load
    from berth.compose.load.source import LoadOptions

    files.write("docker-compose.yml", "services: {a: {image: x}}\n")
    (files.folder / "deep/er").mkdir(parents=True)
    project = load(LoadOptions(environ={}, cwd=str(files.folder / "deep/er"), project_name="p"), files.warnings.append)
    assert (project.working_dir, project.name) == (str(files.folder), "p")
    with pytest.raises(InvalidArgument, match="invalid project name"):
        load(LoadOptions(environ={}, cwd=str(files.folder), project_name="Not Good"), files.warnings.append)


def test_no_file(files: Any) -> None:
    with pytest.raises(NotFound, match="no configuration file provided"):
        files.load()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("gpus: all", "c0.yaml:4: services.app.gpus is not supported"),
        ("build: {context: ., ssh: [default]}", "c0.yaml:4: services.app.build.ssh is not supported"),
        ("provider: {type: x}", "c0.yaml:4: services.app.provider is not supported"),
    ],
)
def test_what_is_not_done_is_an_error_where_it_matters(files: Any, body: str, message: str) -> None:
    with pytest.raises(ComposeInvalid, match=message):
        files.service(body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("deploy: {placement: {constraints: [x]}}", "c0.yaml:4: services.app.deploy.placement is ignored"),
        ("develop: {watch: [{path: ., action: sync, target: /x}]}", "c0.yaml:4: services.app.develop is ignored"),
        ("networks: {default: {priority: 5}}", "services.app.networks.default.priority is ignored"),
    ],
)
def test_what_is_not_done_is_a_warning_where_it_does_not_matter(files: Any, body: str, message: str) -> None:
    files.service(body)
    assert any(message in warning for warning in files.warnings), files.warnings


def test_the_old_version_key_is_warned_about(files: Any) -> None:
    files.load('version: "3.9"\nservices: {a: {image: x}}\n')
    assert "the attribute `version` is obsolete" in files.warnings[0]
