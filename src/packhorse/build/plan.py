"""Decides what a build does: `resolve` makes a frozen plan before anything runs.

`resolve` starts no process and makes no mount. It asks registries, and fetches the images that the build
needs into the store (not for `packhorse build --dry-run`). `execute` runs the plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from packhorse.base.dataclass import dataclass, field, replace
from packhorse.base.sandbox import Bind, Limits, Network
from packhorse.base.target import Target
from packhorse.build.buildpacks import NamedBuildpack, NamedBuildpacks
from packhorse.build.deliver import location_of
from packhorse.build.host import Host
from packhorse.build.images import (
    Fetch,
    RunImagePlan,
    announce_fetch,
    check_target,
    choose_run_image,
    find_builder,
)
from packhorse.build.layers import supports_overlays
from packhorse.build.mounts import check_volumes
from packhorse.build.previous import PreviousBuild, find_previous, for_target
from packhorse.build.request import BuildRequest
from packhorse.builder.image import Builder
from packhorse.errors import InputError
from packhorse.host.cache_image import CacheImage
from packhorse.host.limits import build_limits
from packhorse.host.machine import HostNetwork, choose_network, loopback_ports, network
from packhorse.host.wiring import check_runtime, remove_leftovers
from packhorse.lifecycle.ports import Observer
from packhorse.oci.reference import Location, LocationKind, Reference
from packhorse.report.provenance import BuildProvenance
from packhorse.source import files
from packhorse.source.project_toml import NAME, Project
from packhorse.spec.api import PLATFORM_EXEC_ENV, PlatformApi
from packhorse.spec.buildpack_toml import Order
from packhorse.spec.env import BUILD_INHERITED
from packhorse.version import __version__


def check_cache_image(request: BuildRequest, host: Host) -> None:
    """Checks that the cache image can be written and is a cache.

    Raises NetworkError when the user may not write it (P-028), InputError if it would
    replace another image.
    """
    name = request.cache_image
    if name is None:
        return
    written = [location.reference for location in request.outputs if location.kind is LocationKind.REGISTRY]
    if request.publish:
        written += request.names
    if any((each.name, each.identifier) == (name.name, name.identifier) for each in written):
        raise InputError(
            f"{name.familiar} cannot be the image and its cache",
            why="one would take the other's place",
            fix=f"name another for --cache-image, for instance {name.name}-cache",
        )
    host.images.check_push([name])
    open_cache_image(
        name, host, None
    ).require_cache()  # no observer: the build itself reports what cannot be read


def open_cache_image(name: Reference, host: Host, observer: Observer | None) -> CacheImage:
    """The cache image, read when it is needed and written to its own registry, not to a mirror."""
    return CacheImage(host.images.place(location_of(name), mirrors=False), name.familiar, observer)


@dataclass(frozen=True, slots=True)
class ImagesPlan:
    """Everything that depends on the builder.

    `named` are the buildpacks of the command line and of project.toml. `copied_buildpacks` (each
    `<id>@<version>`) failed on an overlay before: if one of them runs, the whole build uses copies. `env` has
    the builder's variables that buildpacks get, without HOME.
    """

    builder: Builder
    platform_api: PlatformApi
    run_image: RunImagePlan
    named: NamedBuildpacks
    copied_buildpacks: tuple[str, ...]
    env: Mapping[str, str]
    exec_env: str
    provenance: BuildProvenance

    @property
    def order(self) -> Order:
        """The groups of buildpacks that detection tries, in this order."""
        return self.named.order(self.builder.order)

    @property
    def target(self) -> Target:
        """The operating system and architecture that the image is built for."""
        return self.builder.image.config.target


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """Everything about a build that can be decided before it runs.

    The source is at `path`, without the paths `excluded`. With `overlays` the kept layers and the source lie
    below overlays, else buildpacks get copies. `host_network` has this machine's proxies, certificates and
    name service. `images` is None until the default builder is made.
    """

    request: BuildRequest
    path: Path
    project: Project
    excluded: tuple[str, ...]
    volumes: tuple[Bind, ...]
    overlays: bool
    network: Network
    host_network: HostNetwork
    limits: Limits = field(compare=False)  # they follow the free space of the disk
    previous: PreviousBuild
    images: ImagesPlan | None = None

    @property
    def env(self) -> Mapping[str, str]:
        """The user's variables for buildpacks; the command line's replace those of project.toml."""
        return {**self.project.env, **self.request.env}

    @property
    def loopback_ports(self) -> tuple[int, ...]:
        """The ports of this machine's loopback that buildpacks reach from a network of their own."""
        if self.network is not Network.OWN:
            return ()
        return loopback_ports({**self.host_network.variables, **self.env})


def resolve(request: BuildRequest, host: Host, observer: Observer, *, fetch: Fetch = Fetch.ALL) -> BuildPlan:
    """Decides how `request` is built on this machine; `observer` gets messages for the user.

    Raises InputError and the errors of registries, engines and the store for a build that cannot begin. When
    the default builder has to be made first, the plan has no images yet: `with_images` adds them.
    """
    path = _check_source(request, host)
    project = _read_project(request, path, observer)
    request = _with_project_builder(request, project)
    check_runtime(request.sandbox)
    volumes = check_volumes(request.volumes, observer, store=host.store.path.resolve(), app=request.workspace)
    if fetch is not Fetch.NOTHING:
        remove_leftovers(host.store)
    _check_destinations(request, host)
    excluded = project.excluded_paths(path)
    _warn_of_cache_in_source(request.cache_directory, path, excluded, observer)
    plan = BuildPlan(
        request=request,
        path=path,
        project=project,
        excluded=excluded,
        volumes=volumes,
        overlays=request.overlay and supports_overlays(host.store.path, observer),
        network=_choose_network(request, observer),
        host_network=network(host.environ),
        limits=build_limits(host.store.path, request.limits),
        previous=find_previous(request, host, observer),
    )
    if fetch is Fetch.ALL and request.builder and not request.builder_id:
        announce_fetch(request, host, observer.say)
    builder = find_builder(request, host, observer.say, fetch)
    return plan if builder is None else with_images(plan, builder, host, observer, fetch=fetch)


def with_images(
    plan: BuildPlan, builder: Builder, host: Host, observer: Observer, *, fetch: Fetch = Fetch.ALL
) -> BuildPlan:
    """Adds to a plan what depends on its builder; raises as `resolve` does, and PlatformApiError."""
    request = plan.request
    builder = _with_user(builder, request)
    check_target(builder, request.target)
    named = _find_buildpacks(plan, builder, host, observer, fetch)
    run_image = choose_run_image(request, host, builder, observer.say, fetch)
    api = PlatformApi.highest(builder.platform_apis, owner=builder.name)
    known = [f"{id}@{version}" for id, versions in builder.buildpacks.items() for version in versions]
    known += [str(member.ref) for each in named.all for member in each.members]
    images = ImagesPlan(
        builder=builder,
        platform_api=api,
        run_image=run_image,
        named=named,
        copied_buildpacks=host.store.copied_writers(known) if plan.overlays else (),
        env={key: value for key, value in builder.env.items() if key in BUILD_INHERITED},
        # Before Platform API 0.15 production is the only execution environment.
        exec_env=request.exec_env if api.has(PLATFORM_EXEC_ENV) else "production",
        provenance=_provenance(request, builder, named),
    )
    previous = for_target(plan.previous, images.target, request.kept_as, observer)
    if previous is not plan.previous:
        request = replace(request, clear_cache=True)
    return replace(plan, request=request, previous=previous, images=images)


def _with_user(builder: Builder, request: BuildRequest) -> Builder:
    """The builder with the user and group of `--uid` and `--gid`."""
    uid = builder.uid if request.uid is None else request.uid
    gid = builder.gid if request.gid is None else request.gid
    return replace(builder, uid=uid, gid=gid)


def _check_source(request: BuildRequest, host: Host) -> Path:
    path = files.check(request.path)
    if host.store.path.resolve().is_relative_to(path):
        raise InputError(
            f"{request.path} is not an application",
            why="packhorse's own store is in it, so it is a home directory or all files of this machine",
            fix="check --path",
        )
    return path


def _named_options(request: BuildRequest) -> Mapping[str, tuple[str, ...]]:
    """The options that name buildpacks, and the locators given to each."""
    return {
        "--buildpack": request.buildpacks,
        "--pre-buildpack": request.pre_buildpacks,
        "--post-buildpack": request.post_buildpacks,
    }


def _read_project(request: BuildRequest, path: Path, observer: Observer) -> Project:
    """The source's project.toml or `--descriptor`; says which named buildpacks have no effect."""
    project = Project.read(path, descriptor=request.descriptor, warn=observer.say)
    group = "--buildpack" if request.buildpacks else project.group and project.group[0].where
    for option in ("--pre-buildpack", "--post-buildpack"):
        if group and _named_options(request)[option]:
            observer.say(f"{option} has no effect: {group} replaces the builder's groups")
    for entries in (project.pre, project.post):
        if group and entries:
            observer.say(f"{entries[0].where} has no effect: {group} replaces the builder's groups")
    return project


def _with_project_builder(request: BuildRequest, project: Project) -> BuildRequest:
    """The request with the builder of project.toml, unless the command line names one.

    A relative path in project.toml starts at the directory of that file.
    """
    if request.builder or not project.builder:
        return request
    where = project.builder_where
    try:
        location = Location.parse(project.builder)
        if location.kind not in (LocationKind.STORE, LocationKind.REGISTRY):
            above = request.descriptor.parent if request.descriptor else request.path
            path = str(above.absolute() / location.path) if location.path else ""
            return replace(request, builder=str(replace(location, path=path)))
        reference = Reference.parse(location.name)
    except InputError as error:
        raise InputError(f"{where}: {error.what}", why=error.why, fix=error.fix) from error
    if str(reference) in map(str, request.names):
        raise InputError(
            f"{where}: the builder {location.name} has the name of the image to build",
            why="the image would replace its own builder",
            fix="build under another name, or name another builder",
        )
    return replace(request, builder=location.name)


def _find_buildpacks(
    plan: BuildPlan, builder: Builder, host: Host, observer: Observer, fetch: Fetch
) -> NamedBuildpacks:
    """Finds the named buildpacks. An option replaces the table of project.toml for the same position."""
    request, project = plan.request, plan.project
    named = (*request.buildpacks, *request.pre_buildpacks, *request.post_buildpacks)
    if not (named or project.group or project.pre or project.post):
        return NamedBuildpacks()
    from packhorse.build.locators import Locators  # most builds have the builder's buildpacks alone

    locators = Locators(builder, host, observer, pull=request.pull, save=fetch is not Fetch.NOTHING)
    if request.buildpacks:
        found = NamedBuildpacks(locators.find_group(request.buildpacks, "--buildpack"))
    elif project.group:
        found = NamedBuildpacks(locators.find_entries(project.group, plan.path))
    else:
        pre, post = (
            locators.find_around(names, option) if names else locators.find_entries_around(entries, plan.path)
            for names, option, entries in (
                (request.pre_buildpacks, "--pre-buildpack", project.pre),
                (request.post_buildpacks, "--post-buildpack", project.post),
            )
        )
        found = NamedBuildpacks(pre=pre, post=post)
    found.check_refs()
    for each in found.all:
        if each.directory is not None and plan.path.is_relative_to(each.directory):
            observer.say(f"the buildpack {each.directory} contains the source, with its excluded files")
        if not each.is_of_builder and each.ref.version in builder.buildpacks.get(each.ref.id, ()):
            observer.say(f"{each.ref}: using the named buildpack instead of the builder's")
    return found


def _check_destinations(request: BuildRequest, host: Host) -> None:
    """Checks all destinations now, because writing to them would fail only after minutes of building."""
    if request.publish:
        host.images.check_push(request.names)
    if request.outputs or request.report is not None or request.sboms is not None:
        from packhorse.build.deliver import check_destinations  # most builds write to the store alone

        check_destinations(host.images, request.outputs, request.report, request.sboms)
    check_cache_image(request, host)
    if request.cache_directory is not None:
        from packhorse.build.deliver import check_directory

        check_directory(request.cache_directory)


def _warn_of_cache_in_source(
    cache: Path | None, path: Path, excluded: Sequence[str], observer: Observer
) -> None:
    """Warns of a cache inside the source, because each build would then change the source."""
    if cache is None or not cache.resolve().is_relative_to(path):
        return
    inside = str(cache.resolve().relative_to(path))
    if not any(f"{inside}/".startswith(f"{name}/") for name in excluded):
        observer.say(f"the cache {cache} is part of the source: exclude {inside} in {NAME}")


def _choose_network(request: BuildRequest, observer: Observer) -> Network:
    chosen, reason = choose_network(request.network)
    if reason:
        observer.say(
            f"buildpacks use this machine's network, and reach what listens on its loopback: {reason}"
        )
    return chosen


def _provenance(request: BuildRequest, builder: Builder, named: NamedBuildpacks) -> BuildProvenance:
    """Records how the image is built, for its manifest. Bytes of names that are not UTF-8 are escaped."""
    given = [each for each in named.all if not each.is_of_project]
    return BuildProvenance(
        builder=builder.name,
        builder_id=str(builder.image_id),
        version=__version__,
        buildpacks=_locators(named.group) if request.buildpacks else (),
        pre_buildpacks=_locators(named.pre) if request.pre_buildpacks else (),
        post_buildpacks=_locators(named.post) if request.post_buildpacks else (),
        directories=tuple(str(each.ref) for each in given if each.is_local),
        env=tuple(sorted(map(_printable, request.env))),
        volumes=tuple(sorted(bind.target for bind in request.volumes)),
        default_process=request.default_process,
        run_image=request.run_image,
        launcher=request.launcher,
        descriptor=_printable(request.descriptor.name) if request.descriptor else "",
        exec_env=request.exec_env,
        workspace=request.workspace,
        system_buildpacks=request.system_buildpacks,
        uid=request.uid,
        gid=request.gid,
        created=request.created,
        labels=request.labels,
        network=str(request.network.value) if request.network else "",
    )


def _printable(name: str) -> str:
    return name.encode(errors="surrogateescape").decode("utf-8", "backslashreplace")


def _locators(named: tuple[NamedBuildpack | None, ...]) -> tuple[str, ...]:
    """The locators by which `verify` finds the buildpacks again, on any machine."""
    return tuple("from=builder" if each is None else each.origin or str(each.ref) for each in named)
