"""`--env` and `--env-file`, as docker reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from packhorse.cli import options
from packhorse.cli.main import Context
from packhorse.cli.output import Console
from packhorse.cli.signals import Signals
from packhorse.errors import InputError, UsageError


def environment(given: Iterable[str], files: Iterable[Path], environ: Mapping[str, str]) -> dict[str, str]:
    """For a user with the environment `environ`."""
    return options.environment(given, files, Context(Console(environ), environ, Signals()))


def test_a_value_may_have_anything_in_it() -> None:
    assert environment(["A=b=c d", "E="], [], {}) == {"A": "b=c d", "E": ""}


def test_a_name_alone_takes_the_callers_value_if_there_is_one() -> None:
    assert environment(["HERE", "GONE"], [], {"HERE": "x"}) == {"HERE": "x"}


def test_files_have_comments_and_empty_lines_and_options_win(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# comment\n\nA=file\r\nB=two words  \n  C=indented\nHERE\n")
    assert environment(["A=option"], [file], {"HERE": "x"}) == {
        "A": "option",
        "B": "two words  ",
        "C": "indented",
        "HERE": "x",
    }


@pytest.mark.parametrize(
    "text", ["=value", "A B=c", "A/B=c", "", ".=x", "..=x", "A" * 256 + "=x", "secret words", "sec/ret"]
)
def test_what_cannot_be_a_name_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        environment([text], [], {})
    assert "sec" not in str(refused.value)


def test_a_wrong_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("A=b\n=c\n")
    with pytest.raises(UsageError, match=r"env:2"):
        environment([], [file], {})


def test_a_file_that_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        environment([], [tmp_path / "none"], {})


def test_a_file_without_end_is_refused() -> None:
    with pytest.raises(InputError, match="too large"):
        environment([], [Path("/dev/zero")], {})
