"""Security options of a container, and labels of security modules."""

from __future__ import annotations

import pytest

from berth.engine.containers import confinement
from berth.engine.containers.security import parse_security_options
from berth.errors import InvalidArgument, NotImplementedKind


@pytest.mark.parametrize(
    ("options", "default", "result"),
    [
        ([], False, False),
        ([], True, True),
        (["no-new-privileges"], False, True),
        (["no-new-privileges:true"], False, True),
        (["no-new-privileges=0"], True, False),
        (["no-new-privileges=F", "no-new-privileges"], False, True),
    ],
)
def test_no_new_privileges_and_the_engines_default(options: list[str], default: bool, result: bool) -> None:
    assert parse_security_options(options, privileged=False, no_new_privileges=default).no_new_privileges is result


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("nonsense", 'invalid --security-opt 1: "nonsense"'),
        ("nonsense=1", 'invalid --security-opt 2: "nonsense=1"'),
        ("no-new-privileges=maybe", 'invalid --security-opt 2: "no-new-privileges=maybe"'),
        ("writable-cgroups", 'invalid --security-opt 1: "writable-cgroups"'),
    ],
)
def test_what_does_not_exist_in_dockers_words(option: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_security_options([option], privileged=False)
    assert caught.value.message == message


def with_modules(monkeypatch: pytest.MonkeyPatch, *, apparmor: bool, selinux: bool) -> None:
    monkeypatch.setattr(confinement, "apparmor_enabled", lambda: apparmor)
    monkeypatch.setattr(confinement, "selinux_enabled", lambda: selinux)


def test_labels_without_a_module_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    with_modules(monkeypatch, apparmor=False, selinux=False)
    options = parse_security_options(["apparmor:mine", "label=user:x", "label:type:y"], privileged=False)
    assert (options.apparmor, options.labels) == ("mine", ("user:x", "type:y"))
    warnings = confinement.check_labels(options)
    assert [text.partition(" ")[0] for text in warnings] == ["AppArmor", "SELinux"]
    assert confinement.apparmor_profile(options) is None
    harmless = parse_security_options(["apparmor=unconfined", "label=disable", "disable"], privileged=False)
    assert confinement.check_labels(harmless) == []


def test_labels_that_the_kernel_knows_are_not_silently_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with_modules(monkeypatch, apparmor=True, selinux=True)
    assert confinement.check_labels(parse_security_options(["apparmor=mine"], privileged=False)) == []
    with pytest.raises(NotImplementedKind, match="SELinux"):
        confinement.check_labels(parse_security_options(["label=level:s0"], privileged=False))


@pytest.mark.parametrize(
    ("options", "privileged", "profile"),
    [
        ([], False, "docker-default"),
        ([], True, "unconfined"),
        (["apparmor=mine"], False, "mine"),
        (["apparmor=mine"], True, "mine"),
        (["apparmor:unconfined"], False, "unconfined"),
    ],
)
def test_the_profile_that_a_container_is_under(
    options: list[str], privileged: bool, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_modules(monkeypatch, apparmor=True, selinux=False)
    parsed = parse_security_options(options, privileged=privileged)
    assert confinement.apparmor_profile(parsed) == profile
    with_modules(monkeypatch, apparmor=False, selinux=False)
    assert confinement.apparmor_profile(parsed) is None
