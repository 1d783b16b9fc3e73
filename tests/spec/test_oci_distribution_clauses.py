"""Clauses of the OCI distribution specification that bind a client, by what a registry sees of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import pairwise
from urllib.parse import parse_qs, urlsplit

import pytest

from fakes.artifact import EMPTY, SBOM, artifact
from fakes.registry_faults import ALWAYS
from packhorse.base.digest import Digest
from packhorse.errors import NetworkError, NotFoundError
from packhorse.http.client import Client
from packhorse.http.transport import PooledTransport, Settings
from packhorse.oci.registry.client import Registry
from packhorse.oci.registry.listing import list_referrers, put_referrer, remove, tags
from packhorse.oci.registry.push import push_blob, put_manifest, start_upload
from packhorse.oci.types import INDEXES, MANIFESTS, Descriptor, Manifest, MediaType
from packhorse.testing import FakeRegistry, Fault

DATA = hashlib.shake_256(b"blob").digest(2_500_000)
BLOB = Descriptor(MediaType.OCI_LAYER_GZIP, Digest.of(DATA), len(DATA))
MANIFEST = Manifest.of(EMPTY, [BLOB])
UPLOADS = "/v2/app/blobs/uploads/"


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    with FakeRegistry() as server:
        yield server


@pytest.fixture
def warned() -> list[str]:
    return []


@pytest.fixture
def registry(server: FakeRegistry, warned: list[str]) -> Registry:
    http = Client(PooledTransport(Settings()), sleep=lambda _: None)
    return Registry(server.host, http, tell=warned.append)


def there(server: FakeRegistry) -> None:
    server.put_blob("app", DATA)
    server.put_blob("app", b"{}")
    server.put_manifest("app", "1", MANIFEST.raw, MANIFEST.media_type)


def in_chunks(server: FakeRegistry, registry: Registry) -> None:
    """Uploads the blob to where more than a mebibyte at once is too much."""
    server.faults.append(Fault("PUT", UPLOADS, ALWAYS, 413, min_body=(1 << 20) + 1))
    server.faults.append(Fault("PATCH", UPLOADS, ALWAYS, 413, min_body=(1 << 20) + 1))
    push_blob(registry, "app", BLOB, lambda: iter([DATA]))
    assert server.blobs["app"][str(BLOB.digest)] == DATA


def test_o_002_every_media_type_that_is_understood_is_asked_for(
    server: FakeRegistry, registry: Registry
) -> None:
    there(server)
    registry.manifest("app", "1")
    registry.resolve("app", "1")
    for seen in (*server.find_requests("GET", "/manifests/"), *server.find_requests("HEAD", "/manifests/")):
        assert set(seen.headers["accept"].split(", ")) == MANIFESTS | INDEXES


def test_o_003_parameters_of_a_media_type_are_ignored(server: FakeRegistry, registry: Registry) -> None:
    there(server)
    told = f"{MANIFEST.media_type}; charset=utf-8"
    server.faults.append(Fault(path="/manifests/", headers={"content-type": told}))
    assert registry.manifest("app", "1") == MANIFEST


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_o_009_what_is_somewhere_else_is_read_there(
    server: FakeRegistry, registry: Registry, status: int
) -> None:
    with FakeRegistry() as elsewhere:
        there(elsewhere)
        to = f"{elsewhere.url}/v2/app/blobs/{BLOB.digest}"
        server.faults.append(Fault(path="/blobs/", status=status, headers={"location": to}))
        assert b"".join(registry.blob("app", BLOB)) == DATA


def test_o_012_and_o_013_a_blob_is_one_post_without_a_body_and_one_put(
    server: FakeRegistry, registry: Registry
) -> None:
    push_blob(registry, "app", BLOB, lambda: iter([DATA]))
    (post,), (put,) = server.find_requests("POST"), server.find_requests("PUT")
    assert (post.path, post.headers["content-length"]) == (UPLOADS, "0")
    assert parse_qs(urlsplit(put.path).query) == {"state": ["1"], "digest": [str(BLOB.digest)]}
    assert put.headers["content-length"] == str(len(DATA))
    assert put.headers["content-type"] == "application/octet-stream"
    assert "content-range" not in put.headers and "transfer-encoding" not in put.headers


def test_o_014_and_o_015_and_o_017_chunks_come_in_order_and_the_session_is_closed(
    server: FakeRegistry, registry: Registry
) -> None:
    in_chunks(server, registry)
    sent = [seen for seen in server.find_requests("PATCH") if int(seen.headers["content-length"]) <= 1 << 20]
    ranges = [tuple(map(int, seen.headers["content-range"].split("-"))) for seen in sent]
    assert len(ranges) == 2 and ranges[0][0] == 0
    for (seen, (first, last)), following in zip(
        zip(sent, ranges, strict=True), [*ranges[1:], None], strict=True
    ):
        assert seen.headers["content-length"] == str(last - first + 1)
        assert seen.headers["content-type"] == "application/octet-stream"
        assert following is None or following[0] == last + 1
    closing = server.find_requests("PUT")[-1]
    assert parse_qs(urlsplit(closing.path).query)["digest"] == [str(BLOB.digest)]
    assert closing.headers["content-range"] == f"{ranges[-1][1] + 1}-{len(DATA) - 1}"
    addresses = [urlsplit(seen.path).query.partition("&")[0] for seen in (*sent, closing)]
    assert addresses[1:] == ["state=2"] * 2, "each where the answer before said"


def test_o_018_what_is_out_of_order_goes_on_where_the_registry_is(
    server: FakeRegistry, registry: Registry
) -> None:
    server.faults.append(Fault("PATCH", UPLOADS, 1, 416, skip=1))
    in_chunks(server, registry)
    methods = [seen.method for seen in server.requests]
    assert methods == ["HEAD", "POST", "PUT", "GET", "PATCH", "PATCH", "GET", "PATCH", "PUT"]
    refused, again = server.find_requests("PATCH")[1:]
    assert refused.headers["content-range"] == again.headers["content-range"]


def test_o_019_a_registry_that_cancels_nothing_is_no_error(server: FakeRegistry, registry: Registry) -> None:
    server.faults.append(Fault("DELETE", UPLOADS, ALWAYS, 405))
    start_upload(registry, "app").abandon()
    assert server.find_requests("DELETE", UPLOADS)


def test_o_021_a_manifest_is_put_as_what_it_says_of_itself(server: FakeRegistry, registry: Registry) -> None:
    there(server)
    put_manifest(registry, "app", "2", MANIFEST)
    (put,) = server.find_requests("PUT")
    assert put.headers["content-type"] == json.loads(MANIFEST.raw)["mediaType"]


def test_o_026_and_o_027_the_list_under_the_referrers_tag_says_what_a_registry_would(
    server: FakeRegistry, registry: Registry
) -> None:
    there(server)
    server.has_referrers = False
    subject = MANIFEST.descriptor
    fields = json.loads(artifact(subject, SBOM).raw) | {"annotations": {"a": "1", "b": "2"}}
    del fields["artifactType"]
    plain = Manifest.parse(json.dumps(fields).encode(), MediaType.OCI_MANIFEST)
    for document in (artifact(subject, SBOM), plain):
        put_referrer(registry, "app", document, subject=subject.digest)
    _, raw = server.manifests["app", f"sha256-{subject.digest.hex}"]
    entries = json.loads(raw)["manifests"]
    assert [entry["artifactType"] for entry in entries] == [SBOM, EMPTY.media_type]
    assert entries[1]["annotations"] == {"a": "1", "b": "2"}
    assert [entry["size"] for entry in entries][1] == len(plain.raw)


def test_o_028_link_is_followed_though_a_page_is_short(server: FakeRegistry, registry: Registry) -> None:
    names = [f"v{number}" for number in range(7)]
    for name in names:
        server.put_manifest("app", name, MANIFEST.raw, MANIFEST.media_type)
    server.page = 3
    assert list(tags(registry, "app")) == names
    asked = [parse_qs(urlsplit(seen.path).query) for seen in server.find_requests("GET", "/tags/")]
    assert [query.get("last") for query in asked] == [None, ["v2"], ["v5"]]


def test_o_031_a_registry_without_referrers_is_asked_for_the_tag(
    server: FakeRegistry, registry: Registry
) -> None:
    server.has_referrers = False
    assert list_referrers(registry, "app", BLOB.digest) == ()
    assert [seen.path.partition("/v2/app/")[2] for seen in server.find_requests("GET")] == [
        f"referrers/{BLOB.digest}",
        f"manifests/sha256-{BLOB.digest.hex}",
    ]


@pytest.mark.parametrize(
    ("status", "error"), [(404, NotFoundError), (400, NetworkError), (405, NetworkError)]
)
def test_o_033_what_is_not_there_and_what_is_not_deleted_are_two_things(
    server: FakeRegistry, registry: Registry, status: int, error: type[Exception]
) -> None:
    there(server)
    server.faults.append(Fault("DELETE", "/manifests/", 1, status))
    with pytest.raises(error) as caught:
        remove(registry, "app", str(MANIFEST.digest))
    assert type(caught.value) is not NetworkError
    assert ("does not allow removal" in str(caught.value)) == (status != 404)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (
            b'{"errors": [{"code": "NEW", "message": "some", "detail": [1, {}]}]}',
            "some (NEW)",
        ),
        (b'{"errors": [{"code": "DENIED"}, {"code": "B", "message": "b"}]}', "(DENIED); b (B)"),
        (b"just words", "just words"),
        (b"\xff\x00{", "{"),
        (b"", "400"),
    ],
)
def test_o_035_errors_are_read_whatever_they_are(
    server: FakeRegistry, registry: Registry, body: bytes, why: str
) -> None:
    server.faults.append(Fault(path="/manifests/", status=400, body=body))
    with pytest.raises(NetworkError) as caught:
        registry.manifest("app", "1")
    assert why in caught.value.why


def test_o_036_warnings_are_told_once_and_change_nothing(
    server: FakeRegistry, registry: Registry, warned: list[str]
) -> None:
    there(server)
    header = '299 - "The \\"free\\" tier, as it is, ends.", 299 - "\x1b[31mRed", 199 old "of a cache"'
    server.faults.append(Fault(path="/v2/", headers={"warning": header}, times=ALWAYS))
    for _ in range(2):
        assert registry.manifest("app", "1") == MANIFEST
    assert warned == [
        f'{server.host} warns: The "free" tier, as it is, ends.',
        f"{server.host} warns: [31mRed",
    ]


@pytest.mark.parametrize("header", ["", "nonsense", '299 - "no end', "299", '299 - "' + "x" * 5000 + '"'])
def test_o_036_what_is_no_warning_is_passed_over(
    server: FakeRegistry, registry: Registry, warned: list[str], header: str
) -> None:
    there(server)
    server.faults.append(Fault(path="/v2/", headers={"warning": header}, times=ALWAYS))
    assert registry.manifest("app", "1") == MANIFEST
    assert warned == []


def test_o_036_no_registry_warns_without_end(
    server: FakeRegistry, registry: Registry, warned: list[str]
) -> None:
    there(server)
    for number in range(40):
        server.faults[:] = [Fault(path="/v2/", headers={"warning": f'299 - "{number}"'})]
        registry.manifest("app", "1")
    assert len(warned) == 16 and all(one != two for one, two in pairwise(warned))
