"""What gives access to registries: where it comes from, and that none of it is in the image.

On the arrow plan → layers. Called by `nodejs.buildpack`. The package managers read the project's settings
and put variables (`${NPM_TOKEN}`) into them themselves; here a credential is only told from such a name.
"""

from __future__ import annotations

import re
from pathlib import Path

from packhorse import sdk

from .workspace import Workspace

_VARIABLE = r"[\"']?\$\{?\w+[:?\w-]*\}?[\"']?"
"""`${NPM_TOKEN}`, which says nothing by itself; Yarn's may have a default behind a `-`."""

_FILES = {
    ".npmrc": r"[^#;\s=]*_(?:auth|authToken|password)\s*=\s*(?P<value>\S+)",
    ".yarnrc": r"[^#\s]*_(?:auth|authToken|password)[\"']?\s+(?P<value>\S+)",
    ".yarnrc.yml": r"npmAuth(?:Token|Ident)[\"']?\s*:\s*(?P<value>\S+)",
    "bunfig.toml": r"(?:.*[\s{,])?(?:token|password)\s*=\s*(?P<value>[^\s,}]+).*",
}
"""Files with settings, and how a line of each gives access."""

_PATTERNS = {name: re.compile(rf"\s*{pattern}\s*(?:#.*)?", re.IGNORECASE) for name, pattern in _FILES.items()}


def has_credentials(path: Path) -> bool:
    """Whether a settings file has a credential in it, not just the name of a variable that holds one."""
    pattern = _PATTERNS[path.name]
    for line in path.read_text(errors="replace").splitlines():
        match = pattern.fullmatch(line)
        if match and not re.fullmatch(_VARIABLE, match["value"]):
            return True
    return False


def leave_out(context: sdk.BuildContext, workspace: Workspace) -> None:
    """Removes settings files with credentials from the application, once nothing more is installed."""
    root = workspace.root.directory
    for folder in ("", *workspace.members):
        for name in _FILES:
            path = root / folder / name
            if path.is_file() and has_credentials(path):
                path.unlink()
                context.log.warning(
                    f"{path.relative_to(root)} has a credential in it, so it is not in the image; "
                    "name a variable there, as in ${NPM_TOKEN}, and give its value to the build"
                )
