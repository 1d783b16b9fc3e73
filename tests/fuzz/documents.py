"""Fuzz targets of JSON and of a registry's answers: manifests, indexes, configs, labels, challenges."""

from __future__ import annotations

import json

from fakes.image_problems import problems_of_image
from fuzz.target import Target, documents, joined, refusing
from packhorse.base.target import Target as Machine
from packhorse.builder.image import Builder
from packhorse.errors import FormatError, NetworkError, NotFoundError
from packhorse.http.client import Client, Request, Response
from packhorse.lifecycle.labels import BUILD, LIFECYCLE, LayersMetadata
from packhorse.oci.auth import Credentials, constant_lookup
from packhorse.oci.mutate import add_layers, edit_config, engine_view
from packhorse.oci.place import Image
from packhorse.oci.reference import Reference
from packhorse.oci.registry.auth import Challenge
from packhorse.oci.registry.client import Registry
from packhorse.oci.registry.place import RegistryPlace
from packhorse.oci.types import Config, Index, Manifest
from packhorse.report.builder import LAYERS, METADATA, ORDER
from packhorse.report.inspect import inspect
from packhorse.spec.buildpack_files import LayerToml

_WHEN = "1980-01-01T00:00:01Z"
_DIGEST = b"sha256:" + b"0f" * 32


def _manifest(data: bytes) -> None:
    with refusing(FormatError):
        manifest = Manifest.parse(data)
        assert manifest.raw == data
        assert Manifest.parse(data, manifest.media_type) == manifest
        again = Manifest.of(manifest.config, manifest.layers, manifest.annotations)
        assert Manifest.parse(again.raw).blobs == manifest.blobs


def _index(data: bytes) -> None:
    with refusing(FormatError, NotFoundError):
        index = Index.parse(data)
        assert Index.parse(Index.of(index.manifests, index.annotations).raw).manifests == index.manifests
        assert index.select(Machine()) in index.manifests


def _config(data: bytes) -> None:
    with refusing(FormatError):
        config = Config.parse(data)
        problems_of_image(Image(config, ()))
        once = edit_config(config)
        assert edit_config(once) == once
        assert edit_config(config, anew=True).diff_ids == ()
        assert (
            add_layers(engine_view(config), [], created=_WHEN, keep_history=True).diff_ids == config.diff_ids
        )


def _app_label(data: bytes) -> None:
    read = LayersMetadata.parse(data)
    with refusing(FormatError):
        again = LayersMetadata.parse(read.encode_label())
        assert again.encode_label() == read.encode_label()
        read.encode_cache()
        for buildpack in read.buildpacks:
            for record in buildpack.layers.values():
                LayerToml.parse(LayerToml(metadata=record.data).dump_metadata(), "restored")
            if buildpack.store is not None:
                buildpack.store.dump()


def _labelled(labels: dict[str, str], *env: str) -> Image:
    """An image whose config came off the wire: text in it may have been anything."""
    run = {"Labels": labels, "Env": env}
    config = {"os": "linux", "architecture": "amd64", "config": run}
    return Image(Config.parse(json.dumps(config).encode()), ())


def _builder_label(data: bytes) -> None:
    texts = [part.decode("utf-8", "surrogateescape") for part in documents(data)]
    labels = dict(zip((METADATA, ORDER, LAYERS), texts, strict=False))
    group = texts[3] if len(texts) > 3 else "1000"
    with refusing(FormatError):
        image = _labelled(labels, "CNB_USER_ID=1000", f"CNB_GROUP_ID={group}")
        builder = Builder.read("the builder", image)
        assert builder.uid == 1000 and 0 <= builder.gid < 1 << 32


def _inspected(data: bytes) -> None:
    texts = [part.decode("utf-8", "surrogateescape") for part in documents(data)]
    with refusing(FormatError):
        report = inspect(_labelled(dict(zip((BUILD, LIFECYCLE), texts, strict=False))))
        json.dumps([report.fields(), *report.lines()]).encode()


def _challenge(data: bytes) -> None:
    for challenge in Challenge.parse(data.decode("latin-1")):
        assert challenge.scheme == challenge.scheme.lower()


class _Script:
    """A transport that gives its answers in their order, and then none."""

    def __init__(self, parts: list[bytes]) -> None:
        self._parts = parts

    def send(self, request: Request) -> Response:
        if len(self._parts) < 2:
            return Response(404, url=request.url)
        head, body, *self._parts = self._parts
        status, *lines = head.decode("latin-1").split("\n")
        headers = dict(line.partition(":")[::2] for line in lines)
        headers = {name.lower(): value.strip() for name, value in headers.items()}
        return Response(int(status) if status in _STATUSES else 200, headers, [body], request.url)


_STATUSES = {"200", "206", "301", "307", "401", "404", "416", "429", "500", "503"}


def _answers(data: bytes) -> None:
    registry = Registry(
        "registry.example",
        Client(_Script(documents(data)), sleep=lambda _: None),
        credentials=constant_lookup(Credentials("a", "b")),
    )
    place = RegistryPlace(Reference.parse("registry.example/a:b"), registry, target=Machine())
    with refusing(FormatError, NetworkError, NotFoundError):
        place.head()
    with refusing(FormatError, NetworkError, NotFoundError):
        for layer in place.read().layers:
            for _ in layer.tar():
                pass


_RUN = (
    b'{"User":"a","ExposedPorts":{"80/tcp":{}},"Env":["A=b"],"Entrypoint":["a"],"Cmd":null,"Volumes":{"/v":{}},'
    b'"WorkingDir":"/","Labels":{"a":"b"},"StopSignal":"TERM","Healthcheck":{"Test":["a"],"Interval":1}}'
)
_CONFIG = (
    b'{"os":"linux","architecture":"amd64","variant":"v2","created":"1980-01-01T00:00:01.5+01:00","config":'
    + _RUN
    + b',"rootfs":{"type":"layers","diff_ids":["'
    + _DIGEST
    + b'"]},"history":[{"created":"2020-02-02T02:02:02Z","created_by":"a","empty_layer":true}]}'
)
_DESCRIPTOR = (
    b'{"mediaType":"application/vnd.oci.image.%b.v1%b","size":3,"digest":"'
    + _DIGEST
    + b'","annotations":{"a":"b"},'
    b'"platform":{"os":"linux","architecture":"amd64"},"urls":["https://a"],"data":"YWJj"}'
)
_DOCUMENT = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.%b.v1+json",%b}'
_MANIFEST = _DOCUMENT % (
    b"manifest",
    b'"config":'
    + _DESCRIPTOR % (b"config", b"+json")
    + b',"layers":['
    + _DESCRIPTOR % (b"layer", b".tar")
    + b"]",
)
_INDEX = _DOCUMENT % (b"index", b'"manifests":[' + _DESCRIPTOR % (b"manifest", b"+json") + b"]")
_LABEL = (
    b'{"app":[{"sha":"s"}],"sbom":{"sha":"s"},"buildpacks":[{"key":"a/b","version":"1","layers":{"l":{"sha":"s",'
    b'"data":{"a":[1,2.5,"x",{"b":null}]},"build":true,"launch":true,"cache":true}},"store":{"metadata":{"a":1}}}],'
    b'"config":{"sha":"s"},"runImage":{"topLayer":"t","reference":"r","image":"i","mirrors":["m"]}}'
)
_BUILDER = (
    b'{"lifecycle":{"version":"1","apis":{"platform":{"deprecated":[],"supported":["0.12"]}}},'
    b'"images":[{"image":"i","mirrors":["m"]}],"stack":{"runImage":{"image":"i"}}}'
)
_ORDER = b'[{"group":[{"id":"a/b","version":"1","optional":true}]}]'
_BUILD = (
    b'{"buildpacks":[{"id":"a/b","version":"1","homepage":"h"}],"launcher":{"version":"1","source":{}},"processes":'
    b'[{"type":"web","command":["a"],"args":["b"],"direct":true,"buildpackID":"a/b"}],'
    b'"buildpack-default-process-type":"web"}'
)
_BEARER = b'Bearer realm="https://auth.example/token",service="s",scope="repository:a:pull"'
_TYPED = b"200\ncontent-type: application/vnd.oci.image.%b.v1+json"

TARGETS = (
    Target("manifest", _manifest, (_MANIFEST, _INDEX)),
    Target("index", _index, (_INDEX, _MANIFEST)),
    Target("config", _config, (_CONFIG, b"{}")),
    Target("app-label", _app_label, (_LABEL,)),
    Target("builder-label", _builder_label, (joined(_BUILDER, _ORDER, b'{"a/b":{"1":{}}}', b"1001"),)),
    Target("inspected", _inspected, (joined(_BUILD, _LABEL),)),
    Target("challenge", _challenge, (_BEARER, b'Basic realm="a\\"b", Negotiate abc==, Digest a=b')),
    Target(
        "answers",
        _answers,
        (
            joined(
                b"200\ndocker-content-digest: @3@\ncontent-length: #3#",
                b"",
                _TYPED % b"manifest",
                _MANIFEST.replace(_DIGEST, b"@5@", 1)
                .replace(b'"size":3', b'"size":#5#', 1)
                .replace(_DIGEST, b"@7@"),
                b"200",
                _CONFIG.replace(_DIGEST, b"@7@"),
                b"200",
                b"abc",
            ),
            joined(
                b"401\nwww-authenticate: " + _BEARER,
                b"",
                b"200",
                b'{"token":"abc"}',
                b"429\nretry-after: 1",
                b"",
            ),
            joined(b"307\nlocation: https://else.example/x", b"", _TYPED % b"index", _INDEX),
        ),
    ),
)
