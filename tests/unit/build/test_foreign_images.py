"""The images of a builder of others: what is fetched is said first; the run image is for its target."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes import foreign_builder
from fakes.observer import Quiet
from fakes.small_image import stored_image, tar_of
from packhorse.base.target import Target
from packhorse.build.host import Host
from packhorse.build.images import Fetch
from packhorse.build.plan import BuildPlan, resolve
from packhorse.build.request import BuildRequest
from packhorse.errors import InputError, NotFoundError, PackhorseError
from packhorse.host.locate import PullPolicy
from packhorse.host.wiring import Wiring
from packhorse.oci.place import Image, push_image
from packhorse.oci.reference import Reference
from packhorse.store.store import Store
from packhorse.testing import FakeRegistry

LAYER = tar_of({"etc/os-release": b"ID=x\n" * 30_000})
ARM = Target(arch="arm64")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with Store.open(tmp_path / "store") as store:
        yield Host(store, Wiring(store))


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "README").write_text("x")
    return tmp_path / "app"


def push(host: Host, registry: FakeRegistry, image: Image, name: str) -> str:
    reference = f"{registry.host}/{name}"
    push_image(image, host.images.registry(Reference.parse(reference), Target.host()))
    return reference


def plan(
    app: Path,
    host: Host,
    builder: str,
    pull: PullPolicy = PullPolicy.ALWAYS,
    fetch: Fetch = Fetch.ALL,
    target: Target | None = None,
) -> tuple[BuildPlan, list[str]]:
    observer = Quiet()
    request = BuildRequest(Reference.parse("app"), app, builder=builder, pull=pull, target=target)
    return resolve(request, host, observer, fetch=fetch), observer.lines


def images(*names: str) -> dict[str, str]:
    """The label of a builder with several run images."""
    listed = ",".join(f'{{"image":"{name}"}}' for name in names)
    lifecycle = '"lifecycle":{"version":"1","apis":{"platform":{"supported":["0.14"]}}}'
    return {"io.buildpacks.builder.metadata": f'{{"images":[{listed}],{lifecycle}}}'}


def test_what_a_build_fetches_is_said_before_it_is_fetched(
    app: Path, host: Host, registry: FakeRegistry
) -> None:
    run = push(host, registry, foreign_builder.run_image(LAYER), "acme/run")
    builder = push(
        host, registry, foreign_builder.builder_image(LAYER, run=run, launcher=b"x"), "acme/builder"
    )
    _, said = plan(app, host, builder, fetch=Fetch.NOTHING)
    assert not any("fetches" in line for line in said)
    _, said = plan(app, host, builder)
    # The layer of the run image is one of the builder's.
    assert said[0].startswith(f"this build fetches the builder {builder} (5 layers, 0.")
    assert said[0].endswith(f" MB) and the run image {run} (0 layers)")
    assert said[1:3] == [f"fetching {builder}:latest", f"fetching {run}:latest"]
    _, said = plan(app, host, builder)
    assert not any("fetch" in line for line in said)


def test_a_run_image_that_the_store_has_is_not_announced(
    app: Path, host: Host, registry: FakeRegistry
) -> None:
    run = push(host, registry, foreign_builder.run_image(LAYER), "acme/run")
    push_image(foreign_builder.run_image(LAYER), host.store.place(run))
    builder = push(
        host, registry, foreign_builder.builder_image(LAYER, run=run, launcher=b"x"), "acme/builder"
    )
    _, said = plan(app, host, builder)
    assert (
        said[0].startswith(f"this build fetches the builder {builder} (4 layers, ") and "run" not in said[0]
    )


def test_the_run_image_that_is_announced_is_the_one_for_the_builders_target(
    app: Path, host: Host, registry: FakeRegistry
) -> None:
    arm = push(host, registry, stored_image(LAYER, target=ARM), "acme/arm")
    run = push(host, registry, foreign_builder.run_image(LAYER), "acme/run")
    image = foreign_builder.builder_image(LAYER, run="", launcher=b"x", more=images(arm, run))
    _, said = plan(app, host, push(host, registry, image, "acme/builder"))
    assert f"the run image {run} (" in said[0] and arm not in said[0]


@pytest.mark.parametrize("pull", list(PullPolicy))
def test_a_builder_that_is_nowhere_is_reported_once(
    app: Path, host: Host, registry: FakeRegistry, pull: PullPolicy
) -> None:
    with pytest.raises(PackhorseError) as raised:
        plan(app, host, f"{registry.host}/acme/nosuch", pull)
    assert isinstance(raised.value, NotFoundError)


def test_of_several_run_images_the_first_for_the_builders_target_is_taken(
    app: Path, host: Host, registry: FakeRegistry
) -> None:
    arm = push(host, registry, stored_image(LAYER, target=ARM), "acme/arm")
    run = push(host, registry, foreign_builder.run_image(LAYER), "acme/run")
    gone = f"{registry.host}/acme/gone"
    for names in ((run, arm), (arm, run), (gone, arm, run)):
        image = foreign_builder.builder_image(LAYER, run="", launcher=b"x", more=images(*names))
        builder = push(host, registry, image, f"acme/builder:{len(names)}")
        planned, said = plan(app, host, builder)
        assert planned.images is not None and planned.images.run_image.name.image == run
        assert not any("may not start" in line for line in said)

    image = foreign_builder.builder_image(LAYER, run="", launcher=b"x", more=images(gone, arm))
    builder = push(host, registry, image, "acme/builder:arm")
    planned, said = plan(app, host, builder)
    assert planned.images is not None and planned.images.run_image.name.image == arm
    assert said[-1] == (
        f"the run image {arm} is for linux/arm64, and the builder {builder} for linux/amd64: "
        "the application may not start on it"
    )
    image = foreign_builder.builder_image(LAYER, run="", launcher=b"x", more=images(gone, f"{gone}2"))
    builder = push(host, registry, image, "acme/builder:gone")
    with pytest.raises(NotFoundError, match="gone"):
        plan(app, host, builder)


AMD_V2 = Target(arch="amd64", variant="v2")


def test_a_builder_is_for_its_own_variant_and_later_ones(
    app: Path, host: Host, registry: FakeRegistry
) -> None:
    run = push(host, registry, stored_image(LAYER, target=AMD_V2), "acme/run")
    image = foreign_builder.builder_image(LAYER, run=run, launcher=b"x", target=AMD_V2)
    builder = push(host, registry, image, "acme/builder")
    for variant in ("v2", "v3"):
        planned, said = plan(app, host, builder, target=Target(arch="amd64", variant=variant))
        assert planned.images is not None and planned.images.target == AMD_V2
        assert not any("may not start" in line for line in said)
    for variant in ("v1", "v9"):
        with pytest.raises(InputError) as raised:
            plan(app, host, builder, target=Target(arch="amd64", variant=variant))
        assert raised.value.what == f"{builder} is for linux/amd64/v2, not for linux/amd64/{variant}"
        assert raised.value.fix.endswith("or leave out the variant: --platform linux/amd64")


def test_a_run_image_for_a_later_variant_than_the_builders_is_named(
    app: Path, host: Host, registry: FakeRegistry
) -> None:
    run = push(host, registry, stored_image(LAYER, target=AMD_V2), "acme/run")
    image = foreign_builder.builder_image(LAYER, run=run, launcher=b"x", target=Target(variant="v1"))
    builder = push(host, registry, image, "acme/builder")
    _, said = plan(app, host, builder)
    assert said[-1].startswith(f"the run image {run} is for linux/amd64/v2, and the builder {builder} for")


def test_the_default_builder_refuses_a_variant_that_it_is_not_for(app: Path, host: Host) -> None:
    target = Target(arch=Target.host().arch, variant="v0")
    with pytest.raises(InputError, match=f"the default builder cannot build for {target}") as raised:
        plan(app, host, "", target=target)
    assert raised.value.fix.endswith(f"or leave out the variant: --platform linux/{target.arch}")
