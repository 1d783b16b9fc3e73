"""The use case behind `packhorse build`.

Chooses builder and run image, has `building` make the image, and copies what came out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from packhorse.base.dataclass import dataclass, replace
from packhorse.base.target import Target
from packhorse.errors import InputError
from packhorse.image.copy import copy, put
from packhorse.image.edit import engine_view
from packhorse.image.place import Place, Receipt
from packhorse.image.reference import Kind, Location, Reference, is_id
from packhorse.lifecycle.inputs import RunImageName
from packhorse.lifecycle.ports import Observer
from packhorse.lifecycle.rebase import RunImage
from packhorse.lifecycle.stages import Exported
from packhorse.platform import (
    buildpacks,
    default_builder,
    kept_storage,
    report,
    volumes,
)
from packhorse.platform.beginning import beginning
from packhorse.platform.build_request import BuildRequest
from packhorse.platform.builder import Builder
from packhorse.platform.building import Work, exported_by
from packhorse.platform.copies import of_run_image
from packhorse.platform.locate import exact, fetched, first_fetched
from packhorse.platform.publish import check, location_of, publish
from packhorse.platform.run_images import RunImages
from packhorse.platform.wiring import Wiring, check_runtime, tidy
from packhorse.source import app
from packhorse.source.project import Project
from packhorse.store.harvest import Counters
from packhorse.store.store import Store


@dataclass(frozen=True, slots=True)
class BuildOutcome:
    """What came out: the image, where else it was written, and what its layers cost.

    `published` is what the registry of its name identifies it by, where it was published.
    """

    exported: Exported
    counters: Counters
    copies: tuple[tuple[Location, Receipt], ...]
    published: Receipt | None = None


def build(
    request: BuildRequest, store: Store, observer: Observer, progress: Callable[[str], None]
) -> BuildOutcome:
    """Builds `request.path` into the store under `request.name`, then writes the copies asked for.

    `progress` is told what goes on while the default builder is made.
    Raises whatever its parts raise (`packhorse.errors`); the image of before stays under the name then.
    """
    path = app.check(request.path)
    if store.path.resolve().is_relative_to(path):
        raise InputError(
            f"{request.path} is no application",
            why="packhorse's own store is in it, so it is a home or the whole machine, with whatever secrets",
            fix="check --path",
        )
    buildpacks.require_supported(request.buildpacks)
    project = _project(request, path, observer)
    check_runtime(request.sandbox)
    shared = volumes.checked(request.volumes, observer.say, store=store.path.resolve())
    tidy(store)
    wiring = Wiring(store, reach=request.reach, environ=request.environ, docker_host=request.docker_host)
    names = (request.name, *request.tags)
    if request.publish:
        check(wiring, names)
    if request.outputs or request.report is not None:
        from packhorse.platform import destinations  # most builds write to the store alone

        destinations.check(wiring, request.outputs, request.report)
    begin = beginning(request, wiring, observer)
    builder = _builder(request, wiring, observer, progress)
    named = _run_image(request, builder)
    base = _base(request, wiring, builder, named, observer)
    work = Work(request, store, builder, named, base, begin, path, project, shared)
    exported, counters = exported_by(work, observer)
    if begin.elsewhere:
        begin.elsewhere.write(*store.left(str(request.name)), builder.image.config.target)
    if counters.changed:
        kept_storage.trim(store, request.keep_storage, built=request.name, observer=observer)
    built = store.place(str(request.name))
    for tag in request.tags:
        copy(built, store.place(str(tag)))
    copies = publish(wiring, built, names, request.compression, observer) if request.publish else ()
    published = copies[0][1] if copies else None
    copies += _copies(request, wiring, built, observer)
    if request.report is not None:
        receipt = published or Receipt(exported.image.id)
        report.write(request.report, str(request.name), receipt, others=[str(tag) for tag in request.tags])
    return BuildOutcome(exported, counters, copies, published)


def _project(request: BuildRequest, path: Path, observer: Observer) -> Project:
    """The source's project.toml, as far as the command line has not something else."""
    overridden = [
        name for name, value in (("builder", request.builder), ("group", request.buildpacks)) if value
    ]
    return Project.read(path, overridden=overridden, warn=observer.say)


def _run_image(request: BuildRequest, builder: Builder) -> RunImageName:
    """The run image: one that the user names has no mirrors."""
    if request.run_image:
        return RunImageName(request.run_image)
    if not builder.run_images:
        raise InputError(
            f"{builder.name} names no run image", fix="name one with --run-image, or use another builder"
        )
    return builder.run_images[0]


def _base(
    request: BuildRequest, wiring: Wiring, builder: Builder, named: RunImageName, observer: Observer
) -> RunImage:
    """The run image to build on: as its registry has it for an image that is published, else as an engine
    shows it (docs/decisions/0005).
    """
    names, target = (named.image, *named.mirrors), builder.image.config.target
    if is_id(request.run_reference):
        image = exact(
            wiring, named.image, request.run_reference, target=target, say=observer.say, option="--run-image"
        )
    elif request.run_reference:
        image = wiring.registry(Reference.parse(request.run_reference), target).read()
        return RunImage(image, named.image, request.run_reference)
    elif request.publish:
        run_images = RunImages(wiring, say=observer.say, policy=request.pull)
        return run_images.find(names, location_of(request.name), target)
    else:
        near = Reference.parse(builder.name).registry
        image = first_fetched(wiring, names, near=near, target=target, say=observer.say, pull=request.pull)
    return RunImage(replace(image, config=engine_view(image.config)), named.image, image.id.hex)


def _copies(
    request: BuildRequest, wiring: Wiring, source: Place, observer: Observer
) -> tuple[tuple[Location, Receipt], ...]:
    copies = []
    for location in request.outputs:
        with observer.phase(f"write {location}"):
            image = source.read()
            sparse = request.sparse and location.kind is Kind.OCI
            without = of_run_image(image, location) if sparse else frozenset()
            place = wiring.place(location, compression=request.compression, without=without)
            receipt = put(image, place, meter=wiring.meter, name=f"writing {location}")
            copies.append((location, receipt))
    return tuple(copies)


def _builder(
    request: BuildRequest, wiring: Wiring, observer: Observer, progress: Callable[[str], None]
) -> Builder:
    if request.builder_id:
        host = Target.host()
        image = exact(
            wiring, request.builder, request.builder_id, target=host, say=observer.say, option="--builder"
        )
        return Builder.read(request.builder, image)
    if request.builder:
        image = fetched(wiring, request.builder, target=Target.host(), say=observer.say, pull=request.pull)
        return Builder.read(request.builder, image)
    with observer.activity("making the default builder"):
        made = default_builder.ensure(
            wiring.store, environ=request.environ, progress=_announced(observer, progress)
        )
    return Builder.read(made.name, wiring.store.place(made.name).read())


def _announced(observer: Observer, progress: Callable[[str], None]) -> Callable[[str], None]:
    """Says once that the default builder is made, before its first step."""
    first = True

    def announced(text: str) -> None:
        nonlocal first
        if first:
            observer.say("making the default builder of this machine's packages (once, a minute or two)")
            first = False
        progress(text)

    return announced
