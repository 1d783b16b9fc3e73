"""What reaches a person's terminal, whatever buildpacks and images say."""

from __future__ import annotations

import pytest

from packhorse.cli.output import Console, columns, size
from packhorse.errors import PackhorseError


def test_lines_of_a_buildpack_come_when_they_end(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console({})
    console.output("a/node", b"one\ntw")
    console.output("a/node", b"o\r\nthree")
    assert capsys.readouterr().err == "     [node] one\n     [node] two\n"
    console.say("next")
    assert capsys.readouterr().err == "     [node] three\n     next\n"


@pytest.mark.parametrize(
    "hostile",
    [
        b"\x1b[2J",
        b"\x1b]0;title\x07",
        b"\x1b]8;;http://x\x1b\\",
        b"\x1b[31m",
        b"\x07",
        b"\xc2\x9b2J",
        b"\x1bc",
        b"\x00",
    ],
)
def test_no_control_sequence_gets_through(capsys: pytest.CaptureFixture[str], hostile: bytes) -> None:
    console = Console({})
    console.output("bp", b"before" + hostile + b"after\n")
    console.say("before" + hostile.decode() + "after")
    console.notes(["before" + hostile.decode() + "after"])
    console.result("before" + hostile.decode() + "after")
    console.error(PackhorseError("before" + hostile.decode() + "after"))
    out, err = capsys.readouterr()
    assert not any(character in out + err for character in "\x1b\x07\x00\x9b")
    assert all("before" in line and line.endswith("after") for line in (out + err).splitlines())


def test_of_a_progress_bar_the_last_state_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console({})
    console.output("bp", b"10%\r50%\r100%\n")
    assert capsys.readouterr().err == "     [bp] 100%\n"


def test_quiet_says_nothing_until_something_fails(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console({})
    console.adjust(quiet=True, verbose=False, no_color=False)
    with console.phase("build"):
        console.output("bp", b"the reason\n")
        console.say("a line")
    assert capsys.readouterr() == ("", "")
    console.error(PackhorseError("it failed", why="because", fix="do this"))
    assert capsys.readouterr().err.splitlines() == [
        "     [bp] the reason",
        "error: it failed",
        "  because",
        "  do this",
    ]


def test_without_a_terminal_progress_is_lines(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console({})
    console.progress("first")
    console.progress("second")
    assert capsys.readouterr().err == "     first\n     second\n"


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    table = columns(["NAME", "SIZE"], [["a", "10 MB"], ["longer", "1 B"]], right=frozenset({1}))
    assert table == ["NAME     SIZE", "a       10 MB", "longer    1 B"]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (123_456, "123 kB"),
        (82_700_000, "82.7 MB"),
        (10**12, "1000 GB"),
    ],
)
def test_sizes_are_in_powers_of_ten_as_dockers_are(count: int, text: str) -> None:
    assert size(count) == text
