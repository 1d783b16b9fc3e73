"""A disk that is too small is told from one that will do, with numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from packhorse.errors import StoreError
from packhorse.host.folders import format_bytes, require_space


def test_less_room_than_is_needed_is_an_error_with_both_numbers(tmp_path: Path) -> None:
    require_space(tmp_path, 1, what="a byte")
    with pytest.raises(StoreError, match="too little room for the builder") as raised:
        require_space(tmp_path, 10**18, what="the builder")
    assert raised.value.why.endswith(f"GB are free at {tmp_path}, and it needs 1000000000.0 GB")


def test_numbers_are_written_for_people() -> None:
    assert [format_bytes(count) for count in (0, 99_900_000, 100_000_000, 1_250_000_000)] == [
        "0.0 MB",
        "99.9 MB",
        "0.1 GB",
        "1.2 GB",
    ]
