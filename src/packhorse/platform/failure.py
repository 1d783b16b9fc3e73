"""What a build leaves behind when one of its steps fails: the step as a script. Called by `building`.

The step is a line of thousands of characters, so it goes into a file, and a line that can be pasted starts
that.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from packhorse.errors import BuildpackFailed

_SCRIPT = """\
#!/bin/sh
# Repeats the step that failed, in what it left; with words behind it, runs those in its place.
[ $# -gt 0 ] || set -- {own}
exec {sandbox} -- "$@"
"""


_OFFLINE = "the build had no network (--network none)"


def with_repeat_command(
    error: BuildpackFailed, scratch: Path, *, offline: bool = False
) -> BuildpackFailed | None:
    """The same failure, which says how to look around; the script is in `scratch`, which has to stay.

    None when the step cannot be repeated, or the script not be written.
    """
    sandbox, _, own = error.command.rpartition(" -- ")
    if not sandbox:
        return None
    script = scratch / "again.sh"
    try:
        script.touch(mode=0o700)
        script.write_text(_SCRIPT.format(own=own, sandbox=sandbox))
    except OSError:
        return None  # a disk that is full, of which the buildpack has said enough
    return BuildpackFailed(
        error.what,
        why="\n".join(part for part in (error.why, _OFFLINE if offline else "") if part),
        fix=f"to look around where it failed (until the next build): sh {shlex.quote(str(script))} bash",
        command=error.command,
    )
