"""Against the distribution project's own registry, filled and read back by skopeo."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from fakes.certificates import self_signed
from fakes.docker_registry import serve
from lanes import first_in_test
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import NetworkError, NotFoundError, RegistryError
from packhorse.http.client import BrokenConnection, Client, Request, Response, Transport
from packhorse.http.transport import PooledTransport, Settings
from packhorse.oci.auth import ANONYMOUS, Credentials, constant_lookup
from packhorse.oci.compress import Compression, decompress
from packhorse.oci.place import Image, Layer
from packhorse.oci.reference import Reference
from packhorse.oci.registry.client import Registry
from packhorse.oci.registry.place import RegistryPlace
from packhorse.oci.registry.push import PART
from packhorse.oci.types import Config, Descriptor, Index, Manifest, MediaType

TARS = [hashlib.shake_256(bytes([i])).digest(5_000_000) + bytes(1_000_000) for i in range(2)]
HTPASSWD = "me:$2b$05$bZFwjuul5no64QZhXNwauO2sNZSxSDFY/vne/.rCTkYyavDA5yhT.\n"  # the password is "pw"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve(tmp_path_factory.mktemp("registry")) as host:
        yield host


def skopeo(*arguments: str) -> bytes:
    done = subprocess.run(["skopeo", *arguments], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def config_of(arch: str) -> Config:
    diff_ids = [str(Digest.of(tar)) for tar in TARS]
    fields = {"os": "linux", "architecture": arch, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    return Config.parse(json.dumps(fields).encode())


def write_layout(folder: Path) -> dict[str, Manifest]:
    """An OCI layout with one index of an image of gzip layers for amd64 and one of zstd layers for arm64."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, media_type: str) -> Descriptor:
        (blobs / Digest.of(data).hex).write_bytes(data)
        return Descriptor(media_type, Digest.of(data), len(data))

    manifests = {}
    compressions = {
        "amd64": (MediaType.OCI_LAYER_GZIP, gzip.compress),
        "arm64": (MediaType.OCI_LAYER_ZSTD, zstandard.ZstdCompressor().compress),
    }
    for arch, (media_type, compress) in compressions.items():
        config = put(config_of(arch).raw, MediaType.OCI_CONFIG)
        manifest = Manifest.of(config, [put(compress(tar), media_type) for tar in TARS])
        put(manifest.raw, manifest.media_type)
        manifests[arch] = manifest
    index = Index.of([replace(m.descriptor, target=Target("linux", a)) for a, m in manifests.items()])
    put(index.raw, index.media_type)
    top = Index.of([Descriptor(index.media_type, index.digest, len(index.raw))])
    (folder / "index.json").write_bytes(top.raw)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return manifests


@pytest.fixture(scope="module")
def seeded(host: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Manifest]:
    layout = tmp_path_factory.mktemp("layout") / "images"
    manifests = write_layout(layout)
    skopeo("copy", "--all", "--dest-tls-verify=false", f"oci:{layout}", f"docker://{host}/team/app:v1")
    return manifests


def place(
    host: str, name: str, *, arch: str = "amd64", credentials: Credentials | None = None
) -> RegistryPlace:
    registry = Registry(
        host, Client(PooledTransport(Settings())), credentials=constant_lookup(credentials or ANONYMOUS)
    )
    return RegistryPlace(Reference.parse(f"{host}/{name}"), registry, target=Target("linux", arch))


@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_an_image_that_skopeo_pushed_is_pulled_byte_for_byte(host, seeded, arch):
    image = place(host, "team/app:v1", arch=arch).read()
    assert image.manifest.raw == seeded[arch].raw
    assert image.config == config_of(arch)
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda layer: b"".join(layer.tar()), image.layers)) == TARS
        stored = list(threads.map(lambda layer: Digest.of(b"".join(layer.blob())), image.layers))
    assert stored == [descriptor.digest for descriptor in seeded[arch].layers]


def test_a_registry_of_this_machine_that_speaks_tls_is_spoken_to_by_tls(tmp_path):
    own = self_signed(tmp_path, "own")
    tls = {"certificate": str(own.certificate), "key": str(own.key)}
    with serve(tmp_path, http={"tls": tls}) as host:
        settings = Settings(ca_bundle=str(own.certificate), ca_variable="SSL_CERT_FILE")
        target = RegistryPlace(
            Reference.parse(f"{host}/app"),
            Registry(host, Client(PooledTransport(settings))),
            target=Target("linux", "amd64"),
        )
        layers = tuple(target.write_layer(Layer(lambda tar=tar: iter([tar]))) for tar in TARS)
        assert target.write_image(Image(config_of("amd64"), layers)).image_id == target.read().id
        with pytest.raises(NetworkError, match="not trusted"):
            place(host, "app").read()


def test_a_target_that_the_image_is_not_made_for_is_told_what_there_is(host, seeded):
    with pytest.raises(NotFoundError) as caught:
        place(host, "team/app:v1", arch="riscv64").read()
    assert "linux/amd64, linux/arm64" in caught.value.why


def test_head_gives_the_digest_that_skopeo_sees(host, seeded):
    told = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{host}/team/app:v1"))["Digest"]
    assert str(place(host, "team/app:v1").head().digest) == told
    assert place(host, "team/app:v2").head() is None
    assert place(host, "nobody/nothing").head() is None


def test_what_is_not_there_is_not_found(host):
    with pytest.raises(NotFoundError, match="nobody/nothing:latest"):
        place(host, "nobody/nothing").read()


def test_an_image_that_we_push_is_read_by_skopeo(host, tmp_path):
    target = place(host, "team/pushed:v1")
    layers = tuple(target.write_layer(Layer(lambda tar=tar: iter([tar]))) for tar in TARS)
    receipt = target.write_image(Image(config_of("amd64"), layers))
    skopeo("copy", "--src-tls-verify=false", f"docker://{host}/team/pushed:v1", f"dir:{tmp_path}")
    assert Digest.of((tmp_path / "manifest.json").read_bytes()) == receipt.manifest_digest
    manifest = Manifest.parse((tmp_path / "manifest.json").read_bytes())
    assert (tmp_path / manifest.config.digest.hex).read_bytes() == config_of("amd64").raw
    assert [gzip.decompress((tmp_path / d.digest.hex).read_bytes()) for d in manifest.layers] == TARS


@pytest.mark.parametrize("compression", first_in_test(Compression))
@pytest.mark.parametrize("cut", first_in_test([True, False]))
def test_a_large_layer_goes_out_in_parts_and_is_read_by_skopeo(host, tmp_path, compression, cut):
    tar = random.Random(1).randbytes(2 * PART + 1_000_000)
    transport = CuttingUploads(PooledTransport(Settings()), 1 if cut else 0)
    registry = Registry(host, Client(transport, sleep=lambda _: None))
    name = f"{host}/team/large-{compression}-{cut}".lower()
    target = RegistryPlace(
        Reference.parse(name), registry, target=Target("linux", "amd64"), compression=compression
    )
    layer = target.write_layer(
        Layer(lambda: (tar[start : start + 65536] for start in range(0, len(tar), 65536)))
    )
    fields = {"os": "linux", "architecture": "amd64"}
    rootfs = {"type": "layers", "diff_ids": [str(layer.diff_id)]}
    target.write_image(Image(Config.parse(json.dumps({**fields, "rootfs": rootfs}).encode()), (layer,)))
    skopeo("copy", "--src-tls-verify=false", f"docker://{name}", f"dir:{tmp_path}")
    assert layer.descriptor is not None
    stored = (tmp_path / layer.descriptor.digest.hex).read_bytes()
    assert b"".join(decompress([stored])) == tar
    # This registry forgets an upload that was cut, and is sent the whole in one piece then.
    assert transport.parts == (0 if cut else 2)


class CuttingUploads:
    """A transport that cuts the first `times` parts of uploads half-way; `parts` are those it let through."""

    def __init__(self, transport: Transport, times: int) -> None:
        self._transport = transport
        self._times = times
        self.parts = 0

    def send(self, request: Request) -> Response:
        if request.method != "PATCH":
            return self._transport.send(request)
        if self._times:
            self._times -= 1
            whole = request.body
            assert isinstance(whole, bytes)
            return self._transport.send(replace(request, body=lambda: self._half(whole)))
        self.parts += 1
        return self._transport.send(request)

    def _half(self, whole: bytes) -> Iterator[bytes]:
        yield whole[: len(whole) // 2]
        raise BrokenConnection("cut by the test")


def test_a_copy_within_a_registry_mounts_its_layers(host, seeded, tmp_path):
    registry = Registry(host, Client(PooledTransport(Settings())))
    source, target = (
        RegistryPlace(Reference.parse(f"{host}/{name}"), registry, target=Target("linux", "amd64"))
        for name in ("team/app:v1", "copy/app")
    )
    image = source.read()
    unreadable = tuple(replace(layer, blob=lambda: iter([b""])) for layer in image.layers)
    receipt = target.write_image(
        replace(image, layers=tuple(target.write_layer(layer) for layer in unreadable))
    )
    assert receipt.manifest_digest == seeded["amd64"].digest
    skopeo("copy", "--src-tls-verify=false", f"docker://{host}/copy/app", f"dir:{tmp_path}")


class Cutting:
    """A transport that cuts the first large body after 100 kB."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.ranges: list[str] = []

    def send(self, request: Request) -> Response:
        response = self._transport.send(request)
        if int(response.header("content-length") or 0) < 100_000:
            return response
        self.ranges.append(request.headers.get("range", ""))
        return response if len(self.ranges) > 1 else replace(response, body=self._cut(response))

    def _cut(self, response: Response) -> Iterator[bytes]:
        yield next(response.chunks())[:100_000]
        raise BrokenConnection("cut by the test")


def test_a_download_that_is_cut_goes_on_by_a_range(host, seeded):
    transport = Cutting(PooledTransport(Settings()))
    blob = seeded["amd64"].layers[0]
    whole = b"".join(Registry(host, Client(transport)).blob("team/app", blob))
    assert gzip.decompress(whole) == TARS[0]
    assert transport.ranges == ["", "bytes=100000-"]


def test_a_registry_with_passwords_lets_in_who_knows_one(tmp_path):
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    auth = {"htpasswd": {"realm": "test", "path": str(tmp_path / "htpasswd")}}
    with serve(tmp_path, auth=auth) as host:
        target = place(host, "app", credentials=Credentials("me", "pw"))
        image = Image(
            config_of("amd64"), tuple(target.write_layer(Layer(lambda t=t: iter([t]))) for t in TARS)
        )
        target.write_image(image)
        assert place(host, "app", credentials=Credentials("me", "pw")).read().id == image.id
        for credentials in (None, Credentials("me", "wrong")):
            with pytest.raises(RegistryError) as caught:
                place(host, "app", credentials=credentials).read()
            assert caught.value.status == 401


def test_a_certificate_is_trusted_only_if_its_authority_is(tmp_path):
    pair = self_signed(tmp_path, "registry")
    tls = {"certificate": str(pair.certificate), "key": str(pair.key)}
    with serve(tmp_path, http={"tls": tls}) as host:
        trusting = Settings.from_environment({"SSL_CERT_FILE": str(pair.certificate)})
        url = f"https://{host}/v2/"
        assert Client(PooledTransport(trusting)).send(Request("GET", url)).read(100) == b"{}"
        with pytest.raises(NetworkError) as caught:
            Client(PooledTransport(Settings())).send(Request("GET", url))
        assert caught.value.what == f"the certificate of {host} is not trusted"
        assert caught.value.why == "self-signed certificate; packhorse trusts the certificates of this system"
        assert "SSL_CERT_FILE" in caught.value.fix
        with pytest.raises(NetworkError) as caught:
            Client(PooledTransport(trusting)).send(Request("GET", url.replace("127.0.0.1", "localhost")))
        assert "name" in caught.value.fix
