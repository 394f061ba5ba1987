"""What the schema refuses, and how it is told."""

from __future__ import annotations

from typing import Any

import pytest

from berth.compose.problem import ComposeInvalid


@pytest.mark.parametrize(
    ("body", "line", "message"),
    [
        ("imge: x", 4, "additional properties 'imge' not allowed in services.app: did you mean 'image'?"),
        ("depend_on: [x]", 4, "did you mean 'depends_on'?"),
        ("command: {a: 1}", 4, "services.app.command must be"),
        (
            "healthcheck: {intervall: 1s}",
            4,
            "additional properties 'intervall' not allowed in services.app.healthcheck: did you mean 'interval'?",
        ),
        ("build: {contxt: .}", 4, "did you mean 'context'?"),
        ("cap_add: [A, A]", 4, "services.app.cap_add: 'A' is there twice"),
        ("volumes: [{type: bond, target: /x}]", 4, "value must be one of"),
        ("ports: ['1:2:3:4:5']", 4, "services.app.ports: invalid port '1:2:3:4:5'"),
        ("ports: ['99999:80']", 4, "invalid port number 99999"),
        ("mem_limit: lots", 4, "services.app.mem_limit: invalid size: 'lots'"),
        ("healthcheck: {interval: soon}", 4, "invalid duration: 'soon'"),
        ("volumes: ['a:b:c:d']", 4, "invalid volume 'a:b:c:d'"),
        ("extra_hosts: [alone]", 4, "missing IP"),
    ],
)
def test_messages_name_the_place_and_the_remedy(files: Any, body: str, line: int, message: str) -> None:
    with pytest.raises(ComposeInvalid) as caught:
        files.load(f"services:\n  app:\n    image: x\n    {body}\n")
    text = str(caught.value)
    assert text.startswith(f"{files.folder}/c0.yaml:{line}: ") and message in text


def test_several_errors_are_told_at_once(files: Any) -> None:
    with pytest.raises(ComposeInvalid) as caught:
        files.load("services:\n  a: {imge: x}\n  b: {imag: x}\n")
    assert "c0.yaml:2: " in str(caught.value) and "c0.yaml:3: " in str(caught.value)


def test_unknown_top_level_key(files: Any) -> None:
    with pytest.raises(ComposeInvalid, match="'service' not allowed in the top level: did you mean 'services'"):
        files.load("service: {}\n")


def test_extensions_are_allowed_everywhere(files: Any) -> None:
    project = files.load("x-a: 1\nservices:\n  app: {image: x, x-b: 2, deploy: {x-c: 3}}\nnetworks: {n: {x-d: 4}}\n")
    assert list(project.services) == ["app"]
