"""What gives access to registries: where it comes from, and that none of it is in the image.

On the arrow plan → layers. Called by `nodejs.buildpack`. The package managers read the project's settings
and put variables (`${NPM_TOKEN}`) into them themselves; here a credential is only told from such a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from packhorse import sdk
from packhorse.errors import InputError

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


_BINDINGS = {"npmrc": (".npmrc",), "yarnrc": (".yarnrc.yml", ".yarnrc")}
"""The types of bindings that others have for this, and the user's settings that each of them stands for."""


@contextmanager
def bound(context: sdk.BuildContext) -> Iterator[None]:
    """While it lasts, the bindings `npmrc` and `yarnrc` are the settings of the user who builds.

    By links in his home, which hold no secret. Raises InputError for a binding without its file, or where
    the build image has such settings already.
    """
    home = Path(context.env.get("HOME") or Path.home())
    links: list[Path] = []
    try:
        for kind, names in _BINDINGS.items():
            binding = context.bindings.one_of_type(kind)
            if binding is None:
                continue
            name, source = _entry(binding, names)
            link = home / name
            try:
                link.symlink_to(source)
            except FileExistsError as error:
                raise InputError(
                    f"the binding {binding.name} cannot be used",
                    why=f"the build image has {link} already",
                    fix="use a builder without it, or put both into the file of the binding",
                ) from error
            links.append(link)
            context.log.detail(f"{name} of the binding {binding.name}")
        yield
    finally:
        for link in links:
            link.unlink(missing_ok=True)


def _entry(binding: sdk.Binding, names: Sequence[str]) -> tuple[str, Path]:
    """The name of the settings that a binding has, and its file; a name may lack its dot."""
    for name in names:
        source = binding.file(name, name.removeprefix("."))
        if source:
            return name, source
    raise InputError(
        f"the binding {binding.name} has no {names[0]}",
        why=f"its type is {binding.type}; it has {', '.join(binding.entries) or 'nothing'}",
        fix=f"name its file {' or '.join(names)}",
    )


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
