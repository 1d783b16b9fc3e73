"""Stages a buildpack that uses `packhorse.sdk`: copies its directory, and puts what it needs under `lib/`.

A staged buildpack runs on any platform, if the build image has python3 3.11 or newer. Staging downloads
nothing: it copies the distributions that requirements.txt names from packhorse's own Python. `packhorse
buildpack stage` can add the files that the buildpack would download, in the form that `sdk.dependencies`
reads.

Called by `cli.builder`, by `build` for a buildpack's source directory, and by hatch_build.py for the bundled
buildpacks. hatch_build.py has only the standard library and `packaging`, so this module needs no more.
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
"""The file beside buildpack.toml that names the pure Python distributions that the buildpack imports."""

PROGRAMS = "programs.txt"
"""The file beside it that names the native programs of packhorse that the buildpack puts into images."""

MAIN = "main.py"
FOLDER = "dependencies"

Files = Sequence[tuple[str, str, Path]]
"""The name, the version and the path of each file."""

_PACKAGE = Path(__file__).parents[1]
_OWN = "packhorse"
_SDK = (
    "__init__.py",
    "errors.py",
    *(f"base/{name}.py" for name in ("__init__", "dataclass", "go_toml", "log", "target")),
    "sdk/*.py",
)
_IMPORTS_SDK = re.compile(rb"^\s*(?:from|import)\s+packhorse\b", re.MULTILINE)
_NATIVE = (".so", ".pyd", ".dll", ".dylib")
_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".mypy_cache", ".ruff_cache")
_LIMIT = 1 << 20
"""The most bytes that are read of a requirements.txt or main.py."""


@dataclass(frozen=True, slots=True)
class WantedDistribution:
    """One requirement, and where it comes from: `requirements.txt line 3`, or another distribution."""

    requirement: Requirement
    source: str

    @property
    def applies(self) -> bool:
        """Whether it has no marker, or one that is true for this Python."""
        marker = self.requirement.marker
        return marker is None or marker.evaluate({"extra": ""})


def read_requirements(directory: Path) -> tuple[WantedDistribution, ...]:
    """Reads the requirements.txt in `directory`, if there is one; one InputError names all wrong lines."""
    text = _read_text(directory)
    issues, wanted = [], []
    for number, line in enumerate(text.splitlines(), 1):
        entry = "" if line.lstrip().startswith("#") else line.split(" #")[0].strip()
        if not entry:
            continue
        where = f"{FILE} line {number}"
        if entry.startswith("-") or entry.endswith("\\"):
            issues.append(f"{where}: options and continued lines are not supported: {entry[:100]}")
            continue
        try:
            requirement = Requirement(entry)
        except InvalidRequirement as error:
            issues.append(f"{where}: {entry[:100]}: {str(error).splitlines()[0][:200]}")
            continue
        if requirement.url:
            issues.append(f"{where}: a URL is not supported: {entry[:100]}")
        elif canonicalize_name(requirement.name) != _OWN:  # staging adds the SDK in any case
            wanted.append(WantedDistribution(requirement, where))
    if issues:
        raise InputError(
            f"{directory / FILE} cannot be used",
            issues=issues,
            fix="write one distribution per line, for example packaging>=24",
        )
    return tuple(wanted)


def distributions(wanted: tuple[WantedDistribution, ...]) -> tuple[metadata.Distribution, ...]:
    """Finds the named distributions and all that they need, each once.

    Raises InputError for a distribution that is not installed, has another version, or is not pure Python.
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
    """Yields the modules, data and licences of a distribution: each path, and the path below `lib/`."""
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
                why=f"it has {path}, which works only with this machine's Python; {wanted.source} names it",
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
            raise InputError(
                f"a requirement of {source} cannot be read: {text[:100]}", why=str(error)
            ) from error
        if requirement.marker is None and not extra:
            needs.append(WantedDistribution(requirement, source))
        elif requirement.marker is not None and requirement.marker.evaluate({"extra": extra}):
            if extra and requirement.marker.evaluate({"extra": ""}):
                continue  # it is needed without the extra too, so the loop has added it already
            requirement.marker = None
            needs.append(WantedDistribution(requirement, source))
    return needs


def _pip_command(requirement: Requirement) -> list[str]:
    return [sys.executable, "-m", "pip", "install", f"{requirement.name}{requirement.specifier}"]


def _read_text(directory: Path) -> str:
    path = directory / FILE
    if path.is_symlink() and not path.resolve().is_relative_to(directory.resolve()):
        raise InputError(f"{path} is a link out of the buildpack", fix="put the file itself there")
    try:
        with path.open("rb") as file:
            return file.read(_LIMIT).decode("utf-8-sig")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror or "" if isinstance(error, OSError) else f"it is not UTF-8 (byte {error.start})"
        raise InputError(f"{path} cannot be read", why=why, fix="write one distribution per line") from error


def needs_staging(source: Path) -> bool:
    """Whether `source` is a buildpack that uses the SDK and is not staged yet."""
    main, library = source / MAIN, source / "lib"
    if not main.is_file() or library.exists() or library.is_symlink():
        return False
    if (source / FILE).is_file():
        return True
    with main.open("rb") as file:
        return _IMPORTS_SDK.search(file.read(_LIMIT)) is not None


def stage_directory(source: Path, target: Path, *, programs: Path = _PACKAGE / "_bundled") -> None:
    """Copies the buildpack at `source` to `target`, which must not exist, and fills its `lib/`.

    `programs` has the native programs, in directories of their names. Links stay links: a stranger's
    buildpack must not get the files of this machine to which they lead. Raises InputError for a distribution
    that is not installed here in that version or is not pure Python, and for an unknown program.
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
    """Sets modes, so that they do not depend on the umask with which somebody cloned the repository."""
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if executable else 0o644)


def stage_buildpack(source: str, target: Path, files: Files) -> None:
    """Stages the buildpack `source`, a directory or the id of a bundled one, in the new directory `target`.

    If it fails, there is no `target`. Raises InputError if the buildpack cannot be copied or `target` exists,
    and NotFoundError for an unknown id.
    """
    directory = _directory(source)
    if target.exists() or target.is_symlink():
        raise InputError(f"{target} exists", why="staging makes a new directory")
    if target.absolute().resolve().is_relative_to(directory):
        raise InputError(f"{target} is inside {source}", fix="stage it elsewhere")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            staged = Path(folder, "staged")
            if needs_staging(directory):
                stage_directory(directory, staged)
            else:
                shutil.copytree(directory, staged, symlinks=True)
            if files:
                dependencies.write_dependencies(staged / FOLDER, files)
            staged.rename(target)
    except (OSError, shutil.Error) as error:
        raise InputError(f"{source} cannot be staged", why=str(error)[:500]) from error


def _directory(source: str) -> Path:
    directory = resolve(Path(source)) if source else None
    if directory is not None:
        file = directory / "buildpack.toml"
        if resolve(file) is None:
            raise InputError(
                f"{source} is not a buildpack's directory",
                why=f"there is no {file}",
                fix="name a directory with a buildpack.toml, or the ID of a bundled buildpack",
            )
        return directory
    bundled = {}
    for path in buildpacks():
        descriptor = Descriptor.parse(read(path / "buildpack.toml"), str(path))
        bundled[descriptor.ref.id] = path
    if source not in bundled:
        raise NotFoundError(
            f"there is no buildpack {source!r} to stage",
            why=f"a directory: there is no {Path(source).absolute()}\n"
            f"the bundled buildpacks: they are {', '.join(bundled)}",
            fix="name a directory with a buildpack.toml, or one of these IDs: not an image, URL or archive",
        )
    return bundled[source]
