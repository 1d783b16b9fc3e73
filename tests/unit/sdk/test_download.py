"""Downloads of a buildpack, from a real server that cuts, lies, redirects and refuses."""

from __future__ import annotations

import base64
import hashlib
import io
import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packhorse.base.log import Log
from packhorse.errors import FormatError, HostError, InputError, NetworkError, NotFoundError, PackhorseError
from packhorse.sdk import dependencies
from packhorse.sdk.bindings import Bindings
from packhorse.sdk.dependencies import Checksum, Dependencies
from packhorse.sdk.download import Downloads, Source
from packhorse.testing import file_server
from packhorse.testing.file_server import (
    FileServer,
    cut_off,
    hang_up,
    require_password,
    send_file,
    send_status,
)

DATA = random.Random(1).randbytes(1_000_003)
SHA256 = hashlib.sha256(DATA).hexdigest()
SHA512 = hashlib.sha512(DATA)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server.serve_files() as files:
        yield files


@dataclass
class Fetched:
    """A download that was tried: what it left, what was said, how long it would have waited."""

    env: dict[str, str] = field(default_factory=dict)
    bindings: Bindings = field(default_factory=lambda: Bindings(Path("/nowhere")))
    brought: Dependencies = field(default_factory=Dependencies)
    said: io.StringIO = field(default_factory=io.StringIO)
    pauses: list[float] = field(default_factory=list)

    def fetch(self, url: str, target: Path, *, checksum: str = SHA256, size: int = 0) -> bytes:
        log = Log(self.said, self.said)
        downloads = Downloads(self.env, self.bindings, self.brought, log, self.pauses.append)
        return downloads.fetch(Source(url, checksum, size), target).read_bytes()

    def refused(
        self, url: str, target: Path, kind: type[PackhorseError], *, checksum: str = SHA256, size: int = 0
    ) -> str:
        """The message; nothing may be left behind."""
        with pytest.raises(kind) as refused:
            self.fetch(url, target, checksum=checksum, size=size)
        assert list(target.parent.glob(f"{target.name}*")) == []
        return str(refused.value)


def test_a_file_is_fetched_whole_and_verified(server: FileServer, tmp_path: Path) -> None:
    server.answers["/a/x.tgz"] = [send_file(DATA)]
    assert Fetched().fetch(f"{server.url}/a/x.tgz", tmp_path / "x", size=len(DATA)) == DATA
    integrity = f"sha512-{base64.b64encode(SHA512.digest()).decode()}"
    for checksum in (integrity, f"sha1-xxxx {integrity}", f"sha512:{SHA512.hexdigest()}"):
        assert Fetched().fetch(f"{server.url}/a/x.tgz", tmp_path / "x", checksum=checksum) == DATA
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_broken_connection_goes_on_where_it_broke_off(server: FileServer, tmp_path: Path) -> None:
    server.answers["/x"] = [cut_off(DATA, 300_000), hang_up, cut_off(DATA, 700_000), send_file(DATA)]
    fetched = Fetched()
    assert fetched.fetch(f"{server.url}/x", tmp_path / "x") == DATA
    ranges = [asked.headers.get("Range", "") for asked in server.requests]
    assert ranges == ["", "bytes=300000-", "bytes=300000-", "bytes=700000-"]
    assert fetched.pauses == [1.0, 2.0, 1.0]
    assert "the connection broke off after 300000 of 1000003 bytes" in fetched.said.getvalue()


def test_a_file_that_changed_meanwhile_is_fetched_from_its_beginning(
    server: FileServer, tmp_path: Path
) -> None:
    server.answers["/x"] = [cut_off(bytes(len(DATA)), 300_000, etag='"old"'), send_file(DATA, etag='"new"')]
    assert Fetched().fetch(f"{server.url}/x", tmp_path / "x") == DATA
    # A server that says the same tag for two files is found out by the checksum.
    server.answers["/y"] = [cut_off(bytes(len(DATA)), 300_000), send_file(DATA)]
    assert Fetched().fetch(f"{server.url}/y", tmp_path / "y") == DATA


def test_without_a_tag_nothing_is_resumed(server: FileServer, tmp_path: Path) -> None:
    server.answers["/x"] = [cut_off(DATA, 300_000, etag=""), send_file(DATA, etag="")]
    assert Fetched().fetch(f"{server.url}/x", tmp_path / "x") == DATA
    assert "Range" not in server.requests[1].headers


def test_a_server_that_is_overloaded_is_asked_again_when_it_says(server: FileServer, tmp_path: Path) -> None:
    server.answers["/x"] = [
        send_status(500),
        send_status(429, Retry_After=7),
        send_status(503, Retry_After=99999),
        send_file(DATA),
    ]
    fetched = Fetched()
    assert fetched.fetch(f"{server.url}/x", tmp_path / "x") == DATA
    assert fetched.pauses == [1.0, 7.0, 30.0]


def test_a_server_that_never_answers_well_ends_the_download(server: FileServer, tmp_path: Path) -> None:
    server.answers["/x"] = [send_status(500)]
    server.answers["/y"] = [hang_up]
    said = Fetched().refused(f"{server.url}/x", tmp_path / "x", NetworkError)
    assert "HTTP status 500 Internal Server Error (tried 4 times)" in said and "BP_DEPENDENCY_MIRROR" in said
    assert "tried 4 times" in Fetched().refused(f"{server.url}/y", tmp_path / "y", NetworkError)
    assert len(server.requests) == 8


@pytest.mark.parametrize("length", [5, len(DATA) - 1, len(DATA) + 1])
def test_a_length_that_is_a_lie_is_found_out(server: FileServer, tmp_path: Path, length: int) -> None:
    server.answers["/x"] = [send_file(DATA, length=length, etag="")]
    kind = NetworkError if length > len(DATA) else FormatError
    Fetched().refused(f"{server.url}/x", tmp_path / "x", kind)
    assert f"it has {length} bytes, not {len(DATA)}" in Fetched().refused(
        f"{server.url}/x", tmp_path / "x", FormatError, size=len(DATA)
    )


def test_another_file_and_a_larger_one_are_refused(server: FileServer, tmp_path: Path) -> None:
    server.answers["/x"] = [send_file(b"something else")]
    said = Fetched().refused(f"{server.url}/x", tmp_path / "x", FormatError)
    assert f"not sha256:{SHA256}" in said and len(server.requests) == 1

    def endless(handler: file_server.Handler) -> None:
        handler.begin(200)
        handler.close_connection = True
        handler.wfile.write(DATA)

    server.answers["/y"] = [endless]
    assert "over 1000 bytes" in Fetched().refused(f"{server.url}/y", tmp_path / "y", FormatError, size=1000)


def test_redirects_are_followed_without_the_password(server: FileServer, tmp_path: Path) -> None:
    server.answers["/x"] = [send_status(302, Location="/moved")]
    server.answers["/moved"] = [send_file(DATA)]
    url = server.url.replace("//", "//me:s3cr3t@")
    fetched = Fetched()
    assert fetched.fetch(f"{url}/x", tmp_path / "x") == DATA
    assert "Authorization" in server.requests[0].headers and "Authorization" not in server.requests[1].headers
    assert "s3cr3t" not in fetched.said.getvalue()
    (tmp_path / "x").unlink()
    server.answers["/loop"] = [send_status(302, Location="/loop")]
    Fetched().refused(f"{server.url}/loop", tmp_path / "x", NetworkError)
    server.answers["/out"] = [send_status(302, Location="file:///etc/passwd")]
    assert "'file:///etc/passwd' is not allowed" in Fetched().refused(
        f"{server.url}/out", tmp_path / "x", NetworkError
    )


def test_what_is_refused_is_said_without_secrets(server: FileServer, tmp_path: Path) -> None:
    server.answers["/x"] = [require_password("me", "s3cr3t", send_file(DATA))]
    server.answers["/forbidden"] = [send_status(403)]
    assert Fetched().fetch(f"{server.url.replace('//', '//me:s3cr3t@')}/x", tmp_path / "x") == DATA
    (tmp_path / "x").unlink()
    wrong = f"{server.url.replace('//', '//me:wr0ng@')}/x?token=s3cr3t"
    said = Fetched().refused(wrong, tmp_path / "x", NotFoundError)
    assert "wr0ng" not in said and "s3cr3t" not in said
    for path in ("/x", "/forbidden"):
        said = Fetched().refused(f"{server.url}{path}", tmp_path / "x", NetworkError)
        assert "user and password" in said
    assert "HTTP status 404" in Fetched().refused(f"{server.url}/none", tmp_path / "x", NotFoundError)


def test_a_mirror_takes_the_place_of_a_host(server: FileServer, tmp_path: Path) -> None:
    server.answers["/m/files.example.com/a/x"] = [send_file(DATA)]
    server.answers["/other/a/x"] = [send_file(DATA)]
    env = {
        "BP_DEPENDENCY_MIRROR": f"{server.url}/m/{{originalHost}}",
        "BP_DEPENDENCY_MIRROR_MY__FILES_EXAMPLE_ORG": f"{server.url}/other/",
    }
    fetched = Fetched(env)
    assert fetched.fetch("https://files.example.com/a/x", tmp_path / "x") == DATA
    assert fetched.fetch("https://my-files.example.org/a/x", tmp_path / "x") == DATA
    assert [asked.path for asked in server.requests] == ["/m/files.example.com/a/x", "/other/a/x"]
    assert "(by BP_DEPENDENCY_MIRROR_MY__FILES_EXAMPLE_ORG)" in fetched.said.getvalue()
    (tmp_path / "x").unlink()
    said = fetched.refused("https://files.example.com/b", tmp_path / "x", NotFoundError)
    assert "(BP_DEPENDENCY_MIRROR names it)" in said


def test_a_mirror_that_is_a_directory_needs_no_network(tmp_path: Path) -> None:
    mirror = tmp_path / "my mirror"
    (mirror / "files.example.com/a").mkdir(parents=True)
    (mirror / "files.example.com/a/x").write_bytes(DATA)
    env = {"BP_DEPENDENCY_MIRROR": f"{mirror.as_uri()}/{{originalHost}}"}
    assert Fetched(env).fetch("https://files.example.com/a/x", tmp_path / "x") == DATA
    (tmp_path / "x").unlink()
    said = Fetched(env).refused("https://files.example.com/b", tmp_path / "x", NotFoundError)
    assert f"there is no {mirror}/files.example.com/b" in said and "BP_DEPENDENCY_MIRROR" in said
    said = Fetched(env).refused(
        "https://files.example.com/a/x", tmp_path / "x", FormatError, checksum="0" * 64
    )
    assert "check BP_DEPENDENCY_MIRROR" in said


@pytest.mark.parametrize("mirror", ["ftp://x/y", "nonsense", "http://[::1", "//x"])
def test_a_mirror_that_is_none_is_said(tmp_path: Path, mirror: str) -> None:
    said = Fetched({"BP_DEPENDENCY_MIRROR": mirror}).refused("https://a.test/x", tmp_path / "x", InputError)
    assert "BP_DEPENDENCY_MIRROR is no mirror" in said


def test_bindings_name_mirrors_and_single_files(server: FileServer, tmp_path: Path) -> None:
    server.answers["/mapped"] = [send_file(DATA)]
    server.answers["/default/a/x"] = [send_file(DATA)]
    server.answers["/special/a/x"] = [send_file(DATA)]
    entries = {
        "mapping": {"type": "dependency-mapping", SHA256: f"{server.url}/mapped\n"},
        "mirror": {
            "type": "Dependency-Mirror",
            "default": f"{server.url}/default",
            "files.test": f"{server.url}/special",
        },
    }
    for name, files in entries.items():
        (tmp_path / "bindings" / name).mkdir(parents=True)
        for file, text in files.items():
            (tmp_path / "bindings" / name / file).write_text(text)
    fetched = Fetched(bindings=Bindings.read(tmp_path / "bindings"))
    fetched.fetch("https://a.test/a/x", tmp_path / "x")
    for host in ("a.test", "files.test"):
        fetched.fetch(f"https://{host}/a/x", tmp_path / "x", checksum=f"sha512:{SHA512.hexdigest()}")
    assert [asked.path for asked in server.requests] == ["/mapped", "/default/a/x", "/special/a/x"]


def test_proxies_of_the_build_are_used_but_for_their_exceptions(server: FileServer, tmp_path: Path) -> None:
    server.answers["http://files.test/x"] = [send_file(DATA)]
    server.answers["/x"] = [send_file(DATA)]
    env = {"http_proxy": server.url, "NO_PROXY": "127.0.0.1"}
    assert Fetched(env).fetch("http://files.test/x", tmp_path / "x") == DATA
    assert Fetched(env).fetch(f"{server.url}/x", tmp_path / "x") == DATA
    assert [asked.path for asked in server.requests] == ["http://files.test/x", "/x"]


def test_a_file_of_certificates_that_is_missing_is_said(tmp_path: Path) -> None:
    env = {"SSL_CERT_FILE": "/nowhere.pem"}
    said = Fetched(env).refused("https://127.0.0.1:1/x", tmp_path / "x", HostError)
    assert "/nowhere.pem: No such file" in said


@pytest.mark.system
def test_certificates_are_checked_by_the_builds_authorities(tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    made = [
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-days", "2"),
        *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate),
    ]
    subprocess.run(made, check=True, capture_output=True)
    (tmp_path / "bindings/corp").mkdir(parents=True)
    (tmp_path / "bindings/corp/type").write_text("ca-certificates")
    (tmp_path / "bindings/corp/ca.pem").write_bytes(certificate.read_bytes())
    with file_server.serve_files(certificate, key) as server:
        server.answers["/x"] = [send_file(DATA)]
        server.answers["/away"] = [send_status(302, Location="http://127.0.0.1:1/x")]
        said = Fetched().refused(f"{server.url}/x", tmp_path / "x", NetworkError)
        assert "the certificate of 127.0.0.1 is not trusted" in said and "SSL_CERT_FILE" in said
        trusting = Fetched({"SSL_CERT_FILE": str(certificate)})
        assert trusting.fetch(f"{server.url}/x", tmp_path / "y") == DATA
        bound = Fetched(bindings=Bindings.read(tmp_path / "bindings"))
        assert bound.fetch(f"{server.url}/x", tmp_path / "y") == DATA
        said = trusting.refused(f"{server.url}/away", tmp_path / "x", NetworkError)
        assert "redirects to http://127.0.0.1:1/x, which is less secure" in said


def test_what_the_buildpack_brings_along_is_not_asked_for_anywhere(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    dependencies.write_dependencies(tmp_path / "dependencies", [("tool", "1.2", tmp_path / "file")])
    brought = Dependencies.read(tmp_path / "none", tmp_path / "dependencies")
    assert brought.versions("tool") == ("1.2",) and brought.versions("other") == ()
    assert brought.find("tool", "1.2", integrity=f"sha512:{SHA512.hexdigest()}") is not None
    assert brought.find("tool", "1.2", integrity="0" * 64) is None and brought.find("tool", "1.3") is None
    assert Fetched(brought=brought).fetch("https://nowhere.test/x", tmp_path / "x") == DATA
    (tmp_path / "dependencies" / SHA256).write_bytes(b"altered")
    (tmp_path / "x").unlink()
    said = Fetched(brought=brought).refused("https://nowhere.test/x", tmp_path / "x", FormatError)
    assert "is not the file in the index" in said


def test_more_files_are_added_to_those_that_are_there(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
        dependencies.write_dependencies(tmp_path / "dependencies", [(name, "1", tmp_path / name)])
    assert {each.name for each in Dependencies.read(tmp_path / "dependencies").all} == {"a", "b"}
    with pytest.raises(InputError, match="cannot be copied"):
        dependencies.write_dependencies(tmp_path / "dependencies", [("c", "1", tmp_path / "c")])


@pytest.mark.parametrize(
    "text", ["", "dependencies = 3", "[[dependencies]]\nname = 1", "\0", "[[dependencies]]"]
)
def test_a_broken_index_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "dependencies.toml").write_text(text)
    with pytest.raises(FormatError, match=r"dependencies\.toml"):
        Dependencies.read(tmp_path)


@settings(deadline=None)
@given(st.text() | st.from_regex(r"\A(sha(1|256|512)[-:_])?[0-9a-fA-F+/=]{0,130}\Z"))
def test_any_text_is_a_checksum_or_refused(text: str) -> None:
    try:
        found = Checksum.parse(text)
    except FormatError:
        return
    assert Checksum.parse(str(found)) == found


@settings(deadline=None)
@given(st.binary())
def test_a_checksum_is_the_same_in_every_spelling(data: bytes) -> None:
    for name in ("sha256", "sha384", "sha512"):
        total = hashlib.new(name, data)
        wanted = Checksum(name, total.hexdigest())
        for text in (
            total.hexdigest().upper(),
            f"{name}:{total.hexdigest()}",
            f"{name}-{base64.b64encode(total.digest()).decode()}?x",
        ):
            assert Checksum.parse(text) == wanted
