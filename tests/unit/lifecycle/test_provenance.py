"""Version, repository and commit of a launcher that a Go linker made."""

from __future__ import annotations

import pytest

from fakes.workshop import Workshop
from packhorse.lifecycle.export import complete
from packhorse.lifecycle.inputs import LauncherInfo

PACKAGE = "github.com/buildpacks/lifecycle/cmd"


def _program(flags: str) -> bytes:
    build = f'path\t{PACKAGE}/launcher\nbuild\t-compiler=gc\nbuild\t-ldflags="{flags}"\nbuild\tGOOS=linux\n'
    return b"\x7fELF" + bytes(range(256)) + build.encode() + bytes(64)


@pytest.mark.parametrize("quote", ["'", ""])
def test_a_launcher_of_the_reference_says_what_it_was_built_from(quote: str) -> None:
    values = {"SCMRepository": "github.com/acme/lifecycle", "SCMCommit": "abcdef1", "Version": "0.21.0+x"}
    flags = " ".join(f"-X {quote}{PACKAGE}.{name}={value}{quote}" for name, value in values.items())
    found = complete(LauncherInfo(""), _program(f"-s -w {flags}"))
    assert found == LauncherInfo("0.21.0+x", "github.com/acme/lifecycle", "abcdef1")


def test_what_the_builder_says_comes_first() -> None:
    program = _program(f"-X '{PACKAGE}.Version=1' -X '{PACKAGE}.SCMCommit=abcdef1'")
    assert complete(LauncherInfo("2", "there"), program) == LauncherInfo("2", "there", "abcdef1")


@pytest.mark.parametrize(
    "program", [b"", b"\x7fELF no Go at all", _program("-s -w"), _program(f"-X {PACKAGE}.Other=1")]
)
def test_a_launcher_that_says_nothing_leaves_it_at_that(program: bytes) -> None:
    assert complete(LauncherInfo("1"), program) == LauncherInfo("1")


TRIMMED = (
    f"path\t{PACKAGE}/launcher\nbuild\t-compiler=gc\nbuild\t-trimpath=true\nbuild\tGOOS=linux\n".encode()
)


@pytest.mark.parametrize(
    ("program", "is_told"), [(TRIMMED, True), (_program("-s -w"), False), (b"-trimpath=true\n", False)]
)
def test_a_launcher_whose_flags_go_left_out_is_told(
    workshop: Workshop, program: bytes, is_told: bool
) -> None:
    workshop.set(launcher=LauncherInfo("0.21.0"))
    workshop.tree.write("/cnb/lifecycle/launcher", program, mode=0o755)
    workshop.order((workshop.buildpack("a"),))
    workshop.create()
    assert any("does not tell its commit" in line for line in workshop.notes.said) is is_told
