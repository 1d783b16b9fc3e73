"""Looks up buildpacks in the index of a buildpack registry: a git repository, or a directory of files.

The index has one file for each buildpack, and in it one line of JSON for each version with the image that has
it, by digest. `build.locators` reads it. `PACKHORSE_BUILDPACK_REGISTRY` names it; without that variable there
is none. packhorse keeps a bare copy of a git repository, so that known versions need no network.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from packhorse.base.dataclass import dataclass
from packhorse.base.digest import Digest
from packhorse.base.files import is_directory, is_file
from packhorse.errors import FormatError, HostError, InputError, NetworkError, NotFoundError
from packhorse.host.machine import BUNDLE_VARIABLES
from packhorse.http.client import redact, sanitize
from packhorse.oci.reference import Reference
from packhorse.oci.types import JsonNode

SETTING = "PACKHORSE_BUILDPACK_REGISTRY"
"""The variable that names the index: a directory, or a repository as `git fetch` takes it."""

_FIELD = re.compile(r"[a-z0-9.-]{1,253}")
_SEMVER = re.compile(
    r"(\d{1,18})\.(\d{1,18})\.(\d{1,18})(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z.-]+)?"
)
_BRANCH = "refs/heads/index"
_LIMIT = 8 << 20
"""The largest file of an index, in bytes."""

_TIMEOUT = 300.0


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One version of a buildpack, and the image that has it. A yanked version should not be used."""

    version: str
    image: str
    yanked: bool = False


class BuildpackIndex:
    """The index that the setting names; a copy of a git repository is kept in the directory `cache`."""

    def __init__(self, setting: str, cache: Path, environ: Mapping[str, str]) -> None:
        self._setting = setting
        self._environ = environ
        self._copy = None if is_directory(setting) else cache / Digest.of(setting.encode()).hex
        self._is_current = False

    @property
    def name(self) -> str:
        """The index's address for messages, without its password."""
        return redact(self._setting)

    def find(self, identifier: str, version: str, *, offline: bool, say: Callable[[str], None]) -> IndexEntry:
        """Finds a version of a buildpack NAMESPACE/NAME, or the highest one for "".

        The copy is updated unless it has the version, or `offline` is set. Raises NotFoundError with the
        versions that the index has, FormatError for an entry that cannot be used, NetworkError, HostError.
        """
        path = index_path(identifier)
        if version and self._copy is not None:
            entry = _choose(self._entries(path), version)
            if entry is not None:
                return self._check(entry, identifier, say)
        self._update(offline=offline, say=say)
        entries = self._entries(path)
        entry = _choose(entries, version)
        if entry is None:
            known = ", ".join(each.version for each in entries[-20:])
            raise NotFoundError(
                f"{self.name} has no buildpack {identifier}{f'@{version}' if version else ''}",
                why=f"it has the versions {known}" if known else f"it has no file {path}",
                fix="check the name and the version",
            )
        return self._check(entry, identifier, say)

    def _check(self, entry: IndexEntry, identifier: str, say: Callable[[str], None]) -> IndexEntry:
        try:
            has_digest = Reference.parse(entry.image).digest is not None
        except InputError:
            has_digest = False
        if not has_digest:
            raise FormatError(
                f"{identifier}@{entry.version} in {self.name} cannot be used",
                why=f"its address {entry.image[:300]!r} is not the name of an image with a digest",
            )
        if entry.yanked:
            say(f"{identifier}@{entry.version} is withdrawn: {self.name} marks it as yanked")
        return entry

    def _entries(self, path: str) -> list[IndexEntry]:
        found = []
        for number, line in enumerate(self._read(path).splitlines(), 1):
            if line.strip():
                node = JsonNode.parse(line, f"{path}:{number} of {self.name}")
                found.append(IndexEntry(node.text("version"), node.text("addr"), node.flag("yanked")))
        return found

    def _read(self, path: str) -> bytes:
        if self._copy is None:
            try:
                with (Path(self._setting) / path).open("rb") as file:
                    data = file.read(_LIMIT + 1)
            except (FileNotFoundError, NotADirectoryError):
                return b""
            except OSError as error:
                raise HostError(f"{self.name} cannot be read", why=error.strerror or str(error)) from error
        else:
            if not self._has_copy():
                return b""
            done = self._git("cat-file", "blob", f"{_BRANCH}:{path}")
            data = done.stdout if done.returncode == 0 else b""
        if len(data) > _LIMIT:
            raise FormatError(f"{path} of {self.name} is too large", why=f"it has more than {_LIMIT} bytes")
        return data

    def _has_copy(self) -> bool:
        return self._git("rev-parse", "--quiet", "--verify", _BRANCH).returncode == 0

    def _update(self, *, offline: bool, say: Callable[[str], None]) -> None:
        """Brings the copy of a git repository up to date, once per command; raises as `find` does."""
        if self._copy is None or self._is_current:
            return
        if offline:
            if not self._has_copy():
                raise NotFoundError(
                    f"there is no copy of the index of buildpacks at {self.name}",
                    why="it is not fetched: the pull policy is never",
                    fix="leave out --pull-policy",
                )
            return
        self._is_current = True
        try:
            self._copy.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HostError(f"{self._copy} cannot be written", why=error.strerror or str(error)) from error
        self._git("init", "--quiet", "--bare")
        say(f"updating the index of buildpacks from {self.name}")
        done = self._fetch("--depth=1")
        if done.returncode != 0 and b"shallow" in done.stderr:
            done = self._fetch()  # a server of plain files gives no part of the history
        if done.returncode == 0:
            return
        why = sanitize(done.stderr.decode(errors="replace").replace(self._setting, self.name))
        if not self._has_copy():
            raise NetworkError(
                f"the index of buildpacks cannot be fetched from {self.name}",
                why=why,
                fix=f"check {SETTING}, which is a directory or a git repository",
            )
        say(f"{self.name}: using the copy of an earlier build, as it cannot be fetched: {why}")

    def _fetch(self, *options: str) -> subprocess.CompletedProcess[bytes]:
        arguments = ("--quiet", *options, "--no-tags", "--", self._setting, f"+HEAD:{_BRANCH}")
        return self._git("fetch", *arguments)

    def _git(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        program = shutil.which("git", path=self._environ.get("PATH"))
        if program is None:
            raise HostError(
                "git is missing",
                why=f"{SETTING} names a git repository: {self.name}",
                fix="install git, or set it to a directory with the files of the index",
            )
        # git must not ask for a password, nor use another repository by the user's GIT_DIR.
        environ = {key: value for key, value in self._environ.items() if not key.startswith("GIT_DIR")}
        environ |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
        bundle = next((environ[name] for name in BUNDLE_VARIABLES if environ.get(name)), "")
        if is_file(bundle):
            environ.setdefault("GIT_SSL_CAINFO", bundle)  # as for packhorse's own connections
        try:
            return subprocess.run(
                [program, f"--git-dir={self._copy}", *arguments],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                env={"PATH": os.defpath, **environ},
                timeout=_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise NetworkError(
                f"{self.name} did not answer", why=f"git took longer than {_TIMEOUT:.0f} s"
            ) from error


def index_path(identifier: str) -> str:
    """The file of a buildpack NAMESPACE/NAME in an index; raises InputError for another form."""
    namespace, slash, name = identifier.partition("/")
    is_valid = all(_FIELD.fullmatch(part) for part in (namespace, name))
    if not slash or not is_valid or ".." in identifier:  # parts of the name become directories
        raise InputError(
            f"{identifier[:300]!r} is not the name of a buildpack in a registry",
            why="it has the form NAMESPACE/NAME, of lower-case letters, digits, '.' and '-'",
        )
    directory = {1: "1", 2: "2", 3: f"3/{name[:2]}"}.get(len(name), f"{name[:2]}/{name[2:4]}")
    return f"{directory}/{namespace}_{name}"


def _choose(entries: list[IndexEntry], version: str) -> IndexEntry | None:
    """The entry of a version, or for "" the highest that is not yanked; None if there is none."""
    if version:
        return next((entry for entry in entries if entry.version == version), None)
    usable = [entry for entry in entries if not entry.yanked]
    return max(usable, key=lambda entry: _precedence(entry.version), default=None)


def _precedence(version: str) -> tuple[object, ...]:
    """A key that sorts versions as semver.org, clause 11; other texts sort lowest."""
    match = _SEMVER.fullmatch(version)
    if match is None:
        return (-1, -1, -1, 0, ())
    numbers = tuple(map(int, match.group(1, 2, 3)))
    # A numeric identifier is lower than a text, and a shorter list lower than a longer one.
    parts = tuple(
        (0, int(part), "") if part.isdigit() else (1, 0, part) for part in (match[4] or "").split(".") if part
    )
    return (*numbers, 0 if parts else 1, parts)
