"""Users as images name them."""

from __future__ import annotations

from pathlib import Path

import pytest

from packhorse.errors import RunError
from packhorse.host.machine import Account, find_account


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nme:x:1000:1001::/home/me:/bin/sh\n")
    (tmp_path / "etc/group").write_text("root:x:0:\nweb:x:33:\n")
    return tmp_path


@pytest.mark.parametrize(
    ("user", "found"),
    [
        ("", Account(0, 0, "/root")),
        ("me", Account(1000, 1001, "/home/me")),
        ("1000:web", Account(1000, 33, "/home/me")),
        ("7:8", Account(7, 8)),
    ],
)
def test_users_and_groups_are_names_or_numbers(user: str, found: Account, root: Path) -> None:
    assert find_account(root, user) == found


@pytest.mark.parametrize(
    "user",
    [
        "nosuch",
        "me:nosuch",
        "١٠٠٠",
        "7:١",
        "²",
        "-1",
        "1_000",
        "1000\0",
        "9" * 10,
    ],
)
def test_what_is_neither_a_name_nor_a_number_is_no_user(user: str, root: Path) -> None:
    with pytest.raises(RunError, match="the image has no user"):
        find_account(root, user)
