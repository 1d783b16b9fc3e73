"""③ Whose launcher goes into an image: what a builder's label says, and what the program says of itself.

Called by export, for the label io.buildpacks.build.metadata (P-191). A builder's labels know the version of
its lifecycle and not the commit, which the reference writes as well. Its Makefile sets both by linker flags,
and Go keeps these in the build information of every program.
"""

from __future__ import annotations

import re

from packhorse.base.dataclass import replace
from packhorse.lifecycle.inputs import LauncherInfo

_FLAG = re.compile(
    rb"-X[ =]'?github\.com/buildpacks/lifecycle/cmd\.(Version|SCMRepository|SCMCommit)="
    rb"([!#-&(-\[\]-~]{1,200})"  # up to a space, a quote or a backslash
)
_FIELDS = {b"Version": "version", b"SCMRepository": "repository", b"SCMCommit": "commit"}


def complete(known: LauncherInfo, launcher: bytes) -> LauncherInfo:
    """`known`, with what is empty in it filled in from the Go program `launcher`, where that says it."""
    said = {_FIELDS[match[1]]: match[2].decode("ascii") for match in _FLAG.finditer(launcher)}
    missing = {field: value for field, value in said.items() if not getattr(known, field)}
    return replace(known, **missing)
