"""An error names the line "limits" of `packhorse doctor` if the machine ran out of something."""

from __future__ import annotations

import errno
from itertools import pairwise

import pytest

from packhorse.cli.main import _explain
from packhorse.cli.output import Console
from packhorse.cli.signals import Signals
from packhorse.errors import NotFoundError, PackhorseError, StoreError, check_of

EXHAUSTED = OSError(errno.EMFILE, "Too many open files")


def chain(*errors: BaseException) -> BaseException:
    """The first error, of which each next one is the cause of the one before."""
    for error, cause in pairwise(errors):
        error.__cause__ = cause
    return errors[0]


def explain(error: BaseException) -> PackhorseError:
    return _explain(error, Console({}), Signals())


@pytest.mark.parametrize(
    ("error", "check"),
    [
        (chain(StoreError("unusable"), EXHAUSTED), "limits"),
        (chain(StoreError("unusable"), ValueError("between"), EXHAUSTED), "limits"),
        (chain(StoreError("unusable"), MemoryError()), "limits"),
        (chain(StoreError("unusable"), RuntimeError("can't start new thread")), "limits"),
        (chain(StoreError("unusable"), OSError(errno.ENOENT, "No such file")), ""),
        (NotFoundError("missing"), ""),
        # Advice of its own is better than ours.
        (chain(StoreError("unusable", fix="allow more"), EXHAUSTED), ""),
        (chain(StoreError("unusable", check="disk"), EXHAUSTED), "disk"),
    ],
)
def test_an_error_names_the_limits_if_one_of_its_causes_is_a_lack(error: PackhorseError, check: str) -> None:
    explained = explain(error)
    assert explained is error and check_of(explained) == check


def test_a_lack_that_nobody_handled_is_the_machines_and_no_defect() -> None:
    explained = explain(OSError(errno.EMFILE, "Too many open files"))
    assert explained.exit_code == 7 and explained.check == "limits"
    assert "went wrong" not in explained.what


def test_any_other_exception_is_a_defect_without_advice_about_limits() -> None:
    explained = explain(OSError(errno.ENOENT, "No such file"))
    assert explained.exit_code == 1 and explained.check == ""
    assert explained.what == "packhorse itself went wrong: FileNotFoundError"
