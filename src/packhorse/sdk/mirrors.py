"""Where a download really comes from: mirrors and mappings that a user set, by the names others gave them.

On the arrow plan → layers. Called by `sdk.download`. First counts the binding `dependency-mapping` (an
address for a checksum), then BP_DEPENDENCY_MIRROR_<HOST> and BP_DEPENDENCY_MIRROR, then the binding
`dependency-mirror` (an entry for each host, and `default`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from packhorse.base.dataclass import dataclass
from packhorse.errors import InputError
from packhorse.sdk.bindings import Bindings
from packhorse.sdk.checksum import Checksum

_VARIABLE = "BP_DEPENDENCY_MIRROR"
_SCHEMES = ("https", "http", "file")
_HOST = "{originalHost}"


@dataclass(frozen=True, slots=True)
class Address:
    """A URL to fetch, and the setting that led there; "" when it is the original one."""

    url: str
    setting: str = ""

    @property
    def display(self) -> str:
        """The URL for people: without what may be secret, a user, a password or a query."""
        return redact_url(self.url)

    @property
    def path(self) -> Path | None:
        """The file that a `file://` URL means."""
        parts = urlsplit(self.url)
        return Path(unquote(parts.path)) if parts.scheme == "file" else None


@dataclass(frozen=True, slots=True)
class Mirrors:
    """The settings of one build."""

    env: Mapping[str, str]
    bindings: Bindings

    def address(self, url: str, checksum: Checksum) -> Address:
        """Where to fetch what `url` and `checksum` name. Raises InputError for a setting that is no URL."""
        mapped = self._by_mapping(checksum)
        if mapped:
            return mapped
        mirror = self._by_variable(url) or self._by_binding(url)
        if mirror is None:
            return Address(url)
        return _apply_mirror(mirror, urlsplit(url))

    def directories(self) -> tuple[Path, ...]:
        """Mirrors that are directories of this machine and serve no host in particular."""
        named = [self.env.get(_VARIABLE, ""), *self._entries().get("default", [])]
        parts = [urlsplit(text) for text in named if text.startswith("file:") and _HOST not in text]
        return tuple(Path(unquote(each.path)) for each in parts)

    def _by_mapping(self, checksum: Checksum) -> Address | None:
        names = [f"{checksum.algorithm}:{checksum.hex}", f"{checksum.algorithm}_{checksum.hex}"]
        if checksum.algorithm == "sha256":
            names.insert(0, checksum.hex)
        for binding in self.bindings.of_type("dependency-mapping"):
            for name in names:
                url = binding.secret(name)
                if url:
                    return _check_url(Address(url, f"the binding {binding.name} (dependency-mapping)"))
        return None

    def _by_variable(self, url: str) -> Address | None:
        host = _host(url)
        for name, value in sorted(self.env.items()):
            if name.startswith(f"{_VARIABLE}_") and value:
                named = name.removeprefix(f"{_VARIABLE}_").replace("__", "-").replace("_", ".").lower()
                if _is_for_host(named, host):
                    return Address(value, name)
        value = self.env.get(_VARIABLE, "")
        return Address(value, _VARIABLE) if value else None

    def _by_binding(self, url: str) -> Address | None:
        entries, host = self._entries(), _host(url)
        found = next(
            (name for name in entries if name != "default" and _is_for_host(name.lower(), host)), "default"
        )
        if found not in entries:
            return None
        return Address(entries[found][0], f"the binding dependency-mirror, entry {found}")

    def _entries(self) -> dict[str, list[str]]:
        binding = self.bindings.one_of_type("dependency-mirror")
        if binding is None:
            return {}
        return {name: [value] for name in binding.entries if (value := binding.secret(name))}


def redact_url(url: str) -> str:
    """`url` without user, password, query and fragment."""
    parts = urlsplit(url)
    return SplitResult(parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "").geturl()


def _apply_mirror(mirror: Address, original: SplitResult) -> Address:
    _check_url(mirror)
    parts = urlsplit(mirror.url)
    path = parts.path.replace(_HOST, original.hostname or "", 1).rstrip("/") + original.path
    return Address(parts._replace(path=path).geturl(), mirror.setting)


def _check_url(address: Address) -> Address:
    try:
        scheme = urlsplit(address.url).scheme.lower()
    except ValueError:
        scheme = ""
    if scheme not in _SCHEMES:
        raise InputError(
            f"{address.setting} is no mirror",
            why="its value is not the URL of one",
            fix="write https://HOST/PATH or file:///PATH, where {originalHost} may stand for the host",
        )
    return address


def _host(url: str) -> str:
    return (urlsplit(url).hostname or "").lower()


def _is_for_host(named: str, host: str) -> bool:
    return host == named or host.endswith(f".{named}")
