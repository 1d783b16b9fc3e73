"""The use case behind `packhorse verify`: builds an image again from its source and compares the two.

The second build uses the builder, the run image and the options that the image's manifest records. The user
gives the values of variables, because the manifest has only their names. The build has a temporary name, so
that no kept layer is reused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from packhorse.base.dataclass import dataclass, replace
from packhorse.base.target import Target
from packhorse.build.execute import BuildObserver, execute
from packhorse.build.host import Host
from packhorse.build.plan import resolve
from packhorse.build.request import BuildRequest
from packhorse.errors import InputError, NotFoundError
from packhorse.host.locate import LOCAL_REGISTRY
from packhorse.lifecycle import labels
from packhorse.oci.place import Image
from packhorse.oci.reference import Reference, is_image_id
from packhorse.report.diff import Difference, compared_image, diff
from packhorse.report.provenance import BuildProvenance
from packhorse.store.store import Store

_BASE = re.compile(r"labels\[io\.buildpacks\.lifecycle\.metadata\]\.(?:runImage|stack)\..*")


@dataclass(frozen=True, slots=True)
class Verification:
    """How the image differs from the one that was just built.

    Two equal images may still describe their base differently: by its ID, by its digest in a registry, or by
    the history that a rebase leaves.
    """

    difference: Difference

    @property
    def is_reproduced(self) -> bool:
        """Whether everything that a build determines is the same."""
        values = self.difference.values
        is_base_only = all(value.is_derived or _BASE.fullmatch(value.path) for value in values)
        return self.difference.is_same or (is_base_only and not self.difference.changed_groups)

    @property
    def headline(self) -> str:
        """The verdict in one line."""
        image = self.difference.before.image
        if self.difference.is_same:
            return f"reproducible: the source gives the same image, {image.id}"
        if self.is_reproduced:
            return "reproducible: every layer and setting is the same; the base is described differently"
        return f"not reproducible: {self.difference.headline}"


def request_for(image: Image, name: str, asked: BuildRequest) -> BuildRequest:
    """The request for the second build: `asked`, completed by what the image's manifest records.

    Raises InputError if `asked` lacks a variable, volume or buildpack directory of the first build.
    Raises NotFoundError if the image does not say how it was built and `asked` names no builder.
    """
    known = BuildProvenance.parse(image)
    if known is None and not asked.builder:
        raise NotFoundError(
            f"{name} does not say how it was built",
            why="another program built it, or it came through an engine or docker archive, which drop this",
            fix="name the builder: --builder IMAGE",
        )
    metadata = labels.LayersMetadata.parse(image.config.labels.get(labels.LIFECYCLE, ""))
    reference = metadata.run_image.reference
    is_exact = not asked.run_image and (is_image_id(reference) or "@" in reference)
    request = replace(asked, run_reference=reference if is_exact else "")
    target = image.config.target
    if asked.target is None and target.arch != Target.host().arch:
        request = replace(request, target=target)
    if known is None:
        return request
    issues = list(_issues(known, asked))
    if issues:
        raise InputError(f"{name} cannot be built as it was", issues=issues)
    if not asked.builder:
        request = replace(request, builder=known.builder, builder_id=known.builder_id)
    return replace(
        request,
        buildpacks=asked.buildpacks or known.buildpacks,
        pre_buildpacks=asked.pre_buildpacks or known.pre_buildpacks,
        post_buildpacks=asked.post_buildpacks or known.post_buildpacks,
        default_process=known.default_process,
        run_image=asked.run_image or known.run_image,
        launcher=known.launcher,
        exec_env=known.exec_env,
        workspace=known.workspace,
        system_buildpacks=known.system_buildpacks,
        uid=known.uid,
        gid=known.gid,
        created=known.created,
        labels=known.labels,
    )


def verify(
    image: Image, request: BuildRequest, host: Host, observer: BuildObserver, *, title: str
) -> Verification:
    """Builds `request`, compares the result with `image`, and removes the result from the store.

    `title` is the name of `image` in the comparison. Raises what a build raises.
    """
    with _temporary_name(image, host.store) as name:
        again = replace(request, name=name, clear_cache=True)
        execute(resolve(again, host, observer), host, observer)
        rebuilt = host.store.place(str(name)).read()
        return Verification(diff(compared_image(title, image), compared_image("rebuilt", rebuilt)))


@contextmanager
def _temporary_name(image: Image, store: Store) -> Iterator[Reference]:
    """A name for the second build. Removes its image and layers before, in case a command died, and after."""
    name = Reference.parse(f"{LOCAL_REGISTRY}/verify:{image.id.short}")
    _forget(name, store)
    try:
        yield name
    finally:
        _forget(name, store)


def _forget(name: Reference, store: Store) -> None:
    try:
        store.remove(str(name))
    except NotFoundError:
        store.forget(str(name))


def _issues(known: BuildProvenance, asked: BuildRequest) -> Iterator[str]:
    missing = [name for name in known.env if name not in asked.env]
    if missing:
        yield f"its build had variables, whose values only you know: {_options('--env', missing)}"
    if known.descriptor and asked.descriptor is None:
        yield f"its build read another file than project.toml: --descriptor {known.descriptor}"
    places = {bind.target for bind in asked.volumes}
    volumes = [place for place in known.volumes if place not in places]
    if volumes:
        yield f"its build had volumes: {_options('--volume', [f'SOURCE:{place}' for place in volumes])}"
    for option, named, given in (
        ("--buildpack", known.buildpacks, asked.buildpacks),
        ("--pre-buildpack", known.pre_buildpacks, asked.pre_buildpacks),
        ("--post-buildpack", known.post_buildpacks, asked.post_buildpacks),
    ):
        directories = ", ".join(name for name in known.directories if name in named)
        if directories and not given:
            yield f"it had buildpacks from its own machine ({directories}): name all again with {option}"


def _options(option: str, values: Sequence[str]) -> str:
    return " ".join(f"{option} {value}" for value in values)
