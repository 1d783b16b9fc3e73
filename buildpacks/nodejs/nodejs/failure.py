"""What a failed script of an application means. Called by the managers and `nodejs.tasks`."""

from __future__ import annotations

from packhorse import sdk
from packhorse.errors import BuildpackFailed


def script_failed(failure: sdk.CommandFailed, script: str, *, again: str) -> BuildpackFailed:
    """The error for a script that failed, its output shown already; `again` repeats it in a fresh copy."""
    return BuildpackFailed(
        f"the script `{script}` of package.json failed",
        why=f"{failure.what}; its output is above",
        fix=f"see that `{again}` works in a fresh copy of the source, "
        "or choose the scripts with BP_NODE_RUN_SCRIPTS (a comma-separated list; empty for none)",
    )
