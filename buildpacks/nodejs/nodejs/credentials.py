"""What gives access to registries: where it comes from, and that none of it is in the image.

On the arrow plan → layers. Called by `nodejs.buildpack`. The package managers read the project's settings
and put variables (`${NPM_TOKEN}`) into them themselves; what is more than such a name, `nodejs.secret` says.
"""

from __future__ import annotations

import io
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, cast

from packhorse import sdk
from packhorse.errors import InputError, PackhorseError
from packhorse.sdk.dataclass import replace

from . import secret
from .managers.choice import LOCKS
from .removal import refusals

_BINDINGS = {"npmrc": (".npmrc",), "yarnrc": (".yarnrc.yml", ".yarnrc")}
"""The types of bindings that others have for this, and the user's settings that each of them stands for."""

_NAMING = ("package.json", *LOCKS)
_BINARY = ".lockb"
_STORES = (".pnpm", ".bun")


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


def named(app: Path) -> tuple[list[Path], list[Path]]:
    """What in the application has the name of a settings file, and of a manifest or lock; modules left out.

    One walk, since an application may have more files than all else of a build takes its time for.
    """
    settings, naming = [], []
    for folder, subfolders, names in os.walk(app):
        subfolders[:] = sorted(name for name in subfolders if name != "node_modules")
        there = set(names)
        settings += [Path(folder, name) for name in secret.NAMES if name in there]
        naming += [Path(folder, name) for name in _NAMING if name in there]
    return settings, naming


def quiet(context: sdk.BuildContext) -> sdk.BuildContext:
    """The context with a log that shows no URL as far as it gives access."""
    out, err = (cast(TextIO, _Hiding(stream)) for stream in (context.log.out, context.log.err))
    return replace(context, log=replace(context.log, out=out, err=err))


@contextmanager
def hidden() -> Iterator[None]:
    """Errors that pass show no URL as far as it gives access."""
    try:
        yield
    except PackhorseError as error:
        error.what, error.why, error.fix = (
            secret.hidden(text) for text in (error.what, error.why, error.fix)
        )
        raise


class _Hiding(io.TextIOBase):
    """A stream of text to which URLs go without what gives access."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str, /) -> int:
        """Hands on."""
        return self._stream.write(secret.hidden(text))

    def flush(self) -> None:
        """Hands on."""
        self._stream.flush()


def leave_out(context: sdk.BuildContext) -> None:
    """Removes settings files with credentials from all of the application, once nothing more is installed.

    Of a link its target too, if that is in the application. Manifests and locks stay, without the credentials
    in their URLs. Raises InputError where that is not allowed, and where modules are called by a credential.
    """
    app = context.app.resolve()
    settings, naming = named(app)
    _strip(context, app, naming)
    for path in settings:
        if not path.is_file() or not has_credentials(path):
            continue
        name, target = path.relative_to(app), path.resolve()
        with refusals(f"{name} has a credential in it and"):
            path.unlink()
            if target.is_relative_to(app):
                target.unlink(missing_ok=True)
        context.log.warning(
            f"{name} has a credential in it, so it is not in the image; "
            "name a variable there, as in ${NPM_TOKEN}, and give its value to the build"
        )


def _strip(context: sdk.BuildContext, app: Path, paths: Iterable[Path]) -> None:
    """Takes credentials out of the URLs of manifests and locks, where dependencies are named by these."""
    said: set[str] = set()
    for path in paths:
        text = path.read_text(encoding="latin-1") if path.is_file() else ""
        if not (found := secret.words(text)):
            continue
        said.update(found)
        name, target = path.relative_to(app), path.resolve()
        with refusals(f"{name} has a credential in it and"):
            if not target.is_relative_to(app):
                path.unlink()
                target = path
            if path.suffix == _BINARY:
                target.unlink()
            else:
                target.write_text(secret.without(text), encoding="latin-1", newline="")
        context.log.warning(
            f"{name} has a credential in a URL, which is taken out of it in the image; better have it in "
            "the settings of git or of the package manager"
        )
    _refuse_names(context, said)


def _refuse_names(context: sdk.BuildContext, said: Collection[str]) -> None:
    """Raises InputError where pnpm or Bun call the folder of a module by its URL and a credential in that."""
    places = (context.app / "node_modules", context.layers / "modules/node_modules")
    folders = (folder for place in places for store in _STORES for folder in (place / store).glob("*"))
    for folder in folders if said else ():
        if word := next((word for word in said if word in folder.name), ""):
            raise InputError(
                "the image would have a credential in the name of a folder",
                why=folder.name.replace(word, "***"),
                fix="name the dependency by a URL without it, and have it in the settings of git or of the "
                "package manager",
            )
