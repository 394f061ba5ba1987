"""Labels on a host that has AppArmor and SELinux, as far as that can be seen without one: what they come to as steps."""

from __future__ import annotations

from typing import Any

import pytest

from berth.errors import NotImplementedKind
from berth.runtime import label
from berth.runtime.oci import document


def process(**fields: Any) -> Any:
    return document.read({"args": ["true"], **fields}, document.PROCESS, "process")


def test_labels_are_opened_by_their_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label, "apparmor_enabled", lambda: True)
    monkeypatch.setattr(label, "selinux_enabled", lambda: True)
    wanted = process(apparmorProfile="docker-default", selinuxLabel="a:b:c:s0")
    opened = {"apparmor": "docker-default", "selinux": "a:b:c:s0"}
    steps = [["open-label", {"module": module, "label": text}] for module, text in opened.items()]
    assert label.steps(wanted) == [*steps, ["label", {}]] and label.of(wanted) == opened
    plan = {
        "steps": [["mount", {"kind": "tmpfs", "options": []}], ["mount", {"kind": "proc", "options": []}]],
        "sources": [{"kind": "dev", "options": [["mode", "755"]]}, {"kind": "bind"}],
    }
    label.mark(plan, "x:y:z:s0")
    assert plan["steps"][0][1]["options"] == [["context", "x:y:z:s0"]] and plan["steps"][1][1]["options"] == []
    assert plan["sources"][0]["options"] == [["mode", "755"], ["context", "x:y:z:s0"]]


def test_labels_that_the_host_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label, "apparmor_enabled", lambda: False)
    monkeypatch.setattr(label, "selinux_enabled", lambda: False)
    assert label.steps(process()) == []
    for fields in ({"apparmorProfile": "x"}, {"selinuxLabel": "x"}):
        with pytest.raises(NotImplementedKind, match="is not enabled on this host"):
            label.steps(process(**fields))
    with pytest.raises(NotImplementedKind, match="mountLabel is x"):
        label.mark({"steps": [], "sources": []}, "x")
