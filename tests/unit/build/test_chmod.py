"""--chmod, compared with chmod(1)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from berth.build.chmod import Chmod


@pytest.mark.parametrize(
    ("text", "mode", "is_dir", "expected"),
    [
        ("0755", 0o600, False, 0o755),
        ("+x", 0o644, False, 0o755),
        ("u=rwX,go=rX", 0o600, False, 0o644),
        ("u=rwX,go=rX", 0o600, True, 0o755),
        ("go-w", 0o666, False, 0o644),
        ("u+s,+t", 0o755, False, 0o5755),
        ("a=r", 0o777, False, 0o444),
        ("g=", 0o777, False, 0o707),
    ],
)
def test_modes(text: str, mode: int, is_dir: bool, expected: int) -> None:
    assert Chmod.parse(text).apply(mode, is_dir) == expected


@pytest.mark.parametrize("text", ["", "rwx", "u", "q+x", "0888", "u+x,", "123456", "u=g"])
def test_what_is_no_mode(text: str) -> None:
    with pytest.raises(ValueError, match="write it as"):
        Chmod.parse(text)


_clause = st.builds(
    "{}{}{}".format, st.sampled_from(["u", "g", "o", "a", "ug", "go"]), st.sampled_from("+-="), st.text("rwxX", max_size=3)
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_clause, min_size=1, max_size=3).map(",".join), st.integers(0, 0o777))
def test_as_the_command_does_it(tmp_path: Path, text: str, mode: int) -> None:
    file = tmp_path / "file"
    file.touch()
    os.chmod(file, mode)
    subprocess.run(["chmod", text, str(file)], check=True)
    assert Chmod.parse(text).apply(mode, False) == file.stat().st_mode & 0o7777
