"""The marks that a merge leaves in a text where both sides changed it.

On the arrow source → plan; pure. Called by the readers of locks: `yarnlock`, `pnpmlock` and `bunlock`.
"""

from __future__ import annotations

from packhorse.errors import InputError

_MARKS = ("<<<<<<<", "=======", ">>>>>>>")


def refuse(text: str, *, name: str, fix: str) -> None:
    """Raises InputError if `text`, that of the file `name`, has such marks."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(_MARKS) and line[7:8] in ("", " "):
            raise InputError(f"{name} has conflicts of a merge, the first on line {number}", fix=fix)
