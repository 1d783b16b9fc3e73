"""Downloads files by URL and keeps them, so that a build without a network finds them again.

`build.locators` downloads buildpacks with it. The pull policy says when a kept file is used: with ALWAYS only
if the server confirms its ETag, or does not answer. The digest of a kept file is checked before each use.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from packhorse.base.dataclass import dataclass
from packhorse.base.digest import Digest
from packhorse.base.progress import UNWATCHED, Meter
from packhorse.errors import FormatError, NetworkError, NotFoundError
from packhorse.host.locate import PullPolicy
from packhorse.http.client import Request, Response, host_of, redact
from packhorse.oci.files import OpenFile, map_errors, open_draft

if TYPE_CHECKING:
    from packhorse.http.client import Client

LIMIT = 4 << 30
"""The largest file, in bytes."""

_GONE = frozenset({404, 410})


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file that was downloaded, its digest, and the ETag that its server gave it."""

    path: Path
    digest: Digest
    etag: str


class Downloads:
    """The downloaded files in a directory. The name of each is the digest of its URL."""

    def __init__(self, client: Client, directory: Path, *, meter: Meter = UNWATCHED) -> None:
        self._client = client
        self._directory = directory
        self._meter = meter

    def fetch(self, url: str, *, pull: PullPolicy, say: Callable[[str], None]) -> KeptFile:
        """Returns the file of a URL, downloaded or kept.

        If the server does not answer, the kept file is used, and `say` reports it. Raises NotFoundError if
        the server does not have the file, NetworkError, StoreError.
        """
        kept = self._find(url)
        if kept is not None and pull is not PullPolicy.ALWAYS:
            return kept
        if pull is PullPolicy.NEVER:
            raise NotFoundError(
                f"{redact(url)} was not downloaded yet",
                why="its server is not asked: the pull policy is never",
                fix="leave out --pull-policy",
            )
        try:
            return self._download(url, kept, say)
        except NetworkError as error:
            if kept is None:
                raise
            say(f"{redact(url)}: using the file of an earlier build, as the download failed: {error.what}")
            return kept

    def _download(self, url: str, kept: KeptFile | None, say: Callable[[str], None]) -> KeptFile:
        headers = {"if-none-match": kept.etag} if kept is not None and kept.etag else {}
        with self._client.send(Request("GET", url, headers)) as response:
            if response.status == 304 and kept is not None:
                return kept
            if response.status in _GONE:
                raise NotFoundError(
                    f"{host_of(url)} has no {redact(url)}",
                    why=f"it answered {response.status}",
                    fix="check the address",
                )
            if response.status != 200:
                raise NetworkError(
                    f"{redact(url)} cannot be downloaded", why=f"{host_of(url)} answered {response.status}"
                )
            say(f"downloading {redact(url)}")
            return self._write(url, response)

    def _write(self, url: str, response: Response) -> KeptFile:
        path = self._path(url)
        with map_errors(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
        length = response.header("content-length")
        total = int(length) if length.isascii() and length.isdigit() and len(length) < 16 else 0
        hasher = hashlib.sha256()
        with (
            self._meter.task(f"downloading {redact(url)}", unit="B", total=total) as task,
            open_draft(self._directory) as draft,
        ):
            for chunk in _limit(task.count_bytes(response.chunks()), url):
                hasher.update(chunk)
                draft.file.write(chunk)
            draft.publish(path)
        kept = KeptFile(path, Digest(hasher.hexdigest()), response.header("etag"))
        with open_draft(self._directory) as draft:
            draft.file.write(json.dumps({"digest": str(kept.digest), "etag": kept.etag}).encode())
            draft.publish(_record(path))
        return kept

    def _path(self, url: str) -> Path:
        return self._directory / Digest.of(url.encode()).hex

    def _find(self, url: str) -> KeptFile | None:
        """The kept file of a URL; None if there is none, or a damaged one."""
        path = self._path(url)
        try:
            record = json.loads(_record(path).read_bytes())
            kept = KeptFile(path, Digest.parse(str(record["digest"])), str(record["etag"]))
            hasher = hashlib.sha256()
            for chunk in OpenFile.open(path).chunks():
                hasher.update(chunk)
        except (OSError, ValueError, KeyError, TypeError, FormatError, NotFoundError):
            return None
        return kept if hasher.hexdigest() == kept.digest.hex else None


def _record(path: Path) -> Path:
    return path.with_suffix(".json")


def _limit(chunks: Iterable[bytes], url: str) -> Iterator[bytes]:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > LIMIT:
            raise FormatError(f"{redact(url)} is too large", why=f"it has more than {LIMIT} bytes")
        yield chunk
