"""Files that are downloaded by URL are kept, and found again without their server."""

from __future__ import annotations

from pathlib import Path

import pytest

from packhorse.errors import NetworkError, NotFoundError
from packhorse.host.downloads import Downloads
from packhorse.host.locate import PullPolicy
from packhorse.http.client import Client
from packhorse.http.transport import PooledTransport, Settings
from packhorse.testing.file_server import FileServer, Handler, cut_off, send_file, send_status, serve_files


def fetch(
    files: FileServer, directory: Path, pull: PullPolicy = PullPolicy.ALWAYS
) -> tuple[bytes, list[str]]:
    said: list[str] = []
    downloads = Downloads(make_client(), directory)
    kept = downloads.fetch(f"{files.url}/bp.tgz?token=s3cret", pull=pull, say=said.append)
    return kept.path.read_bytes(), said


def make_client() -> Client:
    return Client(PooledTransport(Settings()), sleep=lambda seconds: None)


def not_modified(handler: Handler) -> None:
    send_status(304 if handler.headers.get("If-None-Match") == '"1"' else 500)(handler)


PATH = "/bp.tgz?token=s3cret"


def test_a_server_is_asked_whether_it_has_another_file(tmp_path: Path) -> None:
    with serve_files() as files:
        files.answers[PATH] = [send_file(b"one"), not_modified, send_file(b"two", etag='"2"')]
        assert fetch(files, tmp_path) == (b"one", [f"downloading {files.url}/bp.tgz"])
        assert fetch(files, tmp_path) == (b"one", [])
        assert fetch(files, tmp_path)[0] == b"two"
        assert len(files.requests) == 3


def test_a_kept_file_is_used_as_the_pull_policy_says_and_without_its_server(tmp_path: Path) -> None:
    with serve_files() as files:
        with pytest.raises(NotFoundError, match="was not downloaded yet"):
            fetch(files, tmp_path, PullPolicy.NEVER)
        files.answers[PATH] = [send_file(b"one")]
        fetch(files, tmp_path)
        for pull in (PullPolicy.NEVER, PullPolicy.IF_NOT_PRESENT):
            assert fetch(files, tmp_path, pull) == (b"one", [])
        assert len(files.requests) == 1
        files.answers[PATH] = [send_status(403)]
        content, said = fetch(files, tmp_path)
        assert content == b"one" and "using the file of an earlier build" in said[0]
        assert "s3cret" not in said[0]
    content, said = fetch(files, tmp_path)  # nothing listens there any more
    assert content == b"one" and "using the file of an earlier build" in said[0]


def test_a_damaged_file_is_downloaded_again(tmp_path: Path) -> None:
    with serve_files() as files:
        files.answers[PATH] = [send_file(b"one")]
        fetch(files, tmp_path)
        [path] = [each for each in tmp_path.iterdir() if not each.suffix]
        path.write_bytes(b"bad")
        assert fetch(files, tmp_path)[0] == b"one"
        path.write_bytes(b"bad")
        with pytest.raises(NotFoundError):
            fetch(files, tmp_path, PullPolicy.NEVER)


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (send_status(404), NotFoundError, "has no http"),
        (send_status(410), NotFoundError, "has no http"),
        (send_status(403), NetworkError, "answered 403"),
        (cut_off(b"x" * 1000, 10), NetworkError, "127.0.0.1"),
    ],
)
def test_what_a_server_does_not_give_is_an_error_and_leaves_nothing(
    answer: object, error: type[Exception], says: str, tmp_path: Path
) -> None:
    with serve_files() as files:
        files.answers[PATH] = [answer]  # type: ignore[list-item]
        with pytest.raises(error, match=says) as raised:
            fetch(files, tmp_path)
        assert "s3cret" not in str(raised.value)
    assert not list(tmp_path.iterdir())
