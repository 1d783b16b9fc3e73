"""The distributions that a buildpack imports: its requirements.txt, held against what is installed here.

Called by `platform.package`. Nothing is downloaded: "here" is the Python that packhorse itself runs in.
Beyond the standard library it needs `packaging` only, since packhorse's own build calls it.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path, PurePosixPath

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from packhorse.base.dataclass import dataclass
from packhorse.errors import InputError

FILE = "requirements.txt"
"""Beside a buildpack.toml: the pure Python distributions a buildpack imports."""

_NATIVE = (".so", ".pyd", ".dll", ".dylib")
_OWN = "packhorse"
_LIMIT = 1 << 20


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


def read(directory: Path) -> tuple[WantedDistribution, ...]:
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


def files(distribution: metadata.Distribution) -> Iterator[tuple[Path, PurePosixPath]]:
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
    paths = [path for _, path in files(distribution)]
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
            return file.read(_LIMIT).decode("utf-8-sig")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror or "" if isinstance(error, OSError) else f"it is not UTF-8 (byte {error.start})"
        raise InputError(f"{path} cannot be read", why=why, fix="name one distribution a line") from error
