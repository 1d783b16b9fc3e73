"""Which tag is a newer version of which."""

from __future__ import annotations

import pytest

from packhorse.fleet.rebase_plan import is_later_tag


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ("1.2.4", "1.2.3"),
        ("1.10.0", "1.9.9"),
        ("v1.2.10", "v1.2.9"),
        ("1.2.3-jammy.2", "1.2.3-jammy.1"),
        ("bookworm-20260101", "bookworm-20251231"),
        ("7", "6"),
    ],
)
def test_a_tag_with_higher_numbers_is_newer(new: str, old: str) -> None:
    assert is_later_tag(new, old) and not is_later_tag(old, new)


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ("1.2.3", "1.2.3"),
        ("01.2.3", "1.2.3"),
        ("2.0.0", "1.2.3"),
        ("1.2.4-full", "1.2.3"),
        ("1.2.4-full", "1.2.3-tiny"),
        ("1.2.3.1", "1.2.3"),
        ("latest", "latest"),
        ("latest", "1.2.3"),
        ("noble", "jammy"),
        ("24.04", "22.04"),
    ],
)
def test_any_other_tag_is_not(new: str, old: str) -> None:
    assert not is_later_tag(new, old)
