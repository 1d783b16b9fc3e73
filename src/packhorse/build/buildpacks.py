"""The buildpacks that a user or project.toml names: directories, ids of the builder, or inline scripts.

Called by `build.plan` and `build.execute`. They replace the builder's order, or go before and after each of
its groups. The sandbox has a directory where a builder has its own buildpacks, with the modes that it would
have in a builder.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from packhorse.base.dataclass import dataclass, replace
from packhorse.base.files import is_file, read, resolve
from packhorse.base.go_toml import toml_bytes
from packhorse.base.sandbox import Bind
from packhorse.builder.image import Builder
from packhorse.errors import InputError, NotFoundError
from packhorse.source.project_toml import BuildpackEntry, Script
from packhorse.spec.api import BuildpackApi
from packhorse.spec.buildpack_toml import Descriptor, Order, Ref

_PROGRAMS = ("bin/detect", "bin/build")

_OF_BUILDER = ("urn:cnb:builder:", "from=builder:")
_ORDER = frozenset({"urn:cnb:builder", "from=builder"})
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
_ELSEWHERE = "take a builder that has the buildpack (--builder)"
_UNPACK = "unpack it, and name the directory"


@dataclass(frozen=True, slots=True)
class NamedBuildpacks:
    """The named buildpacks: `group` replaces the builder's order, `pre` and `post` go around its groups."""

    group: tuple[NamedBuildpack, ...] = ()
    pre: tuple[NamedBuildpack, ...] = ()
    post: tuple[NamedBuildpack, ...] = ()

    @property
    def all(self) -> tuple[NamedBuildpack, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys((*self.pre, *self.group, *self.post)))

    def order(self, builder: Order) -> Order:
        """The groups that detection tries."""
        if self.group:
            return (tuple(each.ref for each in self.group),)
        before, after = (tuple(each.ref for each in part) for part in (self.pre, self.post))
        return tuple((*before, *group, *after) for group in builder)


@dataclass(frozen=True, slots=True)
class NamedBuildpack:
    """One named buildpack: one of the builder's, the one in `directory`, or an inline `script`.

    `is_of_project` is whether project.toml names it, which is part of the source.
    """

    ref: Ref
    directory: Path | None = None
    script: Script | None = None
    is_of_project: bool = False

    @property
    def target(self) -> str:
        """Where buildpacks are in the sandbox: where a builder has this one."""
        return f"/cnb/buildpacks/{self.ref.directory_name}/{self.ref.version}"


def require_supported(names: Sequence[str], option: str = "--buildpack") -> None:
    """Raises InputError for a name that pack takes and that is not supported yet, with what does the same.

    `option` says where the names stand.
    """
    for name in names:
        if name in _ORDER:
            what = "the builder's order between other buildpacks"
            fix = "name the builder's buildpacks one by one, or leave --buildpack out"
        elif name.startswith("docker:/"):
            what, fix = "a buildpack in an image", f"{_ELSEWHERE}, or name a directory"
        elif name.startswith("urn:cnb:registry:"):
            what, fix = "the buildpack registry", f"{_ELSEWHERE}, or name a directory"
        elif name.startswith("file:/"):
            path = name.removeprefix("file:").replace("//", "", 1)
            what, fix = "a file: URL", f"name the directory: {path}"
        elif _SCHEME.match(name):
            what, fix = "a buildpack behind a URL", f"download it, {_UNPACK}"
        elif is_file(name):
            what, fix = "a buildpack in a file", _UNPACK
        else:
            continue
        raise InputError(
            f"{option} {name[:300]} is not supported yet: {what}",
            why=f"{option} takes a directory with a buildpack.toml, or ID or ID@VERSION of the builder",
            fix=fix,
        )


def find_named(
    names: Sequence[str], builder: Builder, option: str = "--buildpack"
) -> tuple[NamedBuildpack, ...]:
    """Finds the buildpack that each name stands for; they build as one group, in this order.

    Raises InputError for a directory that is no buildpack, NotFoundError for an id that the builder does not
    have, BuildpackApiError. `option` says where the names stand.
    """
    named = []
    for name in names:
        identifier = next((name.removeprefix(each) for each in _OF_BUILDER if name.startswith(each)), "")
        path = resolve(Path(name)) if name and not identifier else None
        if path is None:
            named.append(NamedBuildpack(_find_in_builder(identifier or name, builder, option)))
        else:
            named.append(NamedBuildpack(_descriptor(path, name, option).ref, path))
    return tuple(named)


def find_entries(
    entries: Sequence[BuildpackEntry], builder: Builder, source: Path
) -> tuple[NamedBuildpack, ...]:
    """Finds the buildpacks of a group of project.toml; raises as `find_named` does, with file, line and key.

    The source itself is refused as a buildpack.
    """
    return tuple(_find_entry(entry, builder, source) for entry in entries)


def _find_entry(entry: BuildpackEntry, builder: Builder, source: Path) -> NamedBuildpack:
    if entry.script is not None:
        BuildpackApi.parse(entry.script.api, owner=f"{entry.name} of {entry.where}")
        descriptor = Descriptor.parse(_script_descriptor(entry.id, entry.version, entry.script), entry.where)
        return NamedBuildpack(descriptor.ref, script=entry.script, is_of_project=True)
    if entry.uri:
        path = resolve(Path(entry.name))
        if path is None and entry.name != entry.uri:
            raise InputError(
                f"{entry.where}: there is no {entry.name}",
                why="a uri is the path of a buildpack's directory, relative to the directory of project.toml",
                fix="correct it; a buildpack of the builder has an id and a version, and no uri",
            )
        if path is not None and path in (source, resolve(entry.descriptor)):
            raise InputError(
                f"{entry.where}: {entry.uri} is the source itself",
                why="a source cannot be one of the buildpacks that build it",
                fix="name another directory, or write an inline script",
            )
        require_supported([entry.name], entry.where)
        found = find_named([entry.name], builder, entry.where)[0]
        if entry.id and entry.id != found.ref.id:
            raise InputError(
                f"{entry.where}: the buildpack at {entry.uri} is {found.ref.id}, not {entry.id}",
                fix="correct the id, or leave it out",
            )
    else:
        found = NamedBuildpack(_find_in_builder(entry.name, builder, entry.where))
    return replace(found, is_of_project=True)


def _script_descriptor(identifier: str, version: str, script: Script) -> bytes:
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
    descriptor = _script_descriptor(named.ref.id, named.ref.version, script)
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


def mount(named: Sequence[NamedBuildpack], scratch: Path) -> tuple[Bind, ...]:
    """Mounts the directories among these buildpacks; copies below `scratch` what needs other modes or files.

    Raises InputError for a directory that cannot be read.
    """
    mounts = []
    for number, each in enumerate(named):
        directory = scratch / f"buildpack-{number}"
        if each.script is not None:
            mounts.append(Bind(_make_script(each, each.script, directory), each.target))
        elif each.directory is not None:
            mounts.append(Bind(_with_builder_modes(each.directory, directory), each.target))
    return tuple(mounts)


def find_changed(names: Sequence[str], since: float) -> tuple[str, ...]:
    """The directories among the names that have a file from after `since`, a time in seconds since 1970."""
    return tuple(
        name for name in names if any(written > since for written in _modification_times(Path(name)))
    )


def _find_in_builder(name: str, builder: Builder, option: str) -> Ref:
    identifier, _, version = name.partition("@")
    versions = builder.buildpacks.get(identifier, ())
    if version in versions or (versions and not version):
        return Ref(identifier, version)
    listed = [f"{each} {', '.join(known)}" for each, known in sorted(builder.buildpacks.items())]
    raise NotFoundError(
        f"there is no buildpack {name!r}",
        why="\n".join(
            (
                "there is no such directory, and the builder does not have it either",
                "images and the buildpack registry are not supported yet",
                f"{builder.name} has {'; '.join(listed) or 'no buildpacks'}",
            )
        ),
        fix=f"check {option}",
    )


def _descriptor(path: Path, name: str, option: str) -> Descriptor:
    file = path / "buildpack.toml"
    if resolve(file) is None:
        raise InputError(f"{name} is not a buildpack", why=f"there is no {file}", fix=f"check {option}")
    descriptor = Descriptor.parse(read(file), str(file))
    if descriptor.order:
        return descriptor
    programs = [resolve(path / program) for program in _PROGRAMS]
    issues = [
        f"there is no {path / name}"
        for name, program in zip(_PROGRAMS, programs, strict=True)
        if program is None or not program.is_file()
    ]
    if issues:
        raise InputError(f"{name} is not a whole buildpack", issues=issues)
    return descriptor


def _with_builder_modes(path: Path, copy: Path) -> Path:
    """The directory itself if its modes are those that a builder image gives, else its `copy` with these.

    So a file that a buildpack copies into a layer has one mode everywhere, whatever umask the author had.
    """
    from packhorse.builder.package import (  # only who names a directory pays for it
        needs_staging,
        stage_directory,
    )

    try:
        if needs_staging(path):
            stage_directory(path, copy)
            return copy
        if all(mode == wanted for _, mode, wanted in _modes(path)):
            return path
        shutil.copytree(path, copy, symlinks=True)
        for entry, _, wanted in _modes(copy):
            entry.chmod(wanted)
    except (OSError, shutil.Error) as error:
        raise InputError(f"the buildpack {path} cannot be read whole", why=str(error)[:500]) from error
    return copy


def _modification_times(top: Path) -> Iterator[float]:
    """When each file of a directory was written, but for what tools leave there by the way."""
    for here, directories, files in os.walk(top):
        directories[:] = [each for each in directories if each != "__pycache__" and not each.startswith(".")]
        for name in files:
            with suppress(OSError):  # gone meanwhile
                yield Path(here, name).lstat().st_mtime


def _modes(top: Path) -> Iterator[tuple[Path, int, int]]:
    """Everything in a buildpack but links: its mode, and the one it has in a builder image (as pack's)."""
    for here, directories, files in os.walk(top):
        for name in (".", *directories, *files):
            path = Path(here, name)
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                continue
            program = str(path.relative_to(top)) in _PROGRAMS
            executable = stat.S_ISDIR(mode) or program or mode & 0o111
            yield path, stat.S_IMODE(mode), 0o755 if executable else 0o644
