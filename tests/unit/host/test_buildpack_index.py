"""The index of a buildpack registry: a directory, or a git repository of which a copy is kept."""

from __future__ import annotations

import json
import os
import re
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fakes.certificates import self_signed
from packhorse.errors import (
    FormatError,
    HostError,
    InputError,
    NetworkError,
    NotFoundError,
    PackhorseError,
)
from packhorse.host.buildpack_index import BuildpackIndex, IndexEntry, index_path

ENVIRON = {"PATH": os.environ["PATH"]}


def image(number: int) -> str:
    return f"h.example/acme/bp@sha256:{str(number) * 64}"


def write(index: Path, path: str, *entries: tuple[str, str] | tuple[str, str, bool]) -> None:
    file = index / path
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"ns": "a", "name": "b", "version": version, "yanked": bool(rest), "addr": address})
        for version, address, *rest in entries
    ]
    file.write_text("".join(f"{line}\n" for line in lines))


def commit(index: Path) -> None:
    git = ["git", "-C", str(index), "-c", "user.name=x", "-c", "user.email=x@example.com"]
    if not (index / ".git").exists():
        subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "--all"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "x"], check=True)


def find(
    index: str | Path,
    cache: Path,
    identifier: str,
    version: str = "",
    *,
    offline: bool = False,
    environ: Mapping[str, str] = ENVIRON,
) -> tuple[IndexEntry, list[str]]:
    said: list[str] = []
    entry = BuildpackIndex(str(index), cache, environ).find(
        identifier, version, offline=offline, say=said.append
    )
    return entry, said


@pytest.mark.parametrize(
    ("identifier", "path"),
    [
        ("acme/n", "1/acme_n"),
        ("acme/go", "2/acme_go"),
        ("acme/npm", "3/np/acme_npm"),
        ("acme/node.js-x", "no/de/acme_node.js-x"),
    ],
)
def test_a_buildpack_has_a_file_by_the_length_of_its_name(identifier: str, path: str) -> None:
    assert index_path(identifier) == path


@pytest.mark.parametrize(
    "identifier", ["acme", "a/b/c", "A/b", "a/", "/b", "a/..", "a/....", "a/b@1", "a/b c"]
)
def test_what_is_no_name_of_a_registry_is_refused(identifier: str) -> None:
    with pytest.raises(InputError, match="is not the name of a buildpack in a registry"):
        index_path(identifier)


def test_without_a_version_the_highest_is_taken_that_is_not_yanked(tmp_path: Path) -> None:
    write(
        tmp_path,
        "no/de/acme_nodejs",
        ("1.9.0", image(1)),
        ("1.10.0", image(2)),
        ("1.10.0-rc.2", image(3)),
        ("1.10.0-rc.10", image(4)),
        ("2.0.0", image(5), True),
        ("odd", image(6)),
    )
    assert find(tmp_path, tmp_path, "acme/nodejs") == (IndexEntry("1.10.0", image(2)), [])
    assert find(tmp_path, tmp_path, "acme/nodejs", "1.9.0")[0].image == image(1)
    entry, said = find(tmp_path, tmp_path, "acme/nodejs", "2.0.0")
    assert entry.image == image(5)
    assert said == [f"acme/nodejs@2.0.0 is withdrawn: {tmp_path} marks it as yanked"]
    with pytest.raises(NotFoundError) as raised:
        find(tmp_path, tmp_path, "acme/nodejs", "3.0.0")
    assert raised.value.why == "it has the versions 1.9.0, 1.10.0, 1.10.0-rc.2, 1.10.0-rc.10, 2.0.0, odd"
    with pytest.raises(NotFoundError, match="has no buildpack acme/other") as raised:
        find(tmp_path, tmp_path, "acme/other")
    assert raised.value.why == "it has no file ot/he/acme_other"


def test_a_release_comes_after_its_previews(tmp_path: Path) -> None:
    order = ["1.0.0-1", "1.0.0-2", "1.0.0-10", "1.0.0-a", "1.0.0-a.1", "1.0.0-a.b", "1.0.0", "1.0.1-a"]
    for number in range(1, len(order) + 1):
        write(tmp_path, "1/a_b", *((version, image(1)) for version in reversed(order[:number])))
        assert find(tmp_path, tmp_path, "a/b")[0].version == order[number - 1]


def test_an_address_without_a_digest_is_refused(tmp_path: Path) -> None:
    for address in ("h.example/acme/bp:1", "", "Not An Image"):
        write(tmp_path, "1/a_b", ("1.0.0", address))
        with pytest.raises(FormatError, match=r"a/b@1\.0\.0 in .* cannot be used"):
            find(tmp_path, tmp_path, "a/b")
    (tmp_path / "1/a_b").write_text("{]")
    with pytest.raises(FormatError, match="is not JSON"):
        find(tmp_path, tmp_path, "a/b")


@pytest.mark.system
def test_a_git_repository_is_copied_and_asked_only_for_what_the_copy_lacks(tmp_path: Path) -> None:
    index, cache = tmp_path / "index", tmp_path / "cache"
    write(index, "1/a_b", ("1.0.0", image(1)))
    commit(index)
    url = index.as_uri()
    with pytest.raises(NotFoundError, match="there is no copy of the index"):
        find(url, cache, "a/b", offline=True)
    entry, said = find(url, cache, "a/b")
    assert entry.image == image(1) and said == [f"updating the index of buildpacks from {url}"]
    assert find(url, cache, "a/b", "1.0.0") == (entry, [])

    write(index, "1/a_b", ("1.0.0", image(1)), ("1.1.0", image(2)))
    commit(index)
    assert find(url, cache, "a/b", offline=True)[0].version == "1.0.0"
    assert find(url, cache, "a/b")[0].version == "1.1.0"

    shutil.rmtree(index)
    entry, said = find(url, cache, "a/b")
    assert entry.version == "1.1.0" and "using the copy of an earlier build" in said[1]
    with pytest.raises(NetworkError) as raised:
        find(f"{url}-elsewhere", cache, "a/b")
    assert raised.value.fix == "check PACKHORSE_BUILDPACK_REGISTRY, which is a directory or a git repository"


@contextmanager
def serve(directory: Path, tls: ssl.SSLContext) -> Iterator[str]:
    """Serves the files of a directory by HTTPS, without any program of git; gives the server's address."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(directory))) as server:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.system
def test_a_repository_of_plain_files_is_copied_from_a_server_whose_certificate_is_trusted(
    tmp_path: Path,
) -> None:
    index, files = tmp_path / "index", tmp_path / "files"
    write(index, "1/a_b", ("1.0.0", image(1)))
    commit(index)
    write(index, "1/a_b", ("1.0.0", image(1)), ("1.1.0", image(2)))
    commit(index)
    subprocess.run(["git", "clone", "--quiet", "--bare", index, files / "index.git"], check=True)
    subprocess.run(["git", "-C", files / "index.git", "update-server-info"], check=True)
    pair = self_signed(tmp_path, "own")
    with serve(files, pair.server()) as address:
        with pytest.raises(NetworkError, match="certificate"):
            find(f"{address}/index.git", tmp_path / "cache", "a/b")
        trusting = {**ENVIRON, "SSL_CERT_FILE": str(pair.certificate)}
        found = find(f"{address}/index.git", tmp_path / "cache", "a/b", environ=trusting)
        assert found[0].image == image(2)
        with pytest.raises(NetworkError, match="not found") as raised:
            find(f"{address}/other.git", tmp_path / "cache", "a/b", environ=trusting)
    assert raised.value.what == f"the index of buildpacks cannot be fetched from {address}/other.git"


@pytest.mark.system
def test_a_repository_needs_git_and_a_directory_does_not(tmp_path: Path) -> None:
    write(tmp_path / "index", "1/a_b", ("1.0.0", image(1)))
    without_git = {"PATH": str(tmp_path)}
    assert find(tmp_path / "index", tmp_path / "cache", "a/b", environ=without_git)[0].version == "1.0.0"
    with pytest.raises(HostError, match="git is missing") as raised:
        find(f"file://{tmp_path}/index", tmp_path / "cache", "a/b", environ=without_git)
    assert raised.value.why == f"PACKHORSE_BUILDPACK_REGISTRY names a git repository: file://{tmp_path}/index"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{]", "1/a_b:2 of .* is not JSON"),
        ("[]", "1/a_b:2 of .*"),
        ('{"version": 1, "addr": "x"}', "1/a_b:2 of .*version"),
        ('{"version": "1", "yanked": "no"}', "1/a_b:2 of .*yanked"),
        ("{}", "has no buildpack a/b@7"),
    ],
)
def test_an_entry_that_cannot_be_read_is_named_by_file_and_line(
    tmp_path: Path, line: str, expected: str
) -> None:
    write(tmp_path, "1/a_b", ("1.0.0", image(1)))
    with (tmp_path / "1/a_b").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(PackhorseError) as raised:
        find(tmp_path, tmp_path, "a/b", "7")
    assert re.search(expected, f"{raised.value.what} {raised.value.why}")


@pytest.mark.system
def test_a_password_in_the_address_of_an_index_is_not_printed(tmp_path: Path) -> None:
    with pytest.raises(NetworkError) as raised:
        find("https://me:s3cret@127.0.0.1:1/index", tmp_path, "a/b")
    assert "s3cret" not in f"{raised.value.what} {raised.value.why} {raised.value.fix}"
    assert "https://127.0.0.1:1/index" in raised.value.what
