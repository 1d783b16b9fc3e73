"""Stages a buildpack that uses `packhorse.sdk`: its directory, with all it needs under `lib/`.

A staged buildpack runs under any platform that has python3 3.11 or newer. Its requirements.txt is compared
with the distributions installed in packhorse's own Python; nothing is downloaded for it. `packhorse buildpack
stage` adds the files that the buildpack would download, in the form that `sdk.dependencies` defines.

Called when packhorse itself is built (for the bundled buildpacks), and by `build.execute` for a buildpack's
source directory. The build of packhorse has only the standard library and `packaging`, so staging needs no
more.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path, PurePosixPath

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from packhorse.base.dataclass import dataclass
from packhorse.base.files import read, resolve
from packhorse.base.installation import buildpacks
from packhorse.errors import InputError, NotFoundError
from packhorse.sdk import dependencies
from packhorse.spec.buildpack_toml import Descriptor

FILE = "requirements.txt"
"""Beside a buildpack.toml: the pure Python distributions a buildpack imports."""

_NATIVE = (".so", ".pyd", ".dll", ".dylib")
_OWN = "packhorse"
_REQUIREMENTS_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class WantedDistribution:
    """One requirement, and who has it: `requirements.txt line 3`, or a distribution that was found there."""

    requirement: Requirement
    source: str

    @property
    def applies(self) -> bool:
        """Whether its marker holds for this Python, if it has one."""
        marker = self.requirement.marker
        return marker is None or marker.evaluate({"extra": ""})


def read_requirements(directory: Path) -> tuple[WantedDistribution, ...]:
    """What the file in `directory` names; nothing without one. InputError has every line that is not read."""
    text = _read_text(directory)
    issues, wanted = [], []
    for number, line in enumerate(text.splitlines(), 1):
        said = (
            line.partition("#")[0].strip() if line.lstrip().startswith("#") else line.split(" #")[0].strip()
        )
        if not said:
            continue
        where = f"{FILE} line {number}"
        if said.startswith("-") or said.endswith("\\"):
            issues.append(f"{where}: options and lines that go on are not read here: {said[:100]}")
            continue
        try:
            requirement = Requirement(said)
        except InvalidRequirement as error:
            issues.append(f"{where}: {said[:100]}: {str(error).splitlines()[0][:200]}")
            continue
        if requirement.url:
            issues.append(f"{where}: a URL is not read here: {said[:100]}")
        elif canonicalize_name(requirement.name) != _OWN:  # the SDK is there in any case
            wanted.append(WantedDistribution(requirement, where))
    if issues:
        raise InputError(
            f"{directory / FILE} cannot be used",
            issues=issues,
            fix="name one distribution a line, as in: packaging>=24",
        )
    return tuple(wanted)


def distributions(wanted: tuple[WantedDistribution, ...]) -> tuple[metadata.Distribution, ...]:
    """What is named and all that this needs, each once.

    Raises InputError for what is not installed here, is of another version, or is not pure Python.
    """
    waiting, found, asked = list(wanted), dict[str, metadata.Distribution](), set[tuple[str, str]]()
    while waiting:
        each = waiting.pop(0)
        if not each.applies:
            continue
        distribution = _find_installed(each)
        name = canonicalize_name(each.requirement.name)
        found.setdefault(name, distribution)
        for extra in ("", *sorted(each.requirement.extras)):
            if (name, extra) not in asked:
                asked.add((name, extra))
                waiting += _dependencies(distribution, extra, f"{each.requirement.name} ({each.source})")
    return tuple(found[name] for name in sorted(found))


def distribution_files(distribution: metadata.Distribution) -> Iterator[tuple[Path, PurePosixPath]]:
    """The modules, data and licences of a distribution: where each is, and its path below `lib/`."""
    for file in distribution.files or ():
        path = PurePosixPath(file)
        if path.parts[0] in ("..", "/") or "__pycache__" in path.parts or path.suffix == ".pth":
            continue
        licence = path.parts[0].endswith(".dist-info") and "LICENSE" in path.name.upper()
        if path.parts[0].endswith(".dist-info") and not licence:
            continue
        yield Path(str(distribution.locate_file(file))), path


def _find_installed(wanted: WantedDistribution) -> metadata.Distribution:
    requirement = wanted.requirement
    pip = f"install it beside packhorse: {shlex.join(_pip_command(requirement))}"
    try:
        distribution = metadata.distribution(requirement.name)
    except metadata.PackageNotFoundError as error:
        raise InputError(
            f"{requirement.name} is not installed", why=f"{wanted.source} names it", fix=pip
        ) from error
    if not requirement.specifier.contains(distribution.version, prereleases=True):
        raise InputError(
            f"{requirement.name} is installed in version {distribution.version}",
            why=f"{wanted.source} wants {requirement.specifier}",
            fix=pip,
        )
    paths = [path for _, path in distribution_files(distribution)]
    for path in paths:
        if path.suffix in _NATIVE:
            raise InputError(
                f"{requirement.name} is not pure Python",
                why=f"it has {path}, for this machine's Python only; {wanted.source} names it",
                fix="use a distribution without native modules",
            )
    editable = any(PurePosixPath(file).suffix == ".pth" for file in distribution.files or ())
    if distribution.files is None or (editable and not any(path.suffix == ".py" for path in paths)):
        raise InputError(
            f"the modules of {requirement.name} cannot be found",
            why=f"it is installed in editable mode, or without a list of its files; {wanted.source} names it",
            fix=pip,
        )
    return distribution


def _dependencies(distribution: metadata.Distribution, extra: str, source: str) -> list[WantedDistribution]:
    needs = []
    for text in distribution.requires or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise InputError(f"{source} needs what cannot be read: {text[:100]}", why=str(error)) from error
        if requirement.marker is None and not extra:
            needs.append(WantedDistribution(requirement, source))
        elif requirement.marker is not None and requirement.marker.evaluate({"extra": extra}):
            if extra and requirement.marker.evaluate({"extra": ""}):
                continue  # it is needed without the extra, too, and has been taken
            requirement.marker = None
            needs.append(WantedDistribution(requirement, source))
    return needs


def _pip_command(requirement: Requirement) -> list[str]:
    return [sys.executable, "-m", "pip", "install", f"{requirement.name}{requirement.specifier}"]


def _read_text(directory: Path) -> str:
    path = directory / FILE
    if path.is_symlink() and not path.resolve().is_relative_to(directory.resolve()):
        raise InputError(f"{path} leads out of the buildpack", fix="put the file itself there")
    try:
        with path.open("rb") as file:
            return file.read(_REQUIREMENTS_LIMIT).decode("utf-8-sig")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror or "" if isinstance(error, OSError) else f"it is not UTF-8 (byte {error.start})"
        raise InputError(f"{path} cannot be read", why=why, fix="name one distribution a line") from error


PROGRAMS = "programs.txt"
"""Beside it, where needed: the native programs of packhorse that a buildpack puts into images, one a line."""

MARK = "main.py"

_PACKAGE = Path(__file__).parents[1]
_SDK = (
    "__init__.py",
    "errors.py",
    *(f"base/{name}.py" for name in ("__init__", "dataclass", "go_toml", "log", "target")),
    "sdk/*.py",
)
_IMPORTS_SDK = re.compile(rb"^\s*(?:from|import)\s+packhorse\b", re.MULTILINE)
_LIMIT = 1 << 20
_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".mypy_cache", ".ruff_cache")


def needs_staging(source: Path) -> bool:
    """Whether `source` is a buildpack on this SDK that has not been staged."""
    main, library = source / MARK, source / "lib"
    if not main.is_file() or library.exists() or library.is_symlink():
        return False
    if (source / FILE).is_file():
        return True
    with main.open("rb") as file:
        return _IMPORTS_SDK.search(file.read(_LIMIT)) is not None


def stage_directory(source: Path, target: Path, *, programs: Path = _PACKAGE / "_bundled") -> None:
    """Copies the buildpack at `source` to `target`, which must not exist, and fills its `lib/`.

    `programs` has the native programs, in directories of their names. All that a dependency in the
    requirements.txt needs is copied with it. Links stay links: the buildpack may be a stranger's, who would
    be shown what they lead to here. Raises InputError for a dependency that is not installed here in that
    version or is not pure Python, and for an unknown program.
    """
    needed = distributions(read_requirements(source))
    shutil.copytree(source, target, ignore=_LEFT_OUT, symlinks=True)
    library = target / "lib"
    for pattern in _SDK:
        for path in sorted(_PACKAGE.glob(pattern)):
            _copy(path, library / "packhorse" / path.relative_to(_PACKAGE))
    for distribution in needed:
        for file, place in distribution_files(distribution):
            _copy(file, library / place)
    if (source / PROGRAMS).is_file():
        for line in (source / PROGRAMS).read_text().splitlines():
            match = _NAME.match(line)
            if match:
                _copy_program(match[1], programs, library / "programs")
    _normalise(target)


def _copy_program(name: str, programs: Path, target: Path) -> None:
    binaries = sorted((programs / name).glob(f"{name}-linux-*"))
    if not binaries:
        raise InputError(f"packhorse has no program {name}", why=f"a buildpack's {PROGRAMS} names it")
    for binary in binaries:
        _copy(binary, target / binary.name)
        (target / binary.name).chmod(0o755)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _normalise(target: Path) -> None:
    """Modes that do not depend on who cloned the repository or with which umask."""
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if executable else 0o644)


Files = Sequence[tuple[str, str, Path]]
"""The name and version of each file, and where it is."""

FOLDER = "dependencies"


def stage_buildpack(source: str, target: Path, files: Files) -> None:
    """Copies the buildpack `source`, a directory or the id of a bundled one, to the new directory `target`.

    It is there whole or not at all. Raises InputError when it cannot be copied or `target` exists,
    NotFoundError when there is none.
    """
    directory = _directory(source)
    if target.exists() or target.is_symlink():
        raise InputError(f"{target} exists", why="a staged buildpack is a directory of its own")
    if target.absolute().resolve().is_relative_to(directory):
        raise InputError(f"{target} is inside of {source}", fix="stage it elsewhere")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            made = Path(folder, "staged")
            if needs_staging(directory):
                stage_directory(directory, made)
            else:
                shutil.copytree(directory, made, symlinks=True)
            if files:
                dependencies.write_dependencies(made / FOLDER, files)
            made.rename(target)
    except (OSError, shutil.Error) as error:
        raise InputError(f"{source} cannot be staged", why=str(error)[:500]) from error


def _directory(source: str) -> Path:
    directory = resolve(Path(source)) if source else None
    if directory is not None:
        file = directory / "buildpack.toml"
        if resolve(file) is None:
            raise InputError(f"{source} is not a buildpack", why=f"there is no {file}")
        return directory
    bundled = {}
    for path in buildpacks():
        descriptor = Descriptor.parse(read(path / "buildpack.toml"), str(path))
        bundled[descriptor.ref.id] = path
    if source not in bundled:
        raise NotFoundError(
            f"there is no buildpack {source!r}",
            why=f"there is no such directory; packhorse itself has {', '.join(bundled)}",
        )
    return bundled[source]
