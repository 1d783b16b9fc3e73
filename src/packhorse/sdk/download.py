"""Fetches one file for a build: verified while it comes, resumed where it broke off, tried again.

On the arrow plan → layers. Called by `sdk.context`. Where it comes from is `sdk.mirrors`', what a buildpack
brings along `sdk.dependencies`'. Proxies and certificates are those of the build's environment.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from packhorse.base.dataclass import dataclass
from packhorse.base.log import Log
from packhorse.errors import BuildError, FormatError, HostError, NetworkError, NotFoundError
from packhorse.sdk import arguments
from packhorse.sdk.bindings import Bindings
from packhorse.sdk.checksum import Checksum
from packhorse.sdk.dependencies import Dependencies
from packhorse.sdk.mirrors import Address, Mirrors

_TRIES = 4
"""How often in a row nothing may come of it."""

_MAX_PAUSE = 30.0
_MAX_SIZE = 8 << 30
"""Bytes of a download whose size nobody stated."""


@dataclass(frozen=True, slots=True)
class Source:
    """What to fetch. `checksum` as `Checksum.parse` reads it; `size` in bytes, 0 when it is not known."""

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
    """The way to files for one build; `pause` waits for seconds."""

    env: Mapping[str, str]
    bindings: Bindings
    dependencies: Dependencies
    log: Log
    pause: Callable[[float], None] = time.sleep

    def fetch(self, source: Source, target: Path) -> Path:
        """Writes the file to `target`, whole and verified or not at all; returns it.

        Raises NetworkError, NotFoundError when the server has no such file, FormatError when it has another
        one, InputError for a wrong setting, HostError when it cannot be written.
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
                why=f"{address.setting} leads there: {error.strerror}" if address.setting else "",
                fix=_fix_for(address),
            ) from error
        if found != checksum:
            raise _wrong_checksum_error(address, checksum, found)
        return _copy(path, target)

    def _transfer(self, address: Address, checksum: Checksum, size: int, part: Path) -> None:
        from packhorse.sdk.transfer import (  # TLS and HTTP take a while to import
            InterruptedTransfer,
            Transfer,
        )

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
            resumed = False  # put together of two different files, perhaps
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
        f"{address.display} is not the file that was asked for",
        why=f"its checksum is {found}, and not {wanted}",
        fix=f"see what {address.setting} leads to"
        if address.setting
        else "a proxy or the server altered it, or the buildpack states a wrong one",
    )


def _fix_for(address: Address) -> str:
    if address.setting:
        return f"check {address.setting}"
    return "check the network and HTTPS_PROXY, or name a mirror with BP_DEPENDENCY_MIRROR"
