"""How hard property tests try: `PACKHORSE_TESTS_EFFORT=100` for a campaign, once in CI."""

from __future__ import annotations

import os


def examples(count: int) -> int:
    """`count` examples, or as many times that as somebody wants."""
    return count * int(os.environ.get("PACKHORSE_TESTS_EFFORT", "1"))
