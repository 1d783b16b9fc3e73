"""The use case behind `packhorse build`.

Chooses builder, sandbox and store, calls the spine, and copies what came out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from packhorse.base import userns
from packhorse.base.step import Bind, Network
from packhorse.base.target import Target
from packhorse.errors import BuildpackFailed, InputError
from packhorse.image.copy import copy
from packhorse.image.edit import engine_view
from packhorse.image.place import Place, Receipt
from packhorse.image.reference import Location, Reference, is_id
from packhorse.lifecycle.api import EXEC_ENV, PlatformApi
from packhorse.lifecycle.create import create
from packhorse.lifecycle.inputs import Inputs, RunImageName
from packhorse.lifecycle.ports import Observer
from packhorse.lifecycle.rebase import RunImage
from packhorse.lifecycle.stages import Exported
from packhorse.platform import (
    buildpacks,
    default_builder,
    failure,
    host,
    kept_storage,
    recorded,
    report,
    volumes,
)
from packhorse.platform.accounts import account
from packhorse.platform.beginning import Beginning, beginning
from packhorse.platform.build_request import BuildRequest
from packhorse.platform.builder import Builder
from packhorse.platform.crossing import BuildLayers, Crossed, Listener
from packhorse.platform.limits import build_limits
from packhorse.platform.locate import exact, fetched, first_fetched
from packhorse.platform.publish import check, location_of, publish
from packhorse.platform.run_images import RunImages
from packhorse.platform.runner import APP, TEMPORARY, BuildRunner, Scene
from packhorse.platform.wiring import Wiring, check_runtime, groups, sandbox, tidy
from packhorse.source import app
from packhorse.store.copies import LayersCopies
from packhorse.store.harvest import Counters
from packhorse.store.overlay import LayersOverlay
from packhorse.store.store import Store

_INHERITED = (
    "CNB_STACK_ID",
    "HOSTNAME",
    "PATH",
    "LD_LIBRARY_PATH",
    "LIBRARY_PATH",
    "CPATH",
    "PKG_CONFIG_PATH",
    *("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"),
)
"""What buildpacks get of the builder image's own environment (as under the reference)."""


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
    check_runtime(request.sandbox)
    shared = volumes.checked(request.volumes, observer.say, store=store.path.resolve())
    tidy(store)
    wiring = Wiring(store, reach=request.reach, environ=request.environ, docker_host=request.docker_host)
    names = (request.name, *request.tags)
    if request.publish:
        check(wiring, names)
    begin = beginning(request, wiring, observer)
    builder = _builder(request, wiring, observer, progress)
    named = _run_image(request, builder)
    base = _base(request, wiring, builder, named, observer)
    exported, counters = _exported(request, store, builder, named, base, begin, path, shared, observer)
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


def _exported(
    request: BuildRequest,
    store: Store,
    builder: Builder,
    named: RunImageName,
    base: RunImage,
    begin: Beginning,
    path: Path,
    shared: Sequence[Bind],
    observer: Observer,
) -> tuple[Exported, Counters]:
    """As `_exported_once`; what cannot live on an overlay is built once more without."""
    once = partial(_exported_once, request, store, builder, named, base, begin, path, shared)
    try:
        return once(Listener(observer), copied=not request.overlay)
    except Crossed as crossed:
        observer.say(
            f"{crossed.buildpack} cannot live on an overlay, where a directory that was there before cannot "
            "be moved: building again, on plain copies"
        )
        outcome = once(Listener(observer), copied=True)
        store.remember_copied(crossed.buildpack, str(request.name))
        return outcome


def _exported_once(
    request: BuildRequest,
    store: Store,
    builder: Builder,
    named: RunImageName,
    base: RunImage,
    begin: Beginning,
    path: Path,
    shared: Sequence[Bind],
    observer: Listener,
    *,
    copied: bool,
) -> tuple[Exported, Counters]:
    """The image in the store, of the source at `path` and what is `shared`, and what its layers cost.

    Raises Crossed for a buildpack that an overlay made fail. Whatever another failing step leaves stays there
    to be looked at, if the step can be repeated.
    """
    target = store.place(str(request.name))
    with store.scratch() as scratch, userns.make(userns.choose(builder.uid, builder.gid)) as namespace:
        owner = namespace.idmap.outside(builder.uid, builder.gid)

        def shown(*, copied: bool) -> LayersOverlay | LayersCopies:
            how = store.layer_copies if copied else store.layers
            return how(
                str(request.name),
                namespace.idmap,
                uid=builder.uid,
                gid=builder.gid,
                scratch=scratch,
                family=request.name.name,
                like=begin.like,
            )

        ids = {"uid": builder.uid, "gid": builder.gid}
        layers = BuildLayers(
            shown,
            among=store.copied,
            say=observer.say,
            copied=copied,
            elsewhere=begin.elsewhere,
            take=lambda layer, path: store.take_layer(layer, path, namespace.idmap, **ids),
        )
        added = buildpacks.added(request.buildpacks, builder, scratch)
        _say_changed(request, layers.recorded, observer)
        outside = host.network(request.environ)
        root = store.root(builder.image, namespace.idmap)
        inputs = _inputs(request, builder, named, added, root, outside.variables)
        volumes.check_places(shared, root, path, (APP, inputs.env["HOME"], *TEMPORARY))
        scene = Scene(
            root=root,
            home=inputs.env["HOME"],
            uid=builder.uid,
            gid=builder.gid,
            app=_lowers(path, scratch, owner),
            copy_app=lambda target: app.copy(path, target, owner),
            layers=layers.mounts,
            copied=lambda: layers.copied,
            mounts=(*_platform(request.env, shared, scratch), *added.mounts, *outside.mounts),
            volumes=volumes.shown(shared, scratch, owner, observer.say),
            network=_network(request.network, observer),
            limits=build_limits(scratch, request.limits),
        )
        loopback = _loopback(scene.network, {**outside.variables, **request.env}, observer)
        steps = sandbox(
            namespace,
            _made(scratch / "sandbox"),
            runtime=request.sandbox,
            loopback=loopback,
            groups=groups(store),
        )
        with _failing(store, scratch, layers, observer, offline=scene.network is Network.NONE):
            exported = create(
                inputs,
                run_image=base.image,
                run_reference=base.reference,
                previous=begin.previous,
                target=target,
                runner=BuildRunner(steps.open, scene, namespace.idmap, _made(scratch / "steps")),
                cache=layers,
                observer=observer,
            )
        return exported, layers.counters


@contextmanager
def _failing(
    store: Store, scratch: Path, layers: BuildLayers, observer: Listener, *, offline: bool
) -> Iterator[None]:
    """Says of a step that failed how to repeat it, unless it has to be repeated without an overlay."""
    try:
        yield
    except BuildpackFailed as error:
        if not layers.copied and observer.heard(error):
            raise Crossed(error.buildpack) from error
        told = failure.repeatable(error, scratch, offline=offline)
        if told is None:
            raise
        store.leave(scratch)
        raise told from error


def _say_changed(request: BuildRequest, since: float, observer: Observer) -> None:
    """Tells an author at work that a layer which is kept by its key is not what the new code would make."""
    if not since or request.clear_cache:
        return
    for name in buildpacks.changed(request.buildpacks, since):
        observer.say(
            f"{name} has changed since the last build of this image: layers that it keeps are those of then "
            "(--clear-cache makes all anew)"
        )


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


def _inputs(
    request: BuildRequest,
    builder: Builder,
    run_image: RunImageName,
    added: buildpacks.Added,
    root: Path,
    outside: Mapping[str, str],
) -> Inputs:
    """What the lifecycle is asked. Before Platform API 0.15 the one execution environment is production."""
    home = account(root, f"{builder.uid}:{builder.gid}").home
    inherited = {name: value for name, value in builder.env.items() if name in _INHERITED}
    api = PlatformApi.highest(builder.platform_apis, owner=builder.name)
    return Inputs(
        platform_api=api,
        order=(added.group,) if added.group else builder.order,
        launcher=builder.launcher,
        env={**inherited, "HOME": home, **outside},
        run_image=run_image,
        uid=builder.uid,
        gid=builder.gid,
        exec_env=request.exec_env if api.has(EXEC_ENV) else "production",
        default_process=request.default_process,
        created=request.created,
        skip_restore=request.clear_cache,
        annotations=recorded.of(request, builder, added.group).annotations(),
    )


def _copies(
    request: BuildRequest, wiring: Wiring, source: Place, observer: Observer
) -> tuple[tuple[Location, Receipt], ...]:
    copies = []
    for location in request.outputs:
        with observer.phase(f"write {location}"):
            copies.append((location, copy(source, wiring.place(location, compression=request.compression))))
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


def _lowers(path: Path, scratch: Path, owner: tuple[int, int]) -> tuple[Path, ...]:
    """The source, and above it what hides the excluded; a copy where it cannot be shown as its user's."""
    if os.geteuid() == 0:
        is_shown = userns.presentable(path) and app.has_one_owner(path)
    else:
        is_shown = app.has_one_owner(path, owner)
    if not is_shown:
        copied = scratch / "source"
        app.copy(path, copied, owner)
        return (copied,)
    hidden = _made(scratch / "hidden")
    app.whiteouts(path, app.excluded(path), hidden)
    return (path, hidden)


def _platform(env: Mapping[str, str], shared: Sequence[Bind], scratch: Path) -> tuple[Bind, ...]:
    """The platform directory: user variables as files (P-163), and where volumes in it are mounted."""
    directory = _made(scratch / "platform")
    volumes.make_mount_points(directory, "/platform", shared)
    for name, value in env.items():
        file = _made(directory / "env") / name
        file.write_bytes(value.encode(errors="surrogateescape"))
        file.chmod(0o644)  # buildpacks read it as somebody else, whatever the umask
    return (Bind(directory, "/platform"),)


def _network(asked: Network | None, observer: Observer) -> Network:
    network, reason = host.choose_network(asked)
    if reason:
        observer.detail(f"builds use this machine's network: {reason}")
    return network


def _loopback(network: Network, settings: Mapping[str, str], observer: Observer) -> tuple[int, ...]:
    """The ports of this machine's loopback that buildpacks with a network of their own reach all the same."""
    ports = host.loopback_ports(settings) if network is Network.OWN else ()
    for port in ports:
        observer.detail(f"buildpacks reach port {port} of this machine, which their settings name")
    return ports


def _made(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    path.chmod(0o755)
    return path
