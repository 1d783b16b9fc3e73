"""The buildpacks a user names with `--buildpack`: directories of this machine, or ids of the builder's.

Called by `platform.build`. They take the place of the builder's order; a directory is seen in the sandbox
where a builder has its own buildpacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packhorse.base.step import Bind
from packhorse.buildpack.descriptor import Descriptor, Group, Ref
from packhorse.errors import InputError, NotFoundError
from packhorse.platform.builder import Builder

_PROGRAMS = ("bin/detect", "bin/build")


@dataclass(frozen=True, slots=True)
class Added:
    """The group of one that the names make (empty without names), and what shows the directories inside."""

    group: Group = ()
    mounts: tuple[Bind, ...] = ()


def added(names: Sequence[str], builder: Builder, scratch: Path) -> Added:
    """Reads what the names name; a bundled buildpack's source is staged below `scratch`.

    Raises InputError for a directory that is no buildpack, NotFoundError for an id that the builder has not,
    BuildpackApiError.
    """
    group: list[Ref] = []
    mounts: list[Bind] = []
    for number, name in enumerate(names):
        path = Path(name).resolve()
        if not name or not path.exists():
            group.append(_of_builder(name, builder))
            continue
        descriptor = _descriptor(path, name)
        from packhorse.platform import package  # only who names a directory pays for it

        if package.needs_staging(path):
            staged = scratch / f"buildpack-{number}"
            package.stage(path, staged)
            path = staged
        group.append(descriptor.ref)
        mounts.append(Bind(path, f"/cnb/buildpacks/{descriptor.ref.directory}/{descriptor.version}"))
    return Added(tuple(group), tuple(mounts))


def _of_builder(name: str, builder: Builder) -> Ref:
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
                f"{builder.name} has {'; '.join(listed) or 'no buildpacks'}",
            )
        ),
        fix="check --buildpack",
    )


def _descriptor(path: Path, name: str) -> Descriptor:
    file = path / "buildpack.toml"
    if not file.is_file():
        raise InputError(f"{name} is not a buildpack", why=f"there is no {file}", fix="check --buildpack")
    descriptor = Descriptor.parse(file.read_bytes(), str(file))
    if descriptor.order:
        return descriptor
    issues = []
    for program in (path / name for name in _PROGRAMS):
        if not program.is_file():
            issues.append(f"there is no {program}")
        elif not program.stat().st_mode & 0o111:
            issues.append(f"{program} is not executable (chmod +x)")
    if issues:
        raise InputError(f"{name} is not a whole buildpack", issues=issues)
    return descriptor
