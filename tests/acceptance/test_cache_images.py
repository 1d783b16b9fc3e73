"""`--cache-image` and `--cache`: kept layers go to other machines by a registry or directory, and to pack."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.shell_buildpack import shell_buildpack
from fakes.small_image import stored_image
from fakes.tiny_builder import APP, TinyBuilder, tiny_builder
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.build.request import BuildOutcome
from packhorse.errors import InputError, NetworkError, StoreError
from packhorse.host.cache_directory import METADATA
from packhorse.host.cache_image import LABEL
from packhorse.host.wiring import Wiring
from packhorse.oci.place import Image, push_image
from packhorse.oci.reference import Reference
from packhorse.oci.types import MediaType
from packhorse.testing import FakeRegistry, Fault

BUILD = """
for name in one two; do
    layer=$CNB_LAYERS_DIR/$name
    if [ "$(cat "$layer/key" || true)" != "$(cat $name)" ]; then
        echo "making $name"
        rm -rf "$layer"
        mkdir -p "$layer/bin"
        head -c 300000 /dev/zero > "$layer/data"
        ln -s ../data "$layer/bin/link"
        chmod 4755 "$layer/data"
        cat $name > "$layer/key"
    fi
done
printf '[types]\\nlaunch = true\\ncache = true\\n[metadata]\\nkey = "é"\\n' > "$CNB_LAYERS_DIR/one.toml"
printf '[types]\\nbuild = true\\ncache = true\\n' > "$CNB_LAYERS_DIR/two.toml"
"""


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TinyBuilder, TinyBuilder]]:
    base = tmp_path_factory.mktemp("machines")
    for name in ("here", "there"):
        (base / name).mkdir()
    with tiny_builder(base / "here") as here, tiny_builder(base / "there") as there:
        yield here, there


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as running:
        yield running


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app").mkdir()
    for name in ("one", "two"):
        (tmp_path / "app" / name).write_text(str(tmp_path))  # which no layer of another test has
    return tmp_path / "app"


@pytest.fixture
def buildpack(tmp_path: Path) -> Path:
    return shell_buildpack(tmp_path / "bp", "test/keeps", build=BUILD)


def made(tiny: TinyBuilder) -> list[str]:
    said = "".join(line for line in tiny.lines if line.startswith("test/keeps: "))
    return [name for name in ("one", "two") if f"making {name}" in said]


def layers(outcome: BuildOutcome) -> list[Digest]:
    """What is above the run image, of which each machine has its own."""
    return [row.diff_id for row in outcome.exported.layers]


def read(tiny: TinyBuilder, name: Reference) -> Image:
    return Wiring(tiny.store).registry(name, Target.host()).read()


def test_another_machine_makes_nothing_anew_and_only_what_changed_is_sent(
    machines: tuple[TinyBuilder, TinyBuilder], registry: FakeRegistry, app: Path, buildpack: Path
) -> None:
    here, there = machines
    name = Reference.parse(f"{registry.host}/acme/cache:main")
    first = here.build(app, buildpack, cache_image=name)
    assert made(here) == ["one", "two"]
    second = there.build(app, buildpack, cache_image=name)
    assert made(there) == []
    assert layers(second) == layers(first)
    assert there.left(APP) == here.left(APP)
    assert second.counters.untouched + second.counters.same == 2

    registry.requests.clear()
    there.build(app, buildpack, cache_image=name)
    assert made(there) == []
    assert not registry.find_requests("PUT"), "nothing has changed"
    assert not [each for each in registry.find_requests("GET", "/blobs/") if "config" in each.path]

    (app / "two").write_text("2")
    registry.requests.clear()
    there.build(app, buildpack, cache_image=name)
    assert made(there) == ["two"]
    uploads = [each for each in registry.find_requests("PUT") if "/blobs/" in each.path]
    assert len(uploads) == 2, "the config, and the layer that changed"
    here.build(app, buildpack, cache_image=name)
    assert made(here) == [], "what the registry has goes before what is kept here"


def test_the_image_is_as_the_lifecycle_reads_and_writes_them(
    machines: tuple[TinyBuilder, TinyBuilder], registry: FakeRegistry, app: Path, buildpack: Path
) -> None:
    here, there = machines
    name = Reference.parse(f"{registry.host}/acme/cache:main")
    here.build(app, buildpack, cache_image=name)
    image = read(here, name)
    metadata = json.loads(image.config.labels[LABEL])
    [member] = metadata["buildpacks"]
    assert (member["key"], member["version"]) == ("test/keeps", "1.0.0")
    assert metadata["sbom"] == {"sha": ""}
    shas = [layer["sha"] for layer in member["layers"].values()]
    assert sorted(shas) == sorted(str(layer.diff_id) for layer in image.layers)
    assert member["layers"]["one"]["data"] == {"key": "é"}

    # As the Go lifecycle pushes one: a docker manifest, gzip of its own.
    theirs = stored_image(
        *(b"".join(layer.tar()) for layer in reversed(image.layers)),
        media_type=MediaType.DOCKER_MANIFEST,
        labels={LABEL: image.config.labels[LABEL]},
    )
    other = Reference.parse(f"{registry.host}/acme/theirs:1")
    push_image(theirs, Wiring(here.store).registry(other, image.config.target))
    there.build(app, buildpack, name=f"{APP}-theirs", cache_image=other)
    assert made(there) == []


def test_what_is_not_what_it_says_is_left_behind(
    machines: tuple[TinyBuilder, TinyBuilder], registry: FakeRegistry, app: Path, buildpack: Path
) -> None:
    here, there = machines
    name = Reference.parse(f"{registry.host}/acme/cache:main")
    expected = layers(here.build(app, buildpack, cache_image=name))
    image = read(here, name)
    label = image.config.labels[LABEL]
    good = [b"".join(layer.tar()) for layer in image.layers]
    bad = [good[0][:1024] + good[1], b"no tar" * 1000, bytes(1024)]
    for number, tar in enumerate(bad):
        shown = label.replace(str(image.layers[0].diff_id), str(stored_image(tar).layers[0].diff_id))
        broken = Reference.parse(f"{registry.host}/acme/broken:{number}")
        push_image(
            stored_image(tar, good[1], labels={LABEL: shown}),
            Wiring(here.store).registry(broken, image.config.target),
        )
        built = there.build(app, buildpack, name=f"{APP}-{number}", cache_image=broken)
        assert layers(built) == expected
        assert made(there) == ["one"] or made(there) == ["two"]
        kept = [path for path in there.store.path.glob("kept/*/*") if path.is_dir()]
        assert not [path for path in kept if path.name.startswith(".")]


def test_a_registry_that_does_not_answer_costs_the_cache_and_not_the_build(
    machines: tuple[TinyBuilder, TinyBuilder], registry: FakeRegistry, app: Path, buildpack: Path
) -> None:
    here, there = machines
    name = Reference.parse(f"{registry.host}/acme/cache:main")
    here.build(app, buildpack, cache_image=name)
    registry.faults.append(Fault("GET", "/manifests/", status=500, times=100))
    registry.faults.append(Fault("PUT", "/manifests/", status=500, times=100))
    there.build(app, buildpack, name=f"{APP}-down", cache_image=name)
    assert made(there) == ["one", "two"]
    assert any("cannot be read" in line for line in there.lines)
    assert any("is not written" in line for line in there.lines)


def test_who_may_not_write_the_cache_learns_it_before_the_build(
    machines: tuple[TinyBuilder, TinyBuilder], registry: FakeRegistry, app: Path, buildpack: Path
) -> None:
    here, _ = machines
    registry.faults.append(Fault("POST", "/uploads/", status=403, times=100))
    with pytest.raises(NetworkError):
        here.build(app, buildpack, cache_image=Reference.parse(f"{registry.host}/acme/cache:1"))
    assert made(here) == []


def test_no_image_is_replaced_by_a_cache(
    machines: tuple[TinyBuilder, TinyBuilder], registry: FakeRegistry, app: Path, buildpack: Path
) -> None:
    here, _ = machines
    theirs = Reference.parse(f"{registry.host}/acme/app:1")
    push_image(stored_image(bytes(1024)), Wiring(here.store).registry(theirs, Target.host()))
    with pytest.raises(InputError, match="is an image, and no cache"):
        here.build(app, buildpack, cache_image=theirs)
    own = Reference.parse(f"{registry.host}/acme/app")
    with pytest.raises(InputError, match="cannot be the image and its cache"):
        here.build(app, buildpack, name=str(own), publish=True, cache_image=own)
    assert made(here) == [] and LABEL not in read(here, theirs).config.labels


def test_a_directory_takes_layers_to_another_machine(
    machines: tuple[TinyBuilder, TinyBuilder], app: Path, buildpack: Path, tmp_path: Path
) -> None:
    here, there = machines
    cache = tmp_path / "cache" / "build-cache"
    name = f"{APP}-directory"
    first = here.build(app, buildpack, name=name, cache_directory=cache)
    assert made(here) == ["one", "two"]
    second = there.build(app, buildpack, name=name, cache_directory=cache)
    assert made(there) == [] and layers(second) == layers(first)
    # As the lifecycle has a volume: metadata, and one tar for each layer.
    committed = cache / "committed"
    metadata = json.loads((committed / METADATA).read_bytes())
    shas = {layer["sha"] for layer in metadata["buildpacks"][0]["layers"].values()}
    assert {path.name for path in committed.iterdir()} == {METADATA, *(f"{sha}.tar" for sha in shas)}
    assert all(str(Digest.of((committed / f"{sha}.tar").read_bytes())) == sha for sha in shas)
    assert [path.name for path in cache.iterdir()] == ["committed"]

    before = {path.name: path.stat().st_ino for path in committed.iterdir()}
    there.build(app, buildpack, name=name, cache_directory=cache)
    assert {path.name: path.stat().st_ino for path in committed.iterdir()} == before, "nothing has changed"
    (app / "two").write_text("2")
    there.build(app, buildpack, name=name, cache_directory=cache)
    assert made(there) == ["two"]
    after = {path.name: path.stat().st_ino for path in committed.iterdir()}
    assert len(before.keys() & after.keys() - {METADATA}) == 1, "the layer that did not change"
    assert len({path for path in before if before[path] == after.get(path)}) == 1


def test_a_directory_with_other_content_is_no_cache_and_is_replaced(
    machines: tuple[TinyBuilder, TinyBuilder], app: Path, buildpack: Path, tmp_path: Path
) -> None:
    here, there = machines
    cache, name = tmp_path / "cache", f"{APP}-damaged"
    here.build(app, buildpack, name=name, cache_directory=cache)
    for file in (cache / "committed").glob("*.tar"):
        file.write_bytes(file.read_bytes().replace(b"/data", b"/DATA"))
    there.build(app, buildpack, name=name, cache_directory=cache)
    assert made(there) == ["one", "two"]
    assert "is not restored from the cache: its digest there is not" in "\n".join(there.lines)
    for file in (cache / "committed").glob("*.tar"):
        assert f"{Digest.of(file.read_bytes())}.tar" == file.name
    (cache / "committed" / METADATA).write_text("no JSON")
    (cache / "staging").mkdir()
    here.build(app, buildpack, name=name, cache_directory=cache)
    assert json.loads((cache / "committed" / METADATA).read_bytes())["buildpacks"]
    here.plan(app, buildpack, name=name, cache_directory=app / "cache")
    assert any("is part of the source: exclude cache in project.toml" in line for line in here.lines)
    (app / "project.toml").write_text('[build]\nexclude = ["/cache"]\n')
    (app / "cache").mkdir()
    here.plan(app, buildpack, name=name, cache_directory=app / "cache")
    assert not any("is part of the source" in line for line in here.lines)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="nothing can be written to"):
        here.build(app, buildpack, name=name, cache_directory=tmp_path / "file" / "build-cache")


def test_images_share_a_cache_that_has_a_name(
    machines: tuple[TinyBuilder, TinyBuilder], app: Path, buildpack: Path
) -> None:
    here, _ = machines
    here.build(app, buildpack, name="acme/a", cache_name="shared")
    assert made(here) == ["one", "two"]
    here.build(app, buildpack, name="acme/b", cache_name="shared")
    assert made(here) == []
    here.build(app, buildpack, name="acme/a", cache_name="shared")
    assert made(here) == []
    here.build(app, buildpack, name="acme/b")
    assert made(here) == ["one", "two"], "its own name has no layers"
    assert "packhorse.local/cache/shared:latest" in {each.app for each in here.store.caches().caches}
