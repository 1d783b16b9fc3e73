"""Options of `packhorse build` in real builds with shell buildpacks."""

from __future__ import annotations

import io
import json
import tarfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import pytest

from fakes import foreign_builder, tiny_root
from fakes.observer import Quiet
from fakes.shell_buildpack import SERVER, shell_buildpack
from fakes.tiny_builder import APP, BUILDER, TinyBuilder, tiny_builder
from packhorse.base.sandbox import Bind
from packhorse.base.target import Target
from packhorse.build.deliver import location_of
from packhorse.build.verify import request_for, verify
from packhorse.errors import InputError
from packhorse.lifecycle.stages import Exported
from packhorse.oci.place import Image, Layer, push_image
from packhorse.oci.reference import Reference
from packhorse.testing import FakeRegistry


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "README").write_text("hello")
    return tmp_path / "app"


def built(tiny: TinyBuilder, app: Path, *buildpacks: Path, name: str, **asked: object) -> Exported:
    return tiny.build(app, *buildpacks, name=f"{APP}-{name}", **asked).exported


def is_reproduced(tiny: TinyBuilder, app: Path, *buildpacks: Path, name: str) -> bool:
    """Whether `packhorse verify` builds the same image without being told the options again."""
    image = tiny.store.place(f"{APP}-{name}").read()
    asked = tiny.request(app, *buildpacks, name=f"{APP}-{name}", builder="")
    request = request_for(image, name, asked)
    return verify(image, request, tiny.host, Quiet(), title=name).is_reproduced


def test_labels_of_the_user_replace_those_of_buildpacks(tiny: TinyBuilder, app: Path, tmp_path: Path) -> None:
    label = '[[labels]]\nkey = "{0}"\nvalue = "buildpack"\n'.format
    toml = f'cat >> "$CNB_LAYERS_DIR/launch.toml" <<END\n{label("one")}{label("two")}END'
    own = shell_buildpack(tmp_path / "own", build=f"{SERVER}\n{toml}")
    labels = built(tiny, app, own, name="labels", labels={"two": "user <&>", "three": ""}).image.config.labels
    assert {name: labels[name] for name in ("one", "two", "three")} == {
        "one": "buildpack",
        "two": "user <&>",
        "three": "",
    }
    assert is_reproduced(tiny, app, own, name="labels")


CACHED = """
mkdir -p "$CNB_LAYERS_DIR/cached"
echo '"cached"' > "$CNB_LAYERS_DIR/cached.sbom.cdx.json"
printf '[types]\\nbuild = true\\ncache = true\\n' > "$CNB_LAYERS_DIR/cached.toml"
"""
BOMS = """
for name in launch build tools; do
    echo "\\"$name\\"" > "$CNB_LAYERS_DIR/$name.sbom.cdx.json"
done
"""


@pytest.mark.parametrize("overlay", [True, False])
def test_sbom_files_of_a_build_are_written_as_docker_cp_would(
    tiny: TinyBuilder, app: Path, tmp_path: Path, *, overlay: bool
) -> None:
    own = shell_buildpack(tmp_path / "own", build=f"{SERVER}{BOMS}{CACHED}")
    file = own / "buildpack.toml"
    file.write_text(f'{file.read_text()}sbom-formats = ["application/vnd.cyclonedx+json"]\n')
    missing, existing = tmp_path / "new" / "boms", tmp_path / "boms"
    existing.mkdir()
    asked = {"name": f"boms-{int(overlay)}", "overlay": overlay}
    image = built(tiny, app, own, **asked).image
    for directory, top in ((missing, missing), (existing, existing / "sbom")):
        assert built(tiny, app, own, **asked, sboms=directory).image.id == image.id
        found = {str(path.relative_to(top)): path.read_text() for path in top.rglob("*") if path.is_file()}
        assert found == {
            "launch/test_shell/sbom.cdx.json": '"launch"\n',
            "launch/test_shell/tools/sbom.cdx.json": '"tools"\n',
            "build/test_shell/sbom.cdx.json": '"build"\n',
            "build/test_shell/cached/sbom.cdx.json": '"cached"\n',
            "cache/test_shell/cached/sbom.cdx.json": '"cached"\n',
            **dict.fromkeys(("build/sbom.legacy.json", "launch/sbom.legacy.json"), "null\n"),
        }
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="no SBOM can be written to"):
        built(tiny, app, own, **asked, sboms=tmp_path / "file" / "boms")


REUSES = """
mkdir -p "$CNB_LAYERS_DIR/kept"
[ -e "$CNB_LAYERS_DIR/kept.toml" ] && echo restored || echo "$RANDOM$RANDOM" > "$CNB_LAYERS_DIR/kept/made"
printf '[types]\\nlaunch = true\\ncache = true\\n' > "$CNB_LAYERS_DIR/kept.toml"
"""


def test_layers_of_another_image_are_reused_if_it_is_named(
    tiny: TinyBuilder, app: Path, tmp_path: Path
) -> None:
    own = shell_buildpack(tmp_path / "own", build=REUSES)
    first = built(tiny, app, own, name="first").image
    again = f"{APP}-first"
    assert built(tiny, app, own, name="next", previous_image=again).image.id == first.id
    assert built(tiny, app, own, name="cleared", previous_image=again, clear_cache=True).image.id != first.id
    assert tiny.plan(app, own, name="acme/x", previous_image=str(first.id)).previous.image_id == first.id
    built(tiny, app, own, name="none", previous_image="acme/none")
    assert "the store has no previous image acme/none: no layer of it is reused" in tiny.lines


def test_a_published_image_has_its_previous_image_in_its_own_registry(tiny: TinyBuilder, app: Path) -> None:
    with FakeRegistry() as registry:
        name = f"{registry.host}/acme/app"
        for previous in ("elsewhere.example/app", "1" * 64):
            with pytest.raises(InputError, match="cannot be the previous image of"):
                tiny.plan(app, name=name, publish=True, previous_image=previous)
        other = Reference.parse(f"{registry.host}/other/app:1")
        image = tiny.store.place(BUILDER).read()
        push_image(image, tiny.host.images.place(location_of(other)))
        found = tiny.plan(app, name=name, publish=True, run_image=str(other), previous_image=str(other))
        assert (found.previous.image_id, str(found.previous.image)) == (image.id, f"docker://{other}")


@pytest.mark.parametrize("overlay", [True, False])
def test_the_source_is_in_another_workspace(
    tiny: TinyBuilder, app: Path, tmp_path: Path, *, overlay: bool
) -> None:
    look = 'echo "in $PWD: $(ls)"; echo "$(ls -d /workspace/*)"'
    own = shell_buildpack(tmp_path / "own", detect=look, build=f"{look}\n{SERVER}\necho more > made")
    (tmp_path / "volume").mkdir()
    asked = {"name": f"workspace-{int(overlay)}", "overlay": overlay, "workspace": "/srv/app"}
    exported = built(tiny, app, own, **asked, volumes=(Bind(tmp_path / "volume", "/srv/app/data"),))
    said = "\n".join(tiny.lines)
    assert "in /srv/app: README\ndata" in said.replace("\ntest/shell: ", "\n")
    config = exported.image.config
    assert (config.working_dir, config.variable("CNB_APP_DIR")) == ("/srv/app", "/srv/app")
    assert built(tiny, app, own, **asked).image.config.working_dir == "/srv/app"
    names = {name for layer in exported.image.layers for name in list_names(layer)}
    assert {"/srv/app/README", "/srv/app/made"} <= names and "/workspace/README" not in names
    assert is_reproduced(tiny, app, own, name=f"workspace-{int(overlay)}")
    for workspace in ("/home/builder/app", "/home/builder", "/home"):
        with pytest.raises(
            InputError, match="the home directory of the builder's user, /home/builder, overlap"
        ):
            built(tiny, app, own, name="home", workspace=workspace)


def list_names(layer: Layer) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(layer.tar()))) as tar:
        return {f"/{member.name.strip('/')}" for member in tar}


@pytest.mark.parametrize("overlay", [True, False])
def test_buildpacks_run_as_another_user_whose_files_are_in_the_image(
    tiny: TinyBuilder, app: Path, tmp_path: Path, *, overlay: bool
) -> None:
    look = 'echo "$(id -u):$(id -g) in $HOME"; echo > "$HOME/written"; stat -c %u:%g README .'
    own = shell_buildpack(tmp_path / "own", detect=look, build=f"{look}\n{SERVER}\necho more > made")
    asked = {"name": f"user-{int(overlay)}", "overlay": overlay}
    before = built(tiny, app, own, **asked).image
    exported = built(tiny, app, own, **asked, uid=1234, gid=0)
    lines = [line.rpartition(": ")[2] for line in "\n".join(tiny.lines).split("\n")]
    assert "1234:0 in /home/builder" in lines and not any("1001:" in line for line in lines)
    owners = {name: owner for layer in exported.image.layers for name, owner in owners_of(layer).items()}
    paths = ("/workspace", "/workspace/README", "/workspace/made", "/layers/test_shell/tools/bin/say")
    assert {owners[path] for path in paths} == {(1234, 0)}
    assert exported.image.config.raw != before.config.raw
    assert is_reproduced(tiny, app, own, name=f"user-{int(overlay)}")
    # Layers of the other user are not reused.
    assert built(tiny, app, own, **asked).image.id == before.id
    only_group = built(tiny, app, own, **asked, gid=7).image
    assert {owner for layer in only_group.layers for owner in owners_of(layer).values()} >= {(1001, 7)}


def owners_of(layer: Layer) -> dict[str, tuple[int, int]]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(layer.tar()))) as tar:
        return {f"/{member.name.strip('/')}": (member.uid, member.gid) for member in tar}


def test_buildpacks_that_the_builder_puts_around_every_group_are_left_out(app: Path, tmp_path: Path) -> None:
    tar = foreign_builder.Tar()
    where = "cnb/buildpacks/test_around/1.0.0"
    own = shell_buildpack(tmp_path / "around", "test/around")
    for name in ("buildpack.toml", "bin/detect", "bin/build"):
        tar.file(f"{where}/{name}", (own / name).read_text(), mode=0o755)
    tar.file(
        "cnb/system.toml",
        '[[system.pre.buildpacks]]\nid = "test/around"\nversion = "1.0.0"\noptional = false\n',
    )
    with tiny_builder(tmp_path / "tiny", platforms=["0.15"], above=[tar.close()]) as tiny:
        assert refs(built(tiny, app, name="system")) == ["test/around@1.0.0", "foreign/shell@2.1.0"]
        exported = built(tiny, app, name="system", system_buildpacks=False)
        assert refs(exported) == ["foreign/shell@2.1.0"]
        assert is_reproduced(tiny, app, name="system")


def refs(exported: Exported) -> list[str]:
    metadata = json.loads(exported.image.config.labels["io.buildpacks.build.metadata"])
    return [f"{each['id']}@{each['version']}" for each in metadata["buildpacks"]]


def push_for_two(registry: FakeRegistry, tiny: TinyBuilder, name: str, images: Sequence[Image]) -> str:
    """Pushes an image for several targets; returns its name."""
    entries = []
    for image in images:
        target = image.config.target
        tag = Reference.parse(f"{registry.host}/{name}:{target.arch}")
        receipt = push_image(image, tiny.host.images.registry(tag, target))
        assert image.manifest is not None
        platform = {"os": target.os, "architecture": target.arch}
        found = {"mediaType": image.manifest.media_type, "digest": str(receipt.manifest_digest)}
        entries.append({**found, "size": len(image.manifest.raw), "platform": platform})
    kind = "application/vnd.oci.image.index.v1+json"
    body = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode()
    put = urllib.request.Request(f"http://{registry.host}/v2/{name}/manifests/latest", body, method="PUT")
    put.add_header("Content-Type", kind)
    urllib.request.urlopen(put).close()
    return f"{registry.host}/{name}:latest"


def test_builder_and_run_image_are_for_the_platform(tiny: TinyBuilder, app: Path, tmp_path: Path) -> None:
    layer = foreign_builder.base(tiny_root.make(tmp_path / "root"))
    targets = [Target(arch="amd64"), Target(arch="386"), Target(arch="riscv64")]
    own = shell_buildpack(tmp_path / "own", build=f"{REUSES}\necho for $CNB_TARGET_ARCH")
    with FakeRegistry() as registry:
        run = push_for_two(
            registry, tiny, "run", [foreign_builder.run_image(layer, target=each) for each in targets]
        )
        makes = [
            foreign_builder.builder_image(layer, run=run, launcher=b"#!/bin/sh\n", target=each)
            for each in targets
        ]
        asked = {"name": "platform", "builder": push_for_two(registry, tiny, "builder", makes)}
        first = built(tiny, app, own, **asked).image
        assert (first.config.architecture, "for amd64" in said(tiny)) == ("amd64", True)
        other = built(tiny, app, own, **asked, target=Target(arch="386")).image
        assert (other.config.architecture, "for 386" in said(tiny)) == ("386", True)
        assert "the previous image is for linux/amd64, and this one for linux/386: no layer" in said(tiny)
        assert "restored" not in said(tiny)
        again = built(tiny, app, own, **asked, target=Target(arch="386")).image
        assert again.id == other.id and "restored" in said(tiny)
        with pytest.raises(InputError, match="this machine cannot run programs for linux/riscv64"):
            built(tiny, app, own, **asked, target=Target(arch="riscv64"))
        with pytest.raises(InputError, match="is for linux/amd64, not for linux/386"):
            built(tiny, app, own, name="platform", target=Target(arch="386"))
        with pytest.raises(InputError, match="the default builder cannot build for linux/386"):
            built(tiny, app, own, name="platform", builder="", target=Target(arch="386"))


def said(tiny: TinyBuilder) -> str:
    return "\n".join(tiny.lines)
