"""Identifies this machine's distribution and the mirrors that apt is configured to use.

`builder.distro` gives them to mmdebstrap for the default builder. Both formats of apt's configuration are
read: one line each, and deb822 (sources.list(5)). Repositories of other vendors are left out, because their
packages do not belong in a base image. apt itself fetches packages and checks signatures.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from packhorse.base.dataclass import dataclass
from packhorse.errors import HostError

_OLDEST = {"debian": (12,), "ubuntu": (24, 4)}
_COMPONENTS = {"debian": ("main",), "ubuntu": ("main", "universe")}
_OTHER_BUILDER = "name a builder with --builder; any Cloud Native Buildpacks builder image will do"


@dataclass(frozen=True, slots=True)
class Suite:
    """One release of a distribution, by the names in /etc/os-release."""

    id: str
    version: str
    codename: str

    @property
    def keyring(self) -> str:
        """The file of the distribution's own keys, which its keyring package installs."""
        return f"/usr/share/keyrings/{self.id}-archive-keyring.gpg"

    @property
    def keyring_package(self) -> str:
        """The package that installs `keyring`."""
        return "ubuntu-keyring" if self.id == "ubuntu" else f"{self.id}-archive-keyring"

    @property
    def pockets(self) -> tuple[str, ...]:
        """The suite names under which this release and its fixes are published."""
        return (self.codename, f"{self.codename}-updates", f"{self.codename}-security")


@dataclass(frozen=True, slots=True)
class AptSource:
    """One package repository."""

    uri: str
    suite: str
    components: tuple[str, ...]

    def line(self, keyring: str) -> str:
        """The one-line form of sources.list(5). Only the keys in `keyring` are trusted for it."""
        return f"deb [signed-by={keyring}] {self.uri} {self.suite} {' '.join(self.components)}"


def os_release_fields(text: str) -> dict[str, str]:
    """The variables of an os-release file (os-release(5)). Other lines are ignored."""
    fields = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith("#"):
            with suppress(ValueError):  # an unclosed quote
                fields[name] = "".join(shlex.split(value))
    return fields


def host_suite(os_release: str) -> Suite:
    """Reads the release from /etc/os-release's text; HostError unless it is Debian 12+ or Ubuntu 24.04+."""
    fields = os_release_fields(os_release)
    suite = Suite(fields.get("ID", ""), fields.get("VERSION_ID", ""), fields.get("VERSION_CODENAME", ""))
    oldest = _OLDEST.get(suite.id)
    numbers = tuple(int(part) for part in re.findall("[0-9]{1,9}", suite.version))
    if oldest is None or numbers < oldest or not suite.codename:
        name = fields.get("PRETTY_NAME") or suite.id or "an unknown system"
        raise HostError(
            "the default builder cannot be made on this machine",
            why=f"it is made from the packages of Debian 12 or Ubuntu 24.04 or newer; this is {name}",
            fix=_OTHER_BUILDER,
            check="default-builder",
        )
    return suite


def host_sources(suite: Suite, *, apt: Path = Path("/etc/apt")) -> tuple[AptSource, ...]:
    """The distribution's own repositories in the apt configuration below `apt`, sorted, without duplicates.

    A repository is the distribution's own if it has `suite` or its updates, has the component `main`, and no
    key of another vendor signs it. Raises HostError if there is none for the release itself.
    """
    files = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    found = {source for file in files for source in _file_sources(file, suite)}
    if not any(source.suite == suite.codename for source in found):
        raise HostError(
            f"no mirror of {suite.id} {suite.version} is configured",
            why=f"no entry below {apt} offers main of {suite.codename} under the distribution's own key",
            fix=f"add the mirror to {apt / 'sources.list'}, or {_OTHER_BUILDER}",
            check="default-builder",
        )
    return tuple(sorted(found, key=lambda s: (suite.pockets.index(s.suite), s.uri, s.components)))


def _file_sources(file: Path, suite: Suite) -> Iterator[AptSource]:
    if file.suffix not in (".list", ".sources") or not file.is_file():
        return
    try:
        text = file.read_text(errors="replace")
    except OSError:
        return  # this user may not read it; apt ignores such a file, too
    for stanza in _list_stanzas(text) if file.suffix == ".list" else _deb822_stanzas(text):
        yield from _own_sources(stanza, suite)


def _own_sources(stanza: dict[str, str], suite: Suite) -> Iterator[AptSource]:
    offered = stanza.get("components", "").split()
    components = tuple(name for name in _COMPONENTS[suite.id] if name in offered)
    signed_by = stanza.get("signed-by", "").split()
    own_key = all(PurePosixPath(key).name.startswith(f"{suite.id}-archive-") for key in signed_by)
    enabled = stanza.get("enabled", "yes").lower() not in ("no", "false", "0", "off", "without", "disable")
    if "deb" not in stanza.get("types", "").split() or "main" not in components or not own_key or not enabled:
        return
    for uri in stanza.get("uris", "").split():
        for name in stanza.get("suites", "").split():
            if name in suite.pockets and not uri.startswith("cdrom:"):
                yield AptSource(uri, name, components)


def _list_stanzas(text: str) -> Iterator[dict[str, str]]:
    for line in text.splitlines():
        match = re.fullmatch(r"(deb)\s+(?:\[(.*?)\]\s+)?(\S+)\s+(\S+)\s+(.+)", line.partition("#")[0].strip())
        if match is not None:
            options = dict(option.partition("=")[::2] for option in (match[2] or "").split())
            signed_by = options.get("signed-by", "").replace(",", " ")
            yield {
                "types": match[1],
                "uris": match[3],
                "suites": match[4],
                "components": match[5],
                "signed-by": signed_by,
            }


def _deb822_stanzas(text: str) -> Iterator[dict[str, str]]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for block in re.split(r"\n\s*\n", "\n".join(lines)):
        stanza: dict[str, str] = {}
        name = ""
        for line in block.splitlines():
            if line[:1].isspace():
                stanza[name] = f"{stanza.get(name, '')} {line.strip()}"
            else:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                stanza[name] = value.strip()
        yield stanza
