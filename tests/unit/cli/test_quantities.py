"""Sizes, times and limits as a user writes them."""

from __future__ import annotations

import pytest

from packhorse.cli.options import parse_limits, parse_seconds, parse_size
from packhorse.errors import UsageError


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [("1024", 1024), ("512b", 512), ("4k", 4096), ("512m", 512 << 20), ("4G", 4 << 30), ("1.5GiB", 3 << 29)],
)
def test_a_size_is_written_as_for_docker(text: str, bytes_: int) -> None:
    assert parse_size(text, option="--memory") == bytes_


@pytest.mark.parametrize("text", ["", "m", "4x", "-1", "4 4", "1e9", "²", "٥١٢m"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--memory"):
        parse_size(text, option="--memory")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1h", 3600), ("1.5h", 5400), ("0.5", 0.5)]
)
def test_a_time_is_written_as_for_timeout(text: str, seconds: float) -> None:
    assert parse_seconds(text, option="--timeout") == seconds


@pytest.mark.parametrize("text", ["", "0", "-5", "1d", "10 m x", "999999999999h", "nan", "inf", "١٠s"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--timeout"):
        parse_seconds(text, option="--timeout")


def test_limits_are_named_and_can_be_taken_away() -> None:
    asked = parse_limits(["memory=4g", "processes=8192", "disk=none", "file-size=1k", "memory=2g"])
    assert asked == {"memory": 2 << 30, "processes": 8192, "disk": 0, "file-size": 1024}


@pytest.mark.parametrize(
    "text",
    [
        "memory",
        "cores=4",
        "processes=4g",
        "processes=-1",
        "=4",
        "memory=",
        "processes=٥",
    ],
)
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--limit"):
        parse_limits([text])
