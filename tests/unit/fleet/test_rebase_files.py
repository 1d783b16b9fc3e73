"""An image in a layout or an archive keeps its name when it is rebased there, and others stay."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from fakes.app_image import App
from fakes.small_image import stored_image, tar_of
from packhorse.base.target import Target
from packhorse.errors import InputError, RebaseError
from packhorse.fleet.rebase import rebase
from packhorse.fleet.rebase_plan import RebaseRequest, RebaseResult, RebaseState
from packhorse.fleet.run_images import RunImages
from packhorse.host.locate import PullPolicy
from packhorse.host.wiring import Wiring
from packhorse.oci.layout import Layout
from packhorse.oci.place import Image, push_image
from packhorse.oci.reference import Location

NEW = stored_image(tar_of({"etc/os-release": b"ID=debian\n"}), tar_of({"etc/motd": b"new\n"}))
KINDS = ("oci", "oci-archive", "docker-archive")


@pytest.fixture(autouse=True)
def run_image(wiring: Wiring) -> None:
    push_image(NEW, wiring.place(Location.parse("acme/run")))


def there(wiring: Wiring, image: Image, text: str) -> None:
    push_image(image, wiring.place(Location.parse(text)))


def ask(wiring: Wiring, text: str, **fields: bool) -> RebaseResult:
    location = Location.parse(text)
    run_images = RunImages(wiring, say=lambda _: None, policy=PullPolicy.NEVER)
    return rebase(RebaseRequest(location, location, **fields), wiring, run_images)


def with_names(archive: Path, *entries: list[str]) -> None:
    """What `docker save` writes of as many images, each with these names."""
    with tarfile.open(archive) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    (entry,) = json.loads(members["manifest.json"])
    members["manifest.json"] = json.dumps([{**entry, "RepoTags": names} for names in entries]).encode()
    with tarfile.open(archive, "w") as tar:
        for member, data in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("kind", KINDS)
def test_the_only_image_keeps_its_name(wiring: Wiring, tmp_path: Path, kind: str) -> None:
    place = f"{kind}:{tmp_path / 'file'}"
    there(wiring, App().image(), f"{place}:app:1")
    assert wiring.names(Location.parse(place)) == ("app:1",)
    outcome = ask(wiring, place)
    assert outcome.state is RebaseState.REBASED
    assert wiring.names(Location.parse(place)) == ("app:1",)
    assert wiring.place(Location.parse(f"{place}:app:1")).read().id == outcome.image


@pytest.mark.parametrize("kind", KINDS)
def test_one_without_a_name_stays_without(wiring: Wiring, tmp_path: Path, kind: str) -> None:
    place = f"{kind}:{tmp_path / 'file'}"
    there(wiring, App().image(), place)
    outcome = ask(wiring, place)
    assert wiring.names(Location.parse(place)) == ("",)
    assert wiring.place(Location.parse(place)).read().id == outcome.image


@pytest.mark.parametrize("entries", [[["app:1"], ["other:1"]], [["app:1", "other:1"]]])
def test_in_an_archive_with_others_nothing_is_written(
    wiring: Wiring, tmp_path: Path, entries: list[list[str]]
) -> None:
    archive = tmp_path / "two.tar"
    there(wiring, App().image(), f"docker-archive:{archive}:app:1")
    with_names(archive, *entries)
    before = archive.read_bytes()
    with pytest.raises(InputError, match="would be lost") as raised:
        ask(wiring, f"docker-archive:{archive}:app:1")
    assert "app:1, other:1" in str(raised.value)
    assert ask(wiring, f"docker-archive:{archive}:app:1", dry_run=True).state is RebaseState.BEHIND
    assert archive.read_bytes() == before


def test_in_a_layout_with_others_they_stay(wiring: Wiring, tmp_path: Path) -> None:
    other = App(app=(tar_of({"workspace/other": b"x"}),)).image()
    there(wiring, App().image(), f"oci:{tmp_path}/layout:v1")
    there(wiring, other, f"oci:{tmp_path}/layout:v2")
    assert ask(wiring, f"oci:{tmp_path}/layout:v1").state is RebaseState.REBASED
    assert set(wiring.names(Location.parse(f"oci:{tmp_path}/layout"))) == {"v1", "v2"}
    assert wiring.place(Location.parse(f"oci:{tmp_path}/layout:v2")).read().id == other.id


def test_the_images_of_one_name_in_a_layout_stay_together(wiring: Wiring, tmp_path: Path) -> None:
    """As some programs write them: several entries of the index with one name."""
    layout = tmp_path / "layout"
    targets = (Target("linux", "amd64"), Target("linux", "arm64"))
    images = [App(config={"target": target}).image() for target in targets]
    for name, image in zip("ab", images, strict=True):
        push_image(image, Layout(layout, name))
    index = json.loads((layout / "index.json").read_text())
    for entry in index["manifests"]:
        entry["annotations"] = {"org.opencontainers.image.ref.name": "both"}
    (layout / "index.json").write_text(json.dumps(index))
    place = Location.parse(f"oci:{layout}:both")
    read = wiring.place(place, target=targets[0]).read()
    assert read.id == images[0].id and set(read.all_targets or ()) == set(targets)
    with pytest.raises(RebaseError, match="its image for linux/arm64 cannot be rebased"):
        ask(wiring, f"oci:{layout}:both")  # the run image is for amd64 alone
    again = [wiring.place(place, target=target).read().id for target in targets]
    assert again == [image.id for image in images]


@pytest.mark.parametrize("names", [["Foo:1"], ["<none>:<none>"], ["app@sha256:" + "0" * 64], ["a:1", "a:1"]])
def test_names_that_nobody_can_ask_for_are_none(wiring: Wiring, tmp_path: Path, names: list[str]) -> None:
    place = f"docker-archive:{tmp_path / 'file'}"
    there(wiring, App().image(), f"{place}:app:1")
    with_names(tmp_path / "file", names)
    assert wiring.names(Location.parse(place)) == (("a:1",) if names[0] == "a:1" else ("",))
    assert ask(wiring, place).state is RebaseState.REBASED


def test_images_without_names_are_several(wiring: Wiring, tmp_path: Path) -> None:
    place = f"docker-archive:{tmp_path / 'file'}"
    there(wiring, App().image(), place)
    with_names(tmp_path / "file", [], [])
    assert wiring.names(Location.parse(place)) == ("", "")
