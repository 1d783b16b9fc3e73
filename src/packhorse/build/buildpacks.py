"""The buildpacks that a user or project.toml names: ids of the builder, directories, packages, scripts.

`build.locators` finds them for `build.plan`, and `build.execute` mounts them. They replace the builder's
order, or go before and after each of its groups. The sandbox has their directories where a builder has its
own buildpacks, with the modes that they would have in a builder.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from packhorse.base.dataclass import dataclass, field
from packhorse.base.files import read, resolve
from packhorse.base.go_toml import toml_bytes
from packhorse.base.sandbox import Bind
from packhorse.builder.image import EXECUTABLES, list_modes
from packhorse.errors import FormatError, InputError
from packhorse.oci.place import Image
from packhorse.source.project_toml import Script
from packhorse.spec.buildpack_toml import Descriptor, Order, Ref

if TYPE_CHECKING:
    from packhorse.linux.userns import IdMap
    from packhorse.store.store import Store


@dataclass(frozen=True, slots=True)
class NamedBuildpacks:
    """The named buildpacks: `group` replaces the builder's order, `pre` and `post` go around its groups.

    None in `group` stands for the builder's order: each of its groups goes there. `pre` is as the user wrote
    it. pack puts each of them before those that it has put there, so the last comes first.
    """

    group: tuple[NamedBuildpack | None, ...] = ()
    pre: tuple[NamedBuildpack, ...] = ()
    post: tuple[NamedBuildpack, ...] = ()

    @property
    def all(self) -> tuple[NamedBuildpack, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys(each for each in (*self.pre, *self.group, *self.post) if each))

    def check_refs(self) -> None:
        """Raises InputError if two different buildpacks have one id and version: only one could run."""
        known: dict[tuple[str, str], NamedBuildpack] = {}
        for each in (member for one in self.all for member in one.members):
            other = known.setdefault((each.ref.id, each.ref.version), each)
            # Two composite packages may have the same component.
            are_components = each not in self.all and None not in (each.package, other.package)
            if other.content != each.content and not are_components:
                raise InputError(
                    f"two of the named buildpacks are {each.ref}",
                    why="a build can run only one buildpack with this id and version",
                    fix="leave one out, or change its version",
                )

    def order(self, builder: Order) -> Order:
        """The groups that detection tries."""
        if self.group and None not in self.group:
            return (tuple(each.ref for each in self.group if each),)
        at = self.group.index(None) if self.group else 0
        parts = (self.group[:at], self.group[at + 1 :]) if self.group else (self.pre[::-1], self.post)
        before, after = (tuple(each.ref for each in part if each) for part in parts)
        return tuple((*before, *group, *after) for group in builder)


@dataclass(frozen=True, slots=True)
class NamedBuildpack:
    """One named buildpack: one of the builder's, or the one in `directory`, in `package` or in `script`.

    `package` is an image. `origin` is a locator that finds the same package on any machine, or "".
    `dependencies` are the buildpacks that come with it, for its own order. `is_of_project` is set if
    project.toml names it: the source then records it, and the image does not.
    """

    ref: Ref
    directory: Path | None = None
    script: Script | None = None
    package: Image | None = field(default=None, compare=False, repr=False)
    origin: str = ""
    dependencies: tuple[NamedBuildpack, ...] = ()
    is_of_project: bool = False

    @property
    def is_of_builder(self) -> bool:
        """Whether the builder has it."""
        return self.directory is None and self.script is None and self.package is None

    @property
    def content(self) -> tuple[object, ...]:
        """Identifies the content: equal for two locators of one buildpack."""
        return self.directory, self.script, self.package and self.package.id

    @property
    def target(self) -> str:
        """The buildpack's directory in the sandbox, the same as in a builder."""
        return f"/cnb/buildpacks/{self.ref.directory_name}/{self.ref.version}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine has it, so that the user must name it again on another."""
        return not self.origin and (self.directory is not None or self.package is not None)

    @property
    def members(self) -> tuple[NamedBuildpack, ...]:
        """The buildpack itself, its dependencies, and theirs."""
        return (self, *(member for each in self.dependencies for member in each.members))


def script_descriptor(identifier: str, version: str, script: Script) -> bytes:
    """The buildpack.toml of an inline buildpack, for every stack and target."""
    return toml_bytes(
        {
            "api": script.api,
            "buildpack": {"id": identifier, "version": version},
            "stacks": [{"id": "*"}],
        }
    )


def _make_script(named: NamedBuildpack, script: Script, target: Path) -> Path:
    """Writes an inline buildpack to the new directory `target`. Its detection always passes."""
    for path in (target, target / "bin"):
        path.mkdir()
        path.chmod(0o755)
    descriptor = script_descriptor(named.ref.id, named.ref.version, script)
    programs = {
        "bin/detect": f"#!{script.shell}\n\nexit 0\n",
        "bin/build": f"#!{script.shell}\n\n{script.inline}\n",
    }
    for name, content, mode in (
        ("buildpack.toml", descriptor, 0o644),
        *((name, text.encode(), 0o755) for name, text in programs.items()),
    ):
        (target / name).write_bytes(content)
        (target / name).chmod(mode)  # whatever the umask
    return target


def mount(named: Sequence[NamedBuildpack], scratch: Path, store: Store, idmap: IdMap) -> tuple[Bind, ...]:
    """Mounts the named buildpacks that the builder does not have.

    Packages are unpacked in the store, their ids mapped by `idmap`. Directories that need other modes or
    files are copied below `scratch`. Of two buildpacks with one id and version the first is mounted. Raises
    InputError for a directory that cannot be read, FormatError for a package that cannot be unpacked.
    """
    mounts: dict[str, Bind] = {}
    for number, each in enumerate(member for one in named for member in one.members):
        directory = scratch / f"buildpack-{number}"
        if each.target in mounts:
            continue
        if each.script is not None:
            source = _make_script(each, each.script, directory)
        elif each.directory is not None:
            source = _with_builder_modes(each.directory, directory)
        elif each.package is not None:
            source = _find_in_package(store.root(each.package, idmap), each)
        else:
            continue
        mounts[each.target] = Bind(source, each.target)
    return tuple(mounts.values())


def _find_in_package(root: Path, named: NamedBuildpack) -> Path:
    """The buildpack's directory in an unpacked package, where no link may lead out of it."""
    path = root
    for part in named.target.split("/")[1:]:
        path /= part
        try:
            is_directory = stat.S_ISDIR(path.lstat().st_mode)
        except OSError:
            is_directory = False
        if not is_directory:
            raise FormatError(
                f"the package of {named.ref} is not whole",
                why=f"it has no directory {named.target}, which its labels name",
            )
    return path


def find_changed(names: Sequence[str], since: float) -> tuple[str, ...]:
    """The named directories with a file written after `since`, in seconds since 1970."""
    return tuple(
        name for name in names if any(written > since for written in _modification_times(Path(name)))
    )


def read_descriptor(path: Path, name: str, option: str) -> Descriptor:
    """Reads the buildpack.toml of a directory; raises InputError if a part of the buildpack is missing.

    For messages: `name` is the directory as the user wrote it, and `option` says where.
    """
    file = path / "buildpack.toml"
    if resolve(file) is None:
        raise InputError(f"{name} is not a buildpack", why=f"there is no {file}", fix=f"check {option}")
    descriptor = Descriptor.parse(read(file), str(file))
    if descriptor.order:
        return descriptor
    programs = [resolve(path / program) for program in EXECUTABLES]
    issues = [
        f"there is no {path / name}"
        for name, program in zip(EXECUTABLES, programs, strict=True)
        if program is None or not program.is_file()
    ]
    if issues:
        raise InputError(f"{name} is not a whole buildpack", issues=issues)
    return descriptor


def _with_builder_modes(path: Path, copy: Path) -> Path:
    """Returns the directory itself if it has the modes that a builder image gives, else a `copy` with them.

    So a file that a buildpack copies into a layer has one mode everywhere, whatever umask the author had.
    """
    from packhorse.builder.package import (  # slow to import, and few builds name a directory
        needs_staging,
        stage_directory,
    )

    try:
        if needs_staging(path):
            stage_directory(path, copy)
            return copy
        if all(mode == wanted for _, mode, wanted in list_modes(path)):
            return path
        shutil.copytree(path, copy, symlinks=True)
        for entry, _, wanted in list_modes(copy):
            entry.chmod(wanted)
    except (OSError, shutil.Error) as error:
        raise InputError(f"the buildpack {path} cannot be read whole", why=str(error)[:500]) from error
    return copy


def _modification_times(top: Path) -> Iterator[float]:
    """Yields when each file of a directory was written; skips `__pycache__` and hidden directories."""
    for here, directories, files in os.walk(top):
        directories[:] = [each for each in directories if each != "__pycache__" and not each.startswith(".")]
        for name in files:
            with suppress(OSError):  # removed meanwhile
                yield Path(here, name).lstat().st_mtime
