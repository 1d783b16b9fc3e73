"""Which OCI runtime is taken, and what is said of one that cannot serve."""

from __future__ import annotations

from pathlib import Path

import pytest

from packhorse.errors import SandboxError
from packhorse.sandbox.oci import find_runtime

pytestmark = pytest.mark.system


def program(directory: Path, name: str, script: str) -> Path:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_runtime_is_taken_from_path_or_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = program(tmp_path, "container-runtime", "echo runc version 1.1.5+ds1; echo spec: 1.0.2")
    other = program(tmp_path, "crun-other", "echo crun version 1.8.1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_runtime("container-runtime") == (str(one), "--rootless", "true")
    assert find_runtime(str(other)) == (str(other), "--cgroup-manager", "disabled")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo runc version 0.1.1", "is too old\nit is runc 0.1, and 1.0 is needed"),
        ("echo runsc version release-20240101.0", "packhorse cannot use runsc\nit can use runc and crun"),
        ("echo GNU bash, version 5.2", "it answers --version with 'GNU bash, version 5.2'"),
        ("exit 3", "it does not answer --version"),
        ("exec /no/such/interpreter", "it answers --version with"),
    ],
)
def test_a_runtime_that_cannot_serve_is_named_with_the_reason(script: str, said: str, tmp_path: Path) -> None:
    path = program(tmp_path, "runtime", script)
    with pytest.raises(SandboxError) as raised:
        find_runtime(str(path))
    assert said in f"{raised.value.what}\n{raised.value.why}"
    assert "bubblewrap" in raised.value.fix


def test_a_runtime_that_is_not_there_or_no_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="no OCI runtime none-such"):
        find_runtime("none-such")
    path = tmp_path / "lost"
    path.write_text("#!/no/such/interpreter\n")
    path.chmod(0o755)
    with pytest.raises(SandboxError, match="lost cannot be started"):
        find_runtime(str(path))
