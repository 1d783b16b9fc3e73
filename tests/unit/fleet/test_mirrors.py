"""Mirrors and other locations of registries.conf, in commands about more than one image, and in those that
write.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fakes.app_image import App
from fakes.artifact import SIGNATURE, attach
from fakes.small_image import stored_image, tar_of
from packhorse.fleet.copy import CopyOptions, copy
from packhorse.fleet.rebase import rebase
from packhorse.fleet.rebase_plan import RebaseRequest, RebaseState
from packhorse.fleet.run_images import RunImages
from packhorse.fleet.selection import list_images
from packhorse.host.wiring import Wiring
from packhorse.oci.place import Image, push_image
from packhorse.oci.reference import Location
from packhorse.oci.types import Descriptor, Index
from packhorse.testing import FakeRegistry

NEW = stored_image(tar_of({"etc/os-release": b"patched\n"}))


@dataclass(frozen=True)
class Two:
    """A registry, and a mirror for it that has everything below `cache/`."""

    registry: FakeRegistry
    mirror: FakeRegistry

    @property
    def both(self) -> tuple[str, str]:
        return self.registry.host, f"{self.mirror.host}/cache"


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "registries.conf"
    path.write_text("")
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(path))
    return path


@pytest.fixture
def two(configuration: Path) -> Iterator[Two]:
    with FakeRegistry() as registry, FakeRegistry() as mirror:
        configuration.write_text(
            f'[[registry]]\nlocation = "{registry.host}"\n'
            f'[[registry.mirror]]\nlocation = "{mirror.host}/cache"\n'
        )
        yield Two(registry, mirror)


def at(name: str) -> Location:
    return Location.parse(f"docker://{name}")


def app(run: str, text: str) -> Image:
    named = App()._lifecycle()["runImage"] | {"image": run, "mirrors": []}
    return App(lifecycle={"runImage": named}, app=(tar_of({"workspace/app": text.encode()}),)).image()


def descriptor(wiring: Wiring, name: str) -> Descriptor:
    """What describes the image under a name."""
    manifest = wiring.place(at(name), mirrors=False).read().manifest
    assert manifest is not None
    return manifest.descriptor


def put_index(wiring: Wiring, name: str, *images: Image) -> Index:
    """Puts images of several targets under one name."""
    entries = []
    for image in images:
        push_image(image, wiring.place(at(name)))
        entries.append(replace(descriptor(wiring, name), target=image.config.target))
    index = Index.of(entries)
    wiring.index_place(at(name), writes=True).set_name(index)
    return index


@pytest.mark.parametrize("down", ["registry", "mirror"])
def test_all_that_is_under_a_name_and_attached_to_it_comes_from_a_mirror_or_the_registry(
    wiring: Wiring, two: Two, configuration: Path, tmp_path: Path, down: str
) -> None:
    image = stored_image(tar_of({"a": b"a"}))
    for host in two.both:
        push_image(image, wiring.place(at(f"{host}/app")))
        subject = descriptor(wiring, f"{host}/app")
        attach(wiring.index_place(at(f"{host}/app"), writes=True), subject, SIGNATURE)
    nobody = configuration.read_text().replace(f'"{getattr(two, down).host}', '"localhost:1')
    configuration.write_text(nobody.replace("[[registry]]", '[[registry]]\nprefix = "asked.invalid"'))
    here = Location.parse(f"oci:{tmp_path / 'layout'}:x")
    fresh = Wiring(wiring.store)
    for wanted in (CopyOptions(all_images=True), CopyOptions(referrers=True)):
        assert copy(fresh, at("asked.invalid/app"), here, wanted) == subject.digest
    assert [each.kind for each in fresh.index_place(here).referrers(subject.digest)] == [SIGNATURE]


def test_a_mirror_that_knows_of_nothing_attached_does_not_speak_for_the_registry(
    wiring: Wiring, two: Two
) -> None:
    image = stored_image(tar_of({"a": b"a"}))
    for host in two.both:
        push_image(image, wiring.place(at(f"{host}/app")))
    place = at(f"{two.registry.host}/app")
    subject = descriptor(wiring, place.name)
    attach(wiring.index_place(place, writes=True), subject, SIGNATURE)
    assert [each.kind for each in wiring.index_place(place).referrers(subject.digest)] == [SIGNATURE]


@pytest.mark.parametrize("several", [False, True])
def test_what_a_mirror_still_has_is_not_rebased_in_place_of_what_the_registry_has(
    wiring: Wiring, two: Two, several: bool
) -> None:
    run = f"{two.registry.host}/run"
    push_image(NEW, wiring.place(at(run)))
    for host, text in zip(two.both, ("new", "old"), strict=True):
        if several:
            put_index(wiring, f"{host}/app", app(run, text), app(run, f"{text} too"))
        else:
            push_image(app(run, text), wiring.place(at(f"{host}/app")))
    place = at(f"{two.registry.host}/app")
    fresh = Wiring(wiring.store)
    done = rebase(RebaseRequest(place, place), fresh, RunImages(fresh, say=lambda _: None))
    assert done.state is RebaseState.REBASED
    found = Wiring(wiring.store).place(place, mirrors=False).read()
    assert found.layers[1].diff_id == app(run, "new").layers[2].diff_id


def test_the_lists_of_a_registry_are_those_of_where_it_really_is(wiring: Wiring, configuration: Path) -> None:
    with FakeRegistry() as server:
        configuration.write_text(
            f'[[registry]]\nprefix = "hub.invalid/team"\nlocation = "{server.host}/our/team"\n'
        )
        for name in ("our/team/a:1", "our/team/b/c:2", "our/other:3"):
            push_image(NEW, wiring.place(at(f"{server.host}/{name}")))
        assert [place.name for place in list_images(wiring, "hub.invalid/team/")] == [
            "hub.invalid/team/a:1",
            "hub.invalid/team/b/c:2",
        ]
        assert [place.name for place in list_images(wiring, "hub.invalid/team/b/c")] == [
            "hub.invalid/team/b/c:2"
        ]
        assert wiring.place(at("hub.invalid/team/b/c:2")).read().id == NEW.id
