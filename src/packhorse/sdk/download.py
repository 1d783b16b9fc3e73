"""Downloads one file for a build: resumes interrupted transfers, tries again, and verifies the result.

Called by `sdk.context`, for files that the buildpack does not have itself (`sdk.dependencies`). Users can set
mirrors, with the same names as on other platforms. The binding `dependency-mapping` comes first (a URL for a
checksum), then BP_DEPENDENCY_MIRROR_<HOST> and BP_DEPENDENCY_MIRROR, then the binding `dependency-mirror` (an
entry for each host, and `default`). Proxies and certificates are those of the build's environment.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from packhorse.base.dataclass import dataclass
from packhorse.base.log import Log
from packhorse.errors import BuildError, FormatError, HostError, InputError, NetworkError, NotFoundError
from packhorse.sdk import arguments
from packhorse.sdk.bindings import Bindings
from packhorse.sdk.dependencies import Checksum, Dependencies

_VARIABLE = "BP_DEPENDENCY_MIRROR"
_SCHEMES = ("https", "http", "file")
_HOST = "{originalHost}"


@dataclass(frozen=True, slots=True)
class Address:
    """A URL to fetch, and the setting that named it; "" for the original URL."""

    url: str
    setting: str = ""

    @property
    def display(self) -> str:
        """The URL for messages, without a user, a password and a query, which may be secret."""
        return redact_url(self.url)

    @property
    def path(self) -> Path | None:
        """The file that a `file://` URL names, else None."""
        parts = urlsplit(self.url)
        return Path(unquote(parts.path)) if parts.scheme == "file" else None


@dataclass(frozen=True, slots=True)
class Mirrors:
    """The mirrors that the user set for one build."""

    env: Mapping[str, str]
    bindings: Bindings

    def address(self, url: str, checksum: Checksum) -> Address:
        """Where to fetch a file. Raises InputError for a setting that is no URL."""
        mapped = self._by_mapping(checksum)
        if mapped:
            return mapped
        mirror = self._by_variable(url) or self._by_binding(url)
        if mirror is None:
            return Address(url)
        return _apply_mirror(mirror, urlsplit(url))

    def directories(self) -> tuple[Path, ...]:
        """Mirrors that are directories on this machine and serve every host."""
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


_TRIES = 4
"""The download fails after this many attempts in a row without a new byte."""

_MAX_PAUSE = 30.0
_MAX_SIZE = 8 << 30
"""The most bytes of a download whose size is not known."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file to fetch. `Checksum.parse` reads `checksum`; `size` is in bytes, 0 if it is not known."""

    url: str
    checksum: str
    size: int = 0

    def __post_init__(self) -> None:
        arguments.check_text("the URL of a source", self.url, empty=False)
        arguments.check_text(f"the checksum of {self.url}", self.checksum)
        if not isinstance(self.size, int):
            raise BuildError(
                f"the size of {self.url} is {arguments.describe(self.size)}, not an int",
                fix="give its bytes as a number, or leave it out",
            )


@dataclass(frozen=True, slots=True)
class Downloads:
    """Fetches files for one build; `pause` waits for seconds."""

    env: Mapping[str, str]
    bindings: Bindings
    dependencies: Dependencies
    log: Log
    pause: Callable[[float], None] = time.sleep

    def fetch(self, source: Source, target: Path) -> Path:
        """Writes the complete, verified file to `target`, or nothing; returns `target`.

        Raises NetworkError, NotFoundError if the server has no such file, FormatError if it has another file,
        InputError for a wrong setting, and HostError if the target cannot be written.
        """
        checksum = Checksum.parse(source.checksum)
        brought = self.dependencies.find_by_checksum(checksum)
        if brought is not None:
            return _copy(brought, target)
        address = Mirrors(self.env, self.bindings).address(source.url, checksum)
        self.log.detail(f"fetching {address.display}{f' (by {address.setting})' if address.setting else ''}")
        if address.path is not None:
            return self._from_file(address, checksum, target)
        part = target.with_name(f"{target.name}.part")
        try:
            self._transfer(address, checksum, source.size, part)
            part.replace(target)
        except OSError as error:
            raise _unwritable_error(target, error) from error
        finally:
            part.unlink(missing_ok=True)
        return target

    def _from_file(self, address: Address, checksum: Checksum, target: Path) -> Path:
        path = address.path or Path()
        try:
            found = Checksum.of(path, checksum.algorithm)
        except OSError as error:
            raise NotFoundError(
                f"there is no {path}",
                why=f"{address.setting} names it: {error.strerror}" if address.setting else "",
                fix=_fix_for(address),
            ) from error
        if found != checksum:
            raise _wrong_checksum_error(address, checksum, found)
        return _copy(path, target)

    def _transfer(self, address: Address, checksum: Checksum, size: int, part: Path) -> None:
        from packhorse.sdk.transfer import InterruptedTransfer, Transfer

        transfer = Transfer(address, part, self.env, self.bindings, limit=size or _MAX_SIZE, size=size)
        failures, resumed = 0, False
        while True:
            before = transfer.received
            try:
                transfer.resume()
            except InterruptedTransfer as broken:
                failures = 1 if transfer.received > before else failures + 1
                if failures >= _TRIES:
                    raise NetworkError(
                        f"{address.display} cannot be fetched",
                        why=f"{broken} (tried {_TRIES} times)",
                        fix=_fix_for(address),
                    ) from broken
                wait = min(broken.wait or 2.0 ** (failures - 1), _MAX_PAUSE)
                self.log.detail(f"{broken}; trying again in {wait:g} s")
                self.pause(wait)
                resumed = resumed or transfer.received > 0
                continue
            found = Checksum.of(part, checksum.algorithm)
            if found == checksum:
                return
            if not resumed:
                raise _wrong_checksum_error(address, checksum, found)
            resumed = False  # the parts may be of two different files, so fetch all again, once
            transfer.restart()


def _copy(path: Path, target: Path) -> Path:
    try:
        shutil.copyfile(path, target)
    except OSError as error:
        raise _unwritable_error(target, error) from error
    return target


def _unwritable_error(target: Path, error: OSError) -> HostError:
    return HostError(
        f"{target} cannot be written",
        why=error.strerror or str(error),
        fix="the target of a download is the path of a file, in a directory that is there",
    )


def _wrong_checksum_error(address: Address, wanted: Checksum, found: Checksum) -> FormatError:
    return FormatError(
        f"{address.display} is not the requested file",
        why=f"its checksum is {found}, not {wanted}",
        fix=f"check {address.setting}"
        if address.setting
        else "a proxy or the server altered it, or the buildpack states a wrong one",
    )


def _fix_for(address: Address) -> str:
    if address.setting:
        return f"check {address.setting}"
    return "check the network and HTTPS_PROXY, or name a mirror with BP_DEPENDENCY_MIRROR"
