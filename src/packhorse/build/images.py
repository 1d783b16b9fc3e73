"""Finds the builder and the run image of a build, and says before the first download what it will fetch.

A builder from a registry can have gigabytes, and its run image is known only from its labels. Called by
`build.plan`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from enum import Enum

from packhorse.base.dataclass import dataclass, field, replace
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.build.deliver import location_of
from packhorse.build.host import Host
from packhorse.build.request import BuildRequest
from packhorse.builder.default import current_name
from packhorse.builder.image import Builder
from packhorse.errors import InputError, NotFoundError, PackhorseError
from packhorse.host.folders import format_bytes
from packhorse.host.locate import fetch_exact, fetch_first, fetch_location, is_for
from packhorse.host.machine import can_run
from packhorse.lifecycle.inputs import RunImageName
from packhorse.oci.mutate import engine_view
from packhorse.oci.place import Image
from packhorse.oci.reference import Location, LocationKind, Reference, is_image_id
from packhorse.oci.types import runs_on

Say = Callable[[str], None]
"""Receives a message for the user."""


class Fetch(Enum):
    """Which images `resolve` saves in the store; of the others it only reads the configs."""

    NOTHING = "nothing"
    BUILDER = "builder"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class RunImagePlan:
    """The run image.

    `name` is the name, with mirrors, that the user or the builder gives. `reference` identifies the image for
    a later rebase: an image ID, or a name with a digest. `image` is a handle to its layers.
    """

    name: RunImageName
    reference: str
    image_id: Digest
    image: Image = field(compare=False, repr=False)


def announce_fetch(request: BuildRequest, host: Host, say: Say) -> None:
    """Says what the build will fetch, if the store does not have its builder.

    Reads only manifests and configs. Images that cannot be read are left out: the build itself reports them.
    """
    location = Location.parse(request.builder)
    if location.kind not in (LocationKind.STORE, LocationKind.REGISTRY) or _is_stored(location.name, host):
        return
    known, parts = set[Digest](), list[str]()
    with suppress(PackhorseError):
        builder = find_builder(request, host, _ignore, Fetch.NOTHING)
        if builder is None:
            return
        parts.append(f"the builder {location.name} ({_describe_missing(builder.image, host, known)})")
        run_image = choose_run_image(request, host, builder, _ignore, Fetch.NOTHING)
        name = run_image.name.image
        if not _is_stored(name, host):
            parts.append(f"the run image {name} ({_describe_missing(run_image.image, host, known)})")
    if parts:
        say(f"this build fetches {' and '.join(parts)}")


def find_builder(request: BuildRequest, host: Host, say: Say, fetch: Fetch) -> Builder | None:
    """Finds the builder; None for the default builder if it does not exist yet."""
    name, target, save = request.builder, request.target or Target.host(), fetch is not Fetch.NOTHING
    if request.builder_id:
        image = fetch_exact(
            host.images,
            name,
            request.builder_id,
            target=target,
            say=say,
            option="--builder",
            save=save,
        )
    elif name:
        image = fetch_location(
            host.images,
            Location.parse(name),
            target=target,
            say=say,
            pull=request.pull,
            save=save,
        )
    else:
        if not runs_on(Target.host(), target):
            raise InputError(
                f"the default builder cannot build for {target}",
                why=f"it is made of this machine's packages, which are for {Target.host()}",
                fix=f"name a builder for {target} with --builder{_or_no_variant(Target.host(), target)}",
            )
        name = current_name(host.store)
        if not name:
            return None
        image = host.store.place(name).read()
    return Builder.read(name, image)


def check_target(builder: Builder, wanted: Target | None) -> None:
    """Checks that the builder is for the `wanted` target, and that this machine can run it.

    Raises InputError.
    """
    found = builder.image.config.target
    if wanted is not None and not runs_on(found, wanted):
        raise InputError(
            f"{builder.name} is for {found}, not for {wanted}",
            why="--platform names the platform of builder and image",
            fix=f"name a builder for {wanted}, or fetch it anew: --pull-policy always"
            + _or_no_variant(found, wanted),
        )
    if not can_run(found.arch):
        raise InputError(
            f"this machine cannot run programs for {found}",
            why=f"it is for {Target.host()}, and no emulator for {found.arch} is registered with the kernel",
            fix="install one (on Debian and Ubuntu the package qemu-user-static), or build on such a machine",
        )


def _or_no_variant(found: Target, wanted: Target) -> str:
    """What else fixes that a builder for `found` is not for `wanted`, if only the variant is the reason."""
    is_variant = wanted.variant and (found.os, found.arch) == (wanted.os, wanted.arch)
    return f", or leave out the variant: --platform {wanted.os}/{wanted.arch}" if is_variant else ""


def choose_run_image(
    request: BuildRequest, host: Host, builder: Builder, say: Say, fetch: Fetch
) -> RunImagePlan:
    """Chooses the run image: the user's, which has no mirrors, else the builder's first one for its target.

    If none is for the target, takes the first that exists, with a warning. Raises InputError if the builder
    names none, and the errors of fetching.
    """
    names = (RunImageName(request.run_image),) if request.run_image else builder.run_images
    if not names:
        raise InputError(
            f"{builder.name} names no run image", fix="name one with --run-image, or use another builder"
        )
    target, others, failures = builder.image.config.target, list[RunImagePlan](), list[NotFoundError]()
    for name in names:
        try:
            found = _find_run_image(request, host, builder, name, say, fetch)
        except NotFoundError as error:
            failures.append(error)
            continue
        if is_for(found.image, target):
            return found
        others.append(found)
    if not others:
        raise failures[0]
    say(
        f"the run image {others[0].name.image} is for {others[0].image.config.target}, and the builder "
        f"{builder.name} for {target}: the application may not start on it"
    )
    return others[0]


def _find_run_image(
    request: BuildRequest,
    host: Host,
    builder: Builder,
    name: RunImageName,
    say: Say,
    fetch: Fetch,
) -> RunImagePlan:
    """Finds the run image under one name.

    If the new image is published, its config is that in the registry, else the one that an engine would show
    (docs/decisions/0005).
    """
    names, target = (name.image, *name.mirrors), builder.image.config.target
    save = fetch is Fetch.ALL
    if is_image_id(request.run_reference):
        image = fetch_exact(
            host.images,
            name.image,
            request.run_reference,
            target=target,
            say=say,
            option="--run-image",
            save=save,
        )
    elif request.run_reference:
        image = host.images.registry(Reference.parse(request.run_reference), target).read()
        return RunImagePlan(name, request.run_reference, image.id, image)
    elif request.publish:
        from packhorse.fleet.run_images import RunImages  # most builds write to the store alone

        run_images = RunImages(host.images, say=say, policy=request.pull)
        found = run_images.find(names, location_of(request.name), target)
        return RunImagePlan(name, found.reference, found.image.id, found.image)
    else:
        near = _registry_of(builder.name)
        image = fetch_first(
            host.images,
            names,
            registry=near,
            target=target,
            say=say,
            pull=request.pull,
            save=save,
        )
    shown = replace(image, config=engine_view(image.config))
    return RunImagePlan(name, image.id.hex, image.id, shown)


def _registry_of(builder: str) -> str:
    """The registry in the name of a builder; "" if its location names no registry."""
    location = Location.parse(builder)
    if location.kind in (LocationKind.OCI, LocationKind.OCI_ARCHIVE):
        return ""
    return "" if not location.name or is_image_id(location.name) else location.reference.registry


def _is_stored(name: str, host: Host) -> bool:
    try:
        host.store.find(name)
    except NotFoundError:
        return False
    return True


def _describe_missing(image: Image, host: Host, known: set[Digest]) -> str:
    """Describes what has to be fetched of an image: layers and bytes.

    Adds the layers to `known`, so that a layer of two images counts once.
    """
    missing = [
        layer
        for layer in image.layers
        if layer.diff_id is None or (layer.diff_id not in known and host.store.layer(layer.diff_id) is None)
    ]
    known.update(layer.diff_id for layer in missing if layer.diff_id)
    layers = f"{len(missing)} layer{'' if len(missing) == 1 else 's'}"
    sizes = [layer.descriptor.size if layer.descriptor else 0 for layer in missing]
    return f"{layers}, {format_bytes(sum(sizes))}" if all(sizes) and sizes else layers


def _ignore(text: str) -> None:
    """Drops a message, because the build itself will say it again."""
