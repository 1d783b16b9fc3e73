"""Lists what a base image is made of: its distribution, and the Debian packages that dpkg recorded.

Called by `contents`, `diff` and `distro`. A base that dpkg made has one status file. A base that was made
without dpkg (distroless) has a file for each package, in the layer that the package came with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from packhorse.base.dataclass import dataclass, field
from packhorse.image.view import Layer
from packhorse.layers.listing import pick_files
from packhorse.platform.distro.sources import os_release_fields
from packhorse.sdk.sbom import Component, purl

_STATUS = "var/lib/dpkg/status"
_SINGLE = "var/lib/dpkg/status.d/"
_RELEASES = ("etc/os-release", "usr/lib/os-release")
_LIMIT = 64 << 20  # a machine with every package of Debian has about as much
_ALTERNATIVES = re.compile(r"\s*,\s*")
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]*")
_SOURCE = re.compile(r"(\S+)(?: \((\S+)\))?")


@dataclass(frozen=True, slots=True)
class BaseSystem:
    """The files of a base that say what it is made of: `release` is os-release, the others dpkg's."""

    release: str = ""
    statuses: tuple[str, ...] = ()


@dataclass(slots=True)
class _Search:
    """What the layers above have had, and what they hide of those below."""

    files: dict[str, bytes] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)

    def covers(self, path: str) -> bool:
        if path in self.files or path in self.hidden:
            return True
        parts = path.split("/")
        above = ["/".join(parts[:count]) for count in range(len(parts))]
        return any(f"{name}/" in self.hidden or (name and name in self.hidden) for name in above)

    def add_layer(self, layer: Layer) -> None:
        found = pick_files(layer.tar(), _is_wanted, limit=_LIMIT)
        self.files |= {path: data for path, data in found.files.items() if not self.covers(path)}
        self.hidden |= found.hidden


def read(layers: Iterable[Layer], *, release: bool = True) -> BaseSystem:
    """What the layers of a base, lowest first, say. Reads from the top, and no further than dpkg's status, or
    than os-release where `release` asks for it.

    Raises FormatError, and what reading a layer raises.
    """
    search = _Search()
    for layer in reversed(tuple(layers)):
        search.add_layer(layer)
        if search.covers(_STATUS) and (not release or any(map(search.covers, _RELEASES))):
            break
    told = next((search.files[path] for path in reversed(_RELEASES) if path in search.files), b"")
    statuses = [search.files[path] for path in sorted(search.files) if path not in _RELEASES]
    return BaseSystem(_text(told), tuple(map(_text, statuses)))


def components(base: BaseSystem, *, distro: tuple[str, str] = ("", "")) -> list[Component]:
    """The distribution first, which depends on all its packages, then these; nothing for a base unknown.

    `distro` is what the image's labels call it; without, os-release is believed.
    """
    release = os_release_fields(base.release)
    name, version = distro if distro[0] else (release.get("ID", "").lower(), release.get("VERSION_ID", ""))
    packages = [package for status in base.statuses for package in _stanzas(status)]
    packages = [package for package in packages if _is_installed(package)]
    if not name and not packages:
        return []
    name = name or "debian"
    made = _packages(packages, name, version)
    root = Component(name, version, kind="operating-system", depends_on=tuple(part.ref for part in made))
    return [root, *made]


def versions(statuses: Iterable[str]) -> dict[str, str]:
    """The version of each installed package, by its name, or with its architecture if it has several."""
    found: dict[str, dict[str, str]] = {}
    for package in (package for status in statuses for package in _stanzas(status)):
        if _is_installed(package):
            found.setdefault(package["Package"], {})[package.get("Architecture", "")] = package["Version"]
    named = {
        f"{name}:{architecture}" if len(each) > 1 else name: version
        for name, each in found.items()
        for architecture, version in each.items()
    }
    return dict(sorted(named.items()))


def is_status(path: str) -> bool:
    """Whether a path, relative to the root, is a file in which dpkg records packages."""
    return _is_wanted(path) and path not in _RELEASES


def _packages(packages: list[dict[str, str]], distro: str, version: str) -> list[Component]:
    refs: dict[str, str] = {}  # of each package, and of what some package provides
    for package in packages:
        refs.setdefault(package["Package"], _purl(package, distro, version))
    for package in packages:
        for group in _relations(package.get("Provides", "")):
            refs.setdefault(group[0], _purl(package, distro, version))
    made = []
    for package in packages:
        wanted = f"{package.get('Pre-Depends', '')},{package.get('Depends', '')}"
        needs = {next((refs[name] for name in group if name in refs), "") for group in _relations(wanted)} - {
            "",
            _purl(package, distro, version),
        }
        made.append(
            Component(
                package["Package"],
                package["Version"],
                _purl(package, distro, version),
                depends_on=tuple(sorted(needs)),
            )
        )
    return sorted(made, key=lambda part: part.ref)


def _purl(package: Mapping[str, str], distro: str, version: str) -> str:
    """With the source package, where it is another: Debian's security tracker knows nothing else."""
    qualifiers = {"distro": f"{distro}-{version}"} if version else {}
    if package.get("Architecture"):
        qualifiers["arch"] = package["Architecture"]
    source = _SOURCE.fullmatch(package.get("Source", ""))
    if source:
        qualifiers["upstream"] = f"{source[1]}@{source[2]}" if source[2] else source[1]
    return purl("deb", package["Package"], package["Version"], namespace=distro, **qualifiers)


def _relations(text: str) -> Iterator[list[str]]:
    """The names of each group of alternatives: `a (>= 1) | b:any, c` has two groups."""
    for group in _ALTERNATIVES.split(text.strip()):
        found = [_NAME.match(alternative.strip()) for alternative in group.split("|")]
        names = [match[0] for match in found if match]
        if names:
            yield names


def _is_wanted(path: str) -> bool:
    if path.startswith(_SINGLE):
        name = path.removeprefix(_SINGLE)
        return "/" not in name and not name.endswith(".md5sums")
    return path == _STATUS or path in _RELEASES


def _is_installed(package: Mapping[str, str]) -> bool:
    """Whether it is there: of one without a status all is, and of one that was removed its settings are."""
    status = package.get("Status", "install ok installed").split()
    return bool(package.get("Package") and package.get("Version")) and status[-1:] == ["installed"]


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    """Paragraphs of fields in the form of Debian's control files; of a long field its first line."""
    fields: dict[str, str] = {}
    for line in (*text.split("\n"), ""):
        if not line.strip():
            if fields:
                yield fields
            fields = {}
        elif not line[0].isspace():
            name, colon, value = line.partition(":")
            if colon:
                fields.setdefault(name, value.strip())


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
