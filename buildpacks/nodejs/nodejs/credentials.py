"""What gives access to registries: where it comes from, and that none of it is in the image.

On the arrow plan → layers. Called by `nodejs.buildpack`. The package managers read the project's settings
and put variables (`${NPM_TOKEN}`) into them themselves; what is more than such a name, `nodejs.secret` says.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from packhorse import sdk
from packhorse.errors import InputError

from . import secret
from .removal import refusals

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
        for binding, name, source in settings(context):
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


def settings(context: sdk.BuildContext) -> Iterator[tuple[sdk.Binding, str, Path]]:
    """Each binding that has settings, their name as the user's own, and the file. Raises InputError."""
    for kind, names in _BINDINGS.items():
        binding = context.bindings.one_of_type(kind)
        if binding is not None:
            yield (binding, *_entry(binding, names))


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
    return secret.is_in(path.name, path.read_text(encoding="utf-8-sig", errors="replace"))


def files(app: Path) -> Iterator[Path]:
    """All settings files of the application that have a credential, modules left out."""
    for folder, subfolders, names in os.walk(app):
        subfolders[:] = sorted(name for name in subfolders if name != "node_modules")
        for path in (Path(folder, name) for name in secret.NAMES if name in names):
            if path.is_file() and has_credentials(path):
                yield path


def leave_out(context: sdk.BuildContext) -> None:
    """Removes settings files with credentials from all of the application, once nothing more is installed.

    Of a link its target too, if that is in the application. Raises InputError where that is not allowed.
    """
    app = context.app.resolve()
    for path in files(app):
        name, target = path.relative_to(app), path.resolve()
        with refusals(f"{name} has a credential in it and"):
            path.unlink()
            if target.is_relative_to(app):
                target.unlink(missing_ok=True)
        context.log.warning(
            f"{name} has a credential in it, so it is not in the image; "
            "name a variable there, as in ${NPM_TOKEN}, and give its value to the build"
        )
