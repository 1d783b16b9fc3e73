"""A builder is read from every place that an image can be in."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes.observer import Quiet
from fakes.tiny_builder import APP, BUILDER, RUN, TinyBuilder
from packhorse.base.sandbox import Network
from packhorse.build.execute import execute
from packhorse.build.host import Host
from packhorse.build.images import Fetch
from packhorse.build.plan import resolve
from packhorse.build.request import BuildRequest
from packhorse.errors import NotFoundError
from packhorse.host.wiring import Wiring
from packhorse.oci.place import push_image
from packhorse.oci.reference import Location, Reference
from packhorse.report.provenance import BuildProvenance
from packhorse.store.store import Store

pytestmark = pytest.mark.system  # the builder's root is made by programs, and the tests build


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "README").write_text("x")
    return tmp_path / "app"


@pytest.mark.parametrize("kind", ["oci", "oci-archive", "docker-archive"])
def test_a_builder_comes_from_a_directory_or_an_archive(
    tiny: TinyBuilder, app: Path, tmp_path: Path, kind: str
) -> None:
    place = f"{kind}:{tmp_path / 'builder'}:acme/builder:1"
    builder, run = (tiny.store.place(name).read() for name in (BUILDER, RUN))
    with Store.open(tmp_path / "store") as store:
        host = Host(store, Wiring(store))
        push_image(builder, host.images.place(Location.parse(place)))
        push_image(run, store.place(RUN))
        request = BuildRequest(Reference.parse(APP), app, builder=place, run_image=RUN, network=Network.NONE)
        seen = resolve(request, host, Quiet(), fetch=Fetch.NOTHING)
        assert seen.images is not None and seen.images.builder.image_id == builder.id
        assert [str(each.name) for each in store.images()] == [f"{RUN}:latest"]  # a plan fetches nothing

        said = Quiet()
        execute(resolve(request, host, said), host, said)
        assert f"taking the image from {place}" in said.lines
        assert [ref.id for ref in seen.images.order[0]] == ["foreign/shell"]
        known = BuildProvenance.parse(store.place(APP).read())
        assert known is not None and (known.builder, known.builder_id) == (place, str(builder.id))

        again = Quiet()
        resolve(request, host, again)
        assert not any("taking the image" in line for line in again.lines)  # the store has it


def test_the_builder_of_an_image_is_found_again_in_its_place(
    tiny: TinyBuilder, app: Path, tmp_path: Path
) -> None:
    place = f"oci:{tmp_path / 'builder'}:1"
    builder = tiny.store.place(BUILDER).read()
    with Store.open(tmp_path / "store") as store:
        host = Host(store, Wiring(store))
        push_image(builder, host.images.place(Location.parse(place)))
        push_image(tiny.store.place(RUN).read(), store.place(RUN))
        request = BuildRequest(
            Reference.parse(APP),
            app,
            builder=place,
            builder_id=str(builder.id),
            run_image=RUN,
        )
        plan = resolve(request, host, Quiet())
        assert plan.images is not None and plan.images.builder.image_id == builder.id

        other = BuildRequest(Reference.parse(APP), app, builder=place, builder_id=f"sha256:{'1' * 64}")
        with pytest.raises(NotFoundError) as raised:
            resolve(other, host, Quiet())
        assert raised.value.why == f"{place} has {builder.id} by now"


def test_a_place_without_a_builder_is_named(app: Path, tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        host = Host(store, Wiring(store))
        request = BuildRequest(Reference.parse(APP), app, builder=f"oci:{tmp_path / 'nosuch'}")
        with pytest.raises(NotFoundError, match="nosuch"):
            resolve(request, host, Quiet())
