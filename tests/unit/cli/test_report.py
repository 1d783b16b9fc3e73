"""What a defect prints has no secret in it; what a process has too little of is no defect."""

from __future__ import annotations

import errno

import pytest

from packhorse.cli.output import Secrets, causes, defect, exhaustion_error
from packhorse.errors import InputError, check_of


def test_values_of_the_environment_and_of_options_are_hidden() -> None:
    secrets = Secrets({"TOKEN": "t0ken-value", "ONE": "1"})
    secrets.add_words(["build", "-e", "A=opt-value", "--env=B=long=value", "x"])
    said = secrets.redact("t0ken-value, opt-value, long=value, 1, build")
    assert said == "…, …, …, 1, build"


def test_the_longest_value_is_hidden_first() -> None:
    secrets = Secrets({"A": "secret", "B": "secret-and-more"})
    assert secrets.redact("secret-and-more") == "…"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("at https://me:pw@host/path", "at https://…@host/path"),
        ("https://token@host", "https://…@host"),
        ("GET https://host/v2?token=abc&x=y failed", "GET https://host/v2?… failed"),
        ("mail me@host", "mail me@host"),
    ],
)
def test_what_urls_have_of_passwords_is_hidden(text: str, said: str) -> None:
    assert Secrets({}).redact(text) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{'authorization': 'Basic bWU6cHc='}", "{'authorization': 'Basic …'}"),
        ("Authorization: bearer eyJ.a-b_c.d", "Authorization: bearer …"),
        ('{"auth": "bWU6cHc=", "a": "b"}', '{"auth": "…", "a": "b"}'),
        ("{'Secret': 'x', 'identitytoken': 'y'}", "{'Secret': '…', 'identitytoken': '…'}"),
        ('{"access_token":"abc"}', '{"access_token":"…"}'),
    ],
)
def test_what_headers_and_auth_files_have_of_passwords_is_hidden(text: str, said: str) -> None:
    assert Secrets({}).redact(text) == said


def raised() -> Exception:
    try:
        try:
            raise KeyError("s3cret-a")
        except KeyError as error:
            raise ValueError("not s3cret-b") from error
    except ValueError as error:
        return error


def test_a_defect_says_where_it_is_and_how_to_report_it() -> None:
    error = defect(raised(), Secrets({"A": "s3cret-a", "B": "s3cret-b"}), verbose=False)
    assert error.what == "packhorse itself went wrong: ValueError"
    assert "please report it" in error.fix and "--verbose says more" in error.fix
    assert "s3cret" not in str(error) and "caused by" not in error.why


def test_a_defect_says_more_when_asked_without_secrets() -> None:
    error = defect(raised(), Secrets({"A": "s3cret-a", "B": "s3cret-b"}), verbose=True)
    lines = error.why.splitlines()
    assert lines[0] == "not …" and lines[1] == "caused by KeyError: '…'"
    assert "test_report.py" in error.why and "raised" in error.why
    assert "s3cret" not in str(error)


def test_a_secret_at_the_end_of_what_is_said_is_hidden_before_that_is_cut() -> None:
    error = ValueError("x" * 495 + "s3cret-a")
    error.__cause__ = KeyError("y" * 490 + "s3cret-b")
    said = defect(error, Secrets({"A": "s3cret-a", "B": "s3cret-b"}), verbose=True)
    assert "s3c" not in str(said)


def test_our_own_errors_are_told_in_their_words() -> None:
    error = InputError("outer")
    error.__cause__ = InputError("inner", why="because")
    assert causes(error, Secrets({"A": "because"})) == ["caused by InputError: inner\nbecause"]


def test_a_cause_whose_words_the_error_repeats_is_not_told_twice() -> None:
    error = InputError("same", why="because\nand more")
    error.__cause__ = InputError("same", why="because")
    error.__cause__.__cause__ = KeyError("deep")
    assert causes(error, Secrets({})) == ["caused by KeyError: 'deep'"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.EAGAIN, "Resource temporarily unavailable"),
        RuntimeError("can't start new thread"),
    ],
)
def test_too_little_of_something_is_the_machines(error: Exception) -> None:
    found = exhaustion_error(error)
    assert found is not None and check_of(found) == "limits"
    assert found.__cause__ is error


def test_anything_else_is_a_defect() -> None:
    assert exhaustion_error(OSError(errno.ENOENT, "No such file")) is None
    assert exhaustion_error(RuntimeError("other")) is None
