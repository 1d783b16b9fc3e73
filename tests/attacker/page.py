"""Writes the tables of SECURITY.md; test_security_page.py fails when they are not current.

`python -m attacker.page`, in tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from acceptance.test_hostile_builders import CASES
from attacker.table import Attempt, Plant, attempts, plants

PAGE = Path(__file__).parents[2] / "SECURITY.md"
_BEGIN = "<!-- made by tests/attacker/page.py -->\n"
_MODES = ("root", "subordinate ids", "one id", "runc, each of these")


def page() -> str:
    """The page, with tables that are current."""
    head = PAGE.read_text().partition(_BEGIN)[0]
    return head + _BEGIN + "".join(f"{line}\n" for line in _tables())


def _tables() -> Iterator[str]:
    tried, planted = list(attempts()), list(plants())
    yield ""
    yield (
        f"These {len(tried)} attempts run in a buildpack's bin/detect and bin/build, as each kind of user, "
        "in both sandboxes. They run on this machine's network, because most can be reached there."
    )
    for group, members in groupby(tried, lambda one: one.group):
        yield from ("", f"### {group}", "")
        yield f"| tried | {' | '.join(_MODES)} | |"
        yield f"|---|{'---|' * len(_MODES)}---|"
        yield from (_attempt(one) for one in members)
    yield from ("", "### What a buildpack leaves or uses up", "")
    yield f"These are {len(planted)} builds. Those marked * run as each kind of user, the others as root."
    yield from ("", "| tried | result |", "|---|---|")
    yield from (_plant(one) for one in planted)
    yield from ("", "### Hostile builders", "")
    yield f"These are {len(CASES)} images. None of them reads, writes or starts anything of this machine."
    yield from ("", "| the builder's | result |", "|---|---|")
    for name, case in CASES.items():
        outcome = f"refused: {_text(case.says)}" if case.says else "harmless: the build succeeds"
        yield f"| {_text(name)} | {outcome} |"


def _attempt(one: Attempt) -> str:
    words = one.outcome
    if one.network:
        words += " (refused with another network)"
    return f"| {_text(one.tries)} | {' | '.join([words] * len(_MODES))} | {_text(one.why)} |"


def _plant(one: Plant) -> str:
    return f"| {_text(one.tries)}{' *' if one.everywhere else ''} | {_text(one.outcome)} |"


def _text(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("*", "\\*").replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
