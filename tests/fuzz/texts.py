"""Fuzz targets of what people and buildpacks write: names, TOML files, and the small tables of Unix."""

from __future__ import annotations

import tomllib

from fuzz.target import Target, directory, joined, refusing
from packhorse.base.go_json import json_bytes
from packhorse.base.go_toml import sort_maps, toml_bytes
from packhorse.base.toml import Table
from packhorse.errors import BuildpackApiError, ExportError, FormatError, HostError, InputError, RunError
from packhorse.host.distribution import host_sources, host_suite
from packhorse.host.machine import find_account
from packhorse.lifecycle.labels import LayerRecord
from packhorse.oci.reference import Location, Reference
from packhorse.sandbox.network import make_resolv_conf
from packhorse.spec.api import BUILDPACK_APIS
from packhorse.spec.buildpack_files import (
    BuildpackPlan,
    BuildToml,
    LaunchToml,
    LayerToml,
    PlanToml,
    StoreToml,
)
from packhorse.spec.buildpack_toml import Descriptor, Ref, parse_extensions
from packhorse.tar.slices import check_globs

_SOURCE = "the-file.toml"


def _reference(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    with refusing(InputError):
        reference = Reference.parse(text)
        assert Reference.parse(str(reference)).name == reference.name
        assert Reference.parse(reference.familiar).name == reference.name
    with refusing(InputError):
        location = Location.parse(text)
        assert Location.parse(str(location)) == location


def _toml(data: bytes) -> None:
    with refusing(InputError):
        table = Table.read(data, _SOURCE)
        assert table.values == tomllib.loads(data.decode()) or b"nan" in data
        lines = data.count(b"\n") + 1
        assert all(0 < line <= lines for keys in table.lines.values() for line in keys.values())
        for key in table.values:
            table.add_issue("something", key)
        with refusing(FormatError):
            json_bytes(sort_maps(table.values))
        with refusing(FormatError):
            again = toml_bytes(sort_maps(table.values))  # type: ignore[arg-type]
            Table.read(again, "written")
        table.finish()


def _buildpack(data: bytes) -> None:
    with refusing(InputError, BuildpackApiError):
        descriptor = Descriptor.parse(data, _SOURCE)
        assert "/" not in descriptor.ref.directory_name and descriptor.ref.directory_name not in (
            "",
            ".",
            "..",
        )
    with refusing(InputError):
        parse_extensions(data, _SOURCE)


def _launch(data: bytes) -> None:
    for api in (BUILDPACK_APIS[0], BUILDPACK_APIS[-1]):
        with refusing(InputError, ExportError):
            launch = LaunchToml.parse(data, _SOURCE, api=api, owner=Ref("a/b", "1"))
            with refusing(FormatError):
                for globs in launch.slices:
                    check_globs(globs or ())


def _plan(data: bytes) -> None:
    with refusing(InputError):
        for section in PlanToml.parse(data, _SOURCE).alternatives:
            with refusing(FormatError):
                Table.read(BuildpackPlan(section.requires).dump(), "written")


def _build(data: bytes) -> None:
    with refusing(InputError):
        BuildToml.parse(data, _SOURCE)


def _layer(data: bytes) -> None:
    with refusing(InputError):
        layer = LayerToml.parse(data, _SOURCE)
        with refusing(FormatError):
            json_bytes(LayerRecord("sha", layer.metadata).encode())
            LayerToml.parse(layer.dump_metadata(), "written")


def _store(data: bytes) -> None:
    with refusing(InputError):
        store = StoreToml.parse(data, _SOURCE)
        with refusing(FormatError):
            StoreToml.parse(store.dump(), "written")


def _accounts(data: bytes) -> None:
    user, passwd, group = (data.split(b"\n%%\n") + [b"", b""])[:3]
    with directory() as place, refusing(RunError):
        (place / "etc").mkdir()
        (place / "etc" / "passwd").write_bytes(passwd)
        (place / "etc" / "group").write_bytes(group)
        found = find_account(place, user.decode("utf-8", "surrogateescape"))
        assert 0 <= found.uid < 1 << 32 and 0 <= found.gid < 1 << 32 and found.home.startswith("/")


def _name_service(data: bytes) -> None:
    written = make_resolv_conf(data.decode("utf-8", "replace"))
    assert sum(line.startswith("nameserver") for line in written.splitlines()) == 1


def _system(data: bytes) -> None:
    release, one_line, stanzas = (data.split(b"\n%%\n") + [b"", b""])[:3]
    with directory() as apt, refusing(HostError):
        (apt / "sources.list").write_bytes(one_line)
        (apt / "sources.list.d").mkdir()
        (apt / "sources.list.d" / "x.sources").write_bytes(stanzas)
        host_sources(host_suite(release.decode("utf-8", "replace")), apt=apt)


_TOML = b"""# a comment
title = "a \\u00e9" # another
list = [1, 2.5, "x", [true], {a.b = 1979-05-27T07:32:00Z}]
'quoted key'.bare = '''many
lines''' \nmore = \"\"\"a \\"quote\\" \\
   b\"\"\"
[table]
key = 0xff
[[array.of]]
x = inf
[[array.of]]
y = {a = 1, b = "c"}
"""
_BUILDPACK = b"""api = "0.10"
[buildpack]
id = "a/b"
version = "1.2.3"
name = "n"
sbom-formats = ["application/spdx+json"]
exec-env = ["production"]
[[targets]]
os = "linux"
arch = "amd64"
[[targets.distros]]
name = "debian"
version = "12"
[[stacks]]
id = "*"
"""
_ORDER = b"""api = "0.10"
[buildpack]
id = "a/b"
version = "1"
[[order]]
[[order.group]]
id = "c"
version = "1"
optional = true
"""
_LAUNCH = b"""[[labels]]
key = "k"
value = "v"
[[processes]]
type = "web"
command = ["a"]
args = ["b"]
default = true
working-dir = "/x"
[[slices]]
paths = ["a/*.js", "[^a-c]?", "\\\\*"]
"""
_PLAN = b"""[[provides]]
name = "a"
[[requires]]
name = "a"
[requires.metadata]
version = "1"
[[or]]
[[or.provides]]
name = "b"
"""
_LAYER = b"""[types]
launch = true
build = true
cache = false
[metadata]
a = [1, {b = 2.5}]
when = 1979-05-27T07:32:00.999-07:00
[metadata.x."y z"]
c = -0.0
"""
_PASSWD = b"root:x:0:0:root:/root:/bin/sh\ncnb:x:1000:1000::/home/cnb:/bin/sh\n"
_DEB822 = (
    b"Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm\nComponents: main\nSigned-By: /k\n"
)

TARGETS = (
    Target(
        "reference",
        _reference,
        (b"docker://reg.example:5000/a/b:tag@sha256:" + b"0f" * 32, b"oci:dir:ref", b"a"),
    ),
    Target("toml", _toml, (_TOML, _LAYER)),
    Target("buildpack-toml", _buildpack, (_BUILDPACK, _ORDER)),
    Target("launch-toml", _launch, (_LAUNCH,)),
    Target("plan-toml", _plan, (_PLAN,)),
    Target("build-toml", _build, (b'[[unmet]]\nname = "a"\n',)),
    Target("layer-toml", _layer, (_LAYER,)),
    Target("store-toml", _store, (b"[metadata]\na = 1\n",)),
    Target("accounts", _accounts, (joined(b"cnb:users", _PASSWD, b"users:x:100:cnb\n"),)),
    Target("name-service", _name_service, (b"nameserver 1.1.1.1\nsearch a b\noptions ndots:1\n",)),
    Target(
        "system",
        _system,
        (
            joined(
                b'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n',
                b"deb http://m.example x main\n",
                _DEB822,
            ),
        ),
    ),
)
