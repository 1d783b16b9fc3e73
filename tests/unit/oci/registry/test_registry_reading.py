"""Reading from a registry that behaves, and from one that does not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from packhorse.base.digest import Digest
from packhorse.errors import FormatError, InputError, NetworkError, NotFoundError, RegistryError
from packhorse.http.client import ATTEMPTS, BrokenConnection, Client
from packhorse.http.transport import PooledTransport, Settings
from packhorse.oci.auth import ANONYMOUS, Credentials, constant_lookup
from packhorse.oci.registry.client import RETRIES, Registry, pull_scope
from packhorse.oci.types import Descriptor, Index, Manifest, MediaType
from packhorse.testing import FakeRegistry, Fault

DATA = hashlib.shake_256(b"blob").digest(3_000_000)
MANIFEST = Manifest.of(
    Descriptor(MediaType.OCI_CONFIG, Digest.of(b"{}"), 2),
    [Descriptor(MediaType.OCI_LAYER_GZIP, Digest.of(DATA), len(DATA))],
)
BLOB = MANIFEST.layers[0]


def seed(server: FakeRegistry) -> None:
    server.put_blob("app", DATA)
    server.put_manifest("app", "latest", MANIFEST.raw, MANIFEST.media_type)


def client_of(server: FakeRegistry, credentials: Credentials | None = None) -> Registry:
    http = Client(PooledTransport(Settings()), sleep=lambda _: None)
    return Registry(server.host, http, credentials=constant_lookup(credentials or ANONYMOUS))


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    with FakeRegistry() as server:
        seed(server)
        yield server


@pytest.fixture
def registry(server: FakeRegistry) -> Registry:
    return client_of(server)


@pytest.mark.parametrize("identifier", ["latest", str(MANIFEST.digest)])
def test_a_manifest_keeps_the_bytes_that_came(registry, identifier):
    assert registry.manifest("app", identifier) == MANIFEST


def test_a_manifest_without_a_useful_content_type_is_read_by_what_it_says_of_itself(server, registry):
    index = Index.of([MANIFEST.descriptor])
    server.put_manifest("app", "index", index.raw, "application/json; charset=utf-8")
    assert registry.manifest("app", "index") == index


def test_a_manifest_whose_content_type_contradicts_it_is_refused(server, registry):
    server.put_manifest("app", "latest", MANIFEST.raw, MediaType.DOCKER_MANIFEST)
    with pytest.raises(FormatError):
        registry.manifest("app", "latest")


def test_a_manifest_of_schema_1_is_refused(server, registry):
    kind = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    server.put_manifest("app", "old", b'{"schemaVersion": 1}', kind)
    with pytest.raises(FormatError, match="only 2"):
        registry.manifest("app", "old")


def test_a_manifest_that_is_not_there_is_not_found(registry):
    with pytest.raises(NotFoundError) as caught:
        registry.manifest("app", "v2")
    assert caught.value.what == f"could not read {registry.host}/app:v2"
    assert "MANIFEST_UNKNOWN" in caught.value.why


def test_a_manifest_that_is_another_than_its_digest_says_is_refused(server, registry):
    other = Digest.of(b"other")
    server.manifests["app", str(other)] = MANIFEST.media_type, MANIFEST.raw
    with pytest.raises(FormatError, match="has the wrong digest"):
        registry.manifest("app", str(other))


def test_a_manifest_that_changed_on_its_way_is_refused(server, registry):
    server.faults.append(Fault(path="manifests", headers={"docker-content-digest": str(Digest.of(b"x"))}))
    with pytest.raises(FormatError, match="has the wrong digest"):
        registry.manifest("app", "latest")


def test_a_manifest_without_end_is_not_read_to_its_end(server, registry):
    server.faults.append(Fault(path="manifests", body=b" " * (5 << 20)))
    with pytest.raises(NetworkError, match="too large"):
        registry.manifest("app", "latest")


def test_looking_up_a_name_reads_no_manifest(server, registry):
    assert registry.resolve("app", "latest") == MANIFEST.descriptor
    assert [seen.method for seen in server.requests] == ["HEAD"]


def test_looking_up_what_is_not_there_gives_none(registry):
    assert registry.resolve("app", "v2") is None
    assert registry.resolve("nobody", "latest") is None


def test_a_registry_that_cannot_look_up_is_read_instead(server, registry):
    server.faults.append(Fault(method="HEAD", path="manifests", status=405))
    assert registry.resolve("app", "latest") == MANIFEST.descriptor


def test_a_registry_that_does_not_say_the_digest_is_read_instead(server, registry):
    server.faults.append(Fault(method="HEAD", path="manifests", headers={"docker-content-digest": ""}))
    assert registry.resolve("app", "latest") == MANIFEST.descriptor


def test_looking_up_a_digest_is_not_answered_by_another(server, registry):
    server.faults.append(
        Fault(method="HEAD", path="manifests", headers={"docker-content-digest": str(Digest.of(b"x"))})
    )
    with pytest.raises(FormatError):
        registry.resolve("app", str(MANIFEST.digest))


def test_an_answer_that_is_no_success_says_what_the_registry_said(server, registry):
    said = b'{"errors": [{"code": "DENIED", "message": "not for you"}]}'
    server.faults.append(Fault(path="manifests", status=403, body=said))
    with pytest.raises(RegistryError) as caught:
        registry.manifest("app", "latest")
    assert caught.value.status == 403
    assert "not for you (DENIED)" in caught.value.why
    assert f"packhorse login {registry.host}" in caught.value.fix


def test_what_a_registry_repeats_of_a_token_is_not_shown():
    with FakeRegistry(users={"me": "secret"}) as server:
        said = b"token1 is not good for secret, bWU6c2VjcmV0"
        server.faults.append(Fault(path="manifests", status=403, body=said, needs_credentials=True))
        with pytest.raises(RegistryError) as caught:
            client_of(server, Credentials("me", "secret")).manifest("app", "latest")
    assert "… is not good for …, …" in caught.value.why


@pytest.mark.parametrize("to", ["http://me:secret@:0/a?secret", "http://me:secret@a.invalid:0/?secret"])
def test_an_address_that_leads_nowhere_is_shown_without_what_is_secret_in_it(server, registry, to):
    server.faults.append(Fault(path="manifests", status=307, headers={"location": to}))
    with pytest.raises(NetworkError) as caught:
        registry.manifest("app", "latest")
    assert "secret" not in str(caught.value) + caught.value.why


def test_a_limit_of_requests_is_waited_for_and_then_reported(server, registry):
    server.faults.append(Fault(path="manifests", status=429, headers={"retry-after": "0"}))
    assert registry.manifest("app", "latest") == MANIFEST
    server.faults.append(Fault(path="manifests", status=429, headers={"retry-after": "3600"}))
    with pytest.raises(RegistryError) as caught:
        registry.manifest("app", "latest")
    assert "3600 seconds" in caught.value.fix


def test_a_registry_that_fails_once_is_asked_again(server, registry):
    server.faults.append(Fault(path="manifests", status=500))
    server.faults.append(Fault(path="manifests", hang_up=True))
    assert registry.manifest("app", "latest") == MANIFEST


def test_a_registry_that_always_fails_is_reported(server, registry):
    server.faults.append(
        Fault(
            path="manifests",
            status=500,
            times=ATTEMPTS,
            body=b"<html>",
            headers={"content-type": "text/html"},
        )
    )
    with pytest.raises(RegistryError) as caught:
        registry.manifest("app", "latest")
    assert "<html>" not in str(caught.value)
    assert caught.value.fix == "try again later"


def test_a_blob_comes_whole(registry):
    assert b"".join(registry.blob("app", BLOB)) == DATA


def test_no_chunk_of_a_blob_is_larger_than_a_mebibyte(registry):
    assert max(map(len, registry.blob("app", BLOB))) <= 1 << 20


def test_a_blob_is_taken_up_where_it_broke_off(server, registry):
    server.faults += [Fault(path="blobs", cut_response=1_000_000), Fault(path="blobs", cut_response=700_000)]
    assert b"".join(registry.blob("app", BLOB)) == DATA
    offsets = [int(seen.headers["range"][6:-1]) for seen in server.find_requests("GET", "blobs")[1:]]
    assert len(offsets) == 2
    assert 0 < offsets[0] <= 1_000_000 < offsets[1] <= 1_700_000


def test_a_blob_is_taken_up_from_a_registry_that_knows_no_ranges(server, registry):
    server.accepts_ranges = False
    server.faults.append(Fault(path="blobs", cut_response=1_000_000))
    assert b"".join(registry.blob("app", BLOB)) == DATA


def test_a_long_blob_may_break_off_often_as_long_as_it_goes_on(server, registry):
    data = DATA * 5
    digest = Digest.parse(server.put_blob("app", data))
    server.faults.append(Fault(path="blobs", cut_response=2_000_000, times=RETRIES + 2))
    long = Descriptor(MediaType.OCI_LAYER, digest, len(data))
    assert b"".join(registry.blob("app", long)) == data
    assert len(server.find_requests("GET", "blobs")) == RETRIES + 3


def test_a_blob_that_always_breaks_off_is_an_error_in_the_end(server, registry):
    server.faults.append(Fault(path="blobs", cut_response=10, times=1000))
    with pytest.raises(BrokenConnection):
        list(registry.blob("app", BLOB))
    assert len(server.find_requests("GET", "blobs")) == RETRIES + 1


def test_a_range_other_than_the_one_asked_for_is_refused(server, registry):
    server.faults += [
        Fault(path="blobs", cut_response=1_000_000),
        Fault(path="blobs", headers={"content-range": f"bytes 2999999-2999999/{len(DATA)}"}, body=b"x"),
    ]
    with pytest.raises(RegistryError, match="another range"):
        list(registry.blob("app", BLOB))


def test_a_blob_with_other_bytes_is_refused_at_its_end(server, registry):
    server.faults.append(Fault(path="blobs", body=DATA[:-1] + b"x"))
    with pytest.raises(FormatError, match="are not what they should be"):
        list(registry.blob("app", BLOB))


@pytest.mark.parametrize("data", [DATA + b"x", DATA[:-1]], ids=["too long", "too short"])
def test_a_blob_of_another_length_is_refused_before_a_byte_is_given(server, registry, data):
    server.blobs["app"][str(BLOB.digest)] = data
    with pytest.raises(FormatError, match="wrong length"):
        next(registry.blob("app", BLOB))


@pytest.mark.parametrize("data", [DATA + b"x" * 500_000, DATA[:-1]], ids=["too long", "too short"])
def test_a_blob_of_unstated_length_is_counted(server, registry, data):
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
    server.faults.append(
        Fault(path="blobs", body=chunked, headers={"content-length": "", "transfer-encoding": "chunked"})
    )
    with pytest.raises(FormatError, match=r"too many bytes|broke off"):
        list(registry.blob("app", BLOB))


def test_a_missing_blob_is_not_found(server, registry):
    del server.blobs["app"][str(BLOB.digest)]
    with pytest.raises(NotFoundError, match=BLOB.digest.short):
        next(registry.blob("app", BLOB))


def test_an_abandoned_download_does_not_spoil_the_next(registry):
    for _ in range(3):
        stream = registry.blob("app", BLOB)
        next(stream)
        stream.close()
    assert b"".join(registry.blob("app", BLOB)) == DATA


def test_has_blob_tells_what_is_there(registry):
    assert registry.has_blob("app", BLOB.digest, pull_scope("app"))
    assert not registry.has_blob("app", Digest.of(b"x"), pull_scope("app"))


def test_anybody_may_pull_with_a_token_that_is_fetched_once():
    with FakeRegistry(users={None: ""}) as server:
        seed(server)
        registry = client_of(server)
        assert registry.manifest("app", "latest") == MANIFEST
        assert b"".join(registry.blob("app", BLOB)) == DATA
        assert len(server.find_requests("GET", "/token")) == 1


def test_a_token_that_expires_between_two_requests_is_renewed():
    with FakeRegistry(users={None: ""}) as server:
        seed(server)
        registry = client_of(server)
        registry.manifest("app", "latest")
        server.token_scopes.clear()
        assert b"".join(registry.blob("app", BLOB)) == DATA


def test_a_private_registry_lets_in_who_has_the_password():
    with FakeRegistry(users={"me": "pw"}) as server:
        seed(server)
        assert client_of(server, Credentials("me", "pw")).manifest("app", "latest") == MANIFEST
        with pytest.raises(RegistryError) as caught:
            client_of(server).manifest("app", "latest")
        assert caught.value.status == 401


def test_a_registry_that_wants_the_password_itself_gets_it():
    with FakeRegistry(users={"me": "pw"}, basic=True) as server:
        seed(server)
        assert client_of(server, Credentials("me", "pw")).manifest("app", "latest") == MANIFEST


def test_an_object_store_that_blobs_are_redirected_to_sees_no_token():
    with FakeRegistry() as objects, FakeRegistry(users={None: ""}, redirect_blobs=objects.url) as server:
        seed(server)
        seed(objects)
        objects.faults.append(Fault(path="blobs", cut_response=1_000_000))
        assert b"".join(client_of(server).blob("app", BLOB)) == DATA
        assert len(objects.find_requests("GET")) == 2
        assert all("authorization" not in seen.headers for seen in objects.requests)
        assert "range" in objects.requests[1].headers


def test_one_connection_serves_one_request_after_the_other():
    with FakeRegistry(users={None: ""}) as server:
        seed(server)
        registry = client_of(server)
        registry.resolve("app", "latest")
        registry.manifest("app", "latest")
        assert b"".join(registry.blob("app", BLOB)) == DATA
        assert registry.resolve("app", "v2") is None
        assert server.connections == 1


def test_many_threads_share_one_registry(server, registry):
    blobs = [hashlib.shake_256(bytes([i])).digest(300_000) for i in range(24)]
    found = [Descriptor(MediaType.OCI_LAYER, Digest.parse(server.put_blob("app", b)), len(b)) for b in blobs]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda d: b"".join(registry.blob("app", d)), found)) == blobs


def test_docker_hub_is_asked_where_it_answers():
    registry = Registry("docker.io", Client(PooledTransport(Settings())))
    assert registry.url("library/debian", "manifests/12") == (
        "https://registry-1.docker.io/v2/library/debian/manifests/12"
    )


@pytest.mark.parametrize("host", ["example.com:0", "example.com:99999"])
def test_a_registry_at_an_impossible_port_is_refused(host):
    with pytest.raises(InputError, match="not a registry"):
        Registry(host, Client(PooledTransport(Settings())))


@pytest.mark.parametrize("length", ["1" * 5000, "-1", "many"])
def test_a_length_that_is_nonsense_is_not_believed(server, registry, length):
    server.faults.append(Fault(method="HEAD", path="manifests", headers={"content-length": length}))
    assert registry.resolve("app", "latest") == MANIFEST.descriptor


@pytest.mark.parametrize(
    ("host", "scheme"),
    [("localhost:5000", "http"), ("127.0.0.1", "http"), ("[::1]:5000", "http"), ("10.0.0.1:5000", "https")],
)
def test_only_a_registry_on_this_machine_is_spoken_to_without_tls(host, scheme):
    assert Registry(host, Client(PooledTransport(Settings()))).url("a", "b") == f"{scheme}://{host}/v2/a/b"


@pytest.mark.parametrize("cuts", [1, RETRIES])
def test_a_download_without_a_length_that_is_cut_goes_on_where_it_was(
    server: FakeRegistry, registry: Registry, cuts: int
) -> None:
    nothing = {"content-length": "unknown"}
    server.faults.append(Fault(path="blobs", cut_response=500_000, headers=nothing, times=cuts))
    assert b"".join(registry.blob("app", BLOB)) == DATA
    assert [seen.headers.get("range") for seen in server.find_requests("GET", "blobs")][:2] == [
        None,
        "bytes=500000-",
    ]


def test_a_download_without_a_length_that_is_always_cut_is_given_up(
    server: FakeRegistry, registry: Registry
) -> None:
    nothing = {"content-length": "unknown"}
    server.faults.append(Fault(path="blobs", cut_response=1000, headers=nothing, times=99))
    with pytest.raises(BrokenConnection, match="was cut"):
        b"".join(registry.blob("app", BLOB))
