"""What reaches a person's terminal, whatever buildpacks and images say."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from fakes.command import Command
from packhorse.cli.output import Console, format_size, format_table
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
        b"\x1b]52;c;ZXZpbA==\x07",
        b"\x1bP1$r0m\x1b\\",
        b"\x1b[?1049h",
        b"\x1b\x1b[2J",
        b"\x9b2J",
        b"\x1b[38;2;1;2;3;4;5;6;7;8;9;10;11;12;13;14;15;16m",
        "\u202egnp.exe\u2066\u200f".encode(),
    ],
)
def test_no_control_sequence_gets_through(capsys: pytest.CaptureFixture[str], hostile: bytes) -> None:
    console = Console({})
    console.output("bp", b"before" + hostile + b"after\n")
    text = "before" + hostile.decode(errors="replace") + "after"
    console.say(text)
    console.notes([text])
    console.result(text)
    console.table([text], [[text]])
    console.error(PackhorseError(text))
    out, err = capsys.readouterr()
    assert not any(character in out + err for character in "\x1b\x07\x00\x9b\u202e\u2066\u200f")
    assert all("before" in line and line.endswith("after") for line in (out + err).splitlines())


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\x0b", "\x85", "\u2028"])
def test_a_name_with_line_ends_makes_no_line_of_ours(capsys: pytest.CaptureFixture[str], end: str) -> None:
    console = Console({})
    name = f"layer{end}built app  sha256:0"
    console.say(name)
    console.notes([name])
    console.result(name)
    console.table(["NAME"], [[name]])
    with console.phase(name):
        console.output(name, b"said\n")
    console.error(PackhorseError(name))
    out, err = capsys.readouterr()
    assert not [line for line in (out + err).splitlines() if line.lstrip().startswith("built app")]


LONG = "/" + "/".join(["first", *["x" * 255] * 15, "last.toml"])


def test_an_error_with_a_long_path_is_short_and_says_where(capsys: pytest.CaptureFixture[str]) -> None:
    fix = f"remove it: rm {LONG}"
    Console({}).error(PackhorseError(f"{LONG}:7: no key", why=f"in 'a b {LONG}'\n{'word ' * 700}", fix=fix))
    said = capsys.readouterr().err.splitlines()
    assert [len(line) < 1010 for line in said] == [True, True, True, False]
    assert said[0].startswith("error: /first/xxx") and said[0].endswith("xxx/last.toml:7: no key")
    assert len(said[0]) < 250 and said[1].startswith("  in 'a b /first/xxx")
    assert said[3] == f"  {fix}", "a command can be copied"


def test_verbose_has_the_whole_path(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console({})
    console.adjust(quiet=False, verbose=True, no_color=False)
    console.error(PackhorseError(f"{LONG}:7: no key"))
    assert f"{LONG}:7: no key" in capsys.readouterr().err


def test_an_error_of_ordinary_length_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/home/somebody/" + "directory/" * 18
    Console({}).error(PackhorseError(path, why=path))
    assert capsys.readouterr().err == f"error: {path}\n  {path}\n"


def test_half_a_character_is_printed_as_a_question_mark(capsys: pytest.CaptureFixture[str]) -> None:
    Console({}).result("a\ud800b\udcff")
    assert capsys.readouterr().out == "a?b?\n"


def test_characters_that_come_in_two_parts_are_whole(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console({})
    for byte in "naïve → 北京\n".encode():
        console.output("bp", bytes([byte]))
    assert capsys.readouterr().err == "     [bp] naïve → 北京\n"


def test_colours_stay_on_a_terminal_and_end_with_their_line(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    written.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", written)
    Console({}).output("bp", b"\x1b[31mred\x1b[2J\nplain\n")
    assert written.getvalue().splitlines() == [
        "\x1b[2m     [bp]\x1b[0m \x1b[31mred\x1b[0m",
        "\x1b[2m     [bp]\x1b[0m plain",
    ]


@pytest.mark.parametrize(
    "flood", [b"x" * 65536, b"50%\r" * 16384, b"\xe5" * 65536, b"\x1b]0;" + b"x" * 65532]
)
def test_of_a_line_that_never_ends_little_is_held_back(
    capsys: pytest.CaptureFixture[str], flood: bytes
) -> None:
    console = Console({})
    for _ in range(50):
        console.output("bp", flood)
        capsys.readouterr()
    console.say("")
    assert len(capsys.readouterr().err) < 1 << 17


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
    table = format_table(["NAME", "SIZE"], [["a", "10 MB"], ["longer", "1 B"]], right=frozenset({1}))
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
    assert format_size(count) == text


@pytest.mark.system
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_output_is_utf8_whatever_python_is_told(encoding: str, tmp_path: Path) -> None:
    done = Command(tmp_path / "home").run("inspect", "wéb€", PYTHONIOENCODING=encoding)
    assert done.returncode == 3 and "wéb€" in done.stderr
