"""What is said of an application without a lock, whichever manager installs it. Called by the managers."""

from __future__ import annotations

from packhorse import sdk

LEVELS = ("node_modules", "*/node_modules", "*/*/node_modules")
"""Where modules of a workspace are looked for when no lock says where its projects are."""


def warn(log: sdk.Log, lock: str, command: str) -> None:
    """Says that `command` installs what is newest, for want of the file `lock`."""
    log.warning(
        f"there is no {lock}, so the newest versions that fit are installed; "
        f"run `{command} install` and commit the lock to have the same ones each time"
    )
