"""Stages a buildpack that is written on `packhorse.sdk`: its directory, with all it needs under `lib/`.

A staged buildpack runs under any platform that has a python3 from 3.11. Called when packhorse itself is built
(for the bundled ones) and by `build.execute` when a buildpack's source directory is given; it needs the
standard library and `packaging` only, for that reason.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from packhorse.errors import InputError
from packhorse.platform import requirements

PROGRAMS = "programs.txt"
"""Beside it, where needed: the native programs of packhorse that a buildpack puts into images, one a line."""

MARK = "main.py"

_PACKAGE = Path(__file__).parents[1]
_SDK = (
    "__init__.py",
    "errors.py",
    *(f"base/{name}.py" for name in ("__init__", "dataclass", "target", "gotoml", "gomap", "log")),
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
    if (source / requirements.FILE).is_file():
        return True
    with main.open("rb") as file:
        return _IMPORTS_SDK.search(file.read(_LIMIT)) is not None


def stage(source: Path, target: Path, *, programs: Path = _PACKAGE / "_bundled") -> None:
    """Copies the buildpack at `source` to `target`, which must not exist, and fills its `lib/`.

    `programs` has the native programs, in directories of their names. All that a dependency in the
    requirements.txt needs is copied with it. Links stay links: the buildpack may be a stranger's, who would
    be shown what they lead to here. Raises InputError for a dependency that is not installed here in that
    version or is not pure Python, and for an unknown program.
    """
    needed = requirements.distributions(requirements.read(source))
    shutil.copytree(source, target, ignore=_LEFT_OUT, symlinks=True)
    library = target / "lib"
    for pattern in _SDK:
        for path in sorted(_PACKAGE.glob(pattern)):
            _copy(path, library / "packhorse" / path.relative_to(_PACKAGE))
    for distribution in needed:
        for file, place in requirements.files(distribution):
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
