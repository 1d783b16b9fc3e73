"""Executes a build plan: `create` in one sandbox scope, then writes the image where it was asked for.

Nothing is chosen here. When a buildpack cannot live on an overlay, the plan is executed again with copies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from packhorse.base import userns
from packhorse.base.dataclass import dataclass
from packhorse.base.diskspace import shortage
from packhorse.base.step import Bind, Network
from packhorse.build.deliver import deliver
from packhorse.build.host import Host
from packhorse.build.outcome import BuildOutcome
from packhorse.build.plan import BuildPlan, ImagesPlan, with_images
from packhorse.build.previous import open_cache_image
from packhorse.errors import MAKE_ROOM, BuildpackFailed, DetectErrored
from packhorse.lifecycle.create import create
from packhorse.lifecycle.inputs import Inputs
from packhorse.lifecycle.ports import Observer
from packhorse.lifecycle.stages import Exported
from packhorse.platform import buildpacks, default_builder, failure, space, volumes
from packhorse.platform.accounts import account
from packhorse.platform.application import Application
from packhorse.platform.builder import Builder
from packhorse.platform.cache_image import CacheImage
from packhorse.platform.crossing import BuildLayers
from packhorse.platform.runner import APP, TEMPORARY, BuildMounts, BuildRunner
from packhorse.platform.shown_source import ShownSource, opened
from packhorse.platform.wiring import groups, points, sandbox
from packhorse.sandbox.parting import Parting
from packhorse.sandbox.runner import SandboxRunner
from packhorse.store.copies import LayersCopies
from packhorse.store.harvest import Counters
from packhorse.store.overlay import LayersOverlay
from packhorse.store.store import Store


class BuildObserver(Observer, Protocol):
    """Receives progress messages of a build. Must not affect the result."""

    def progress(self, text: str) -> None:
        """What goes on now, while the default builder is made."""
        ...


@dataclass(frozen=True, slots=True)
class Work:
    """A plan whose images are known, the services that execute it, and the cache image that it uses."""

    plan: BuildPlan
    images: ImagesPlan
    host: Host
    cache_image: CacheImage | None = None

    @property
    def store(self) -> Store:
        """The store of the build."""
        return self.host.store

    @property
    def builder(self) -> Builder:
        """The builder of the build."""
        return self.images.builder


def execute(plan: BuildPlan, host: Host, observer: BuildObserver) -> BuildOutcome:
    """Builds the image into the store under its name, then writes the copies that the plan asks for.

    Raises the errors of its parts (`packhorse.errors`); the previous image keeps the name then.
    """
    work = prepare(plan, host, observer)
    outcome = _attempt(work, observer, copied=not plan.overlays)
    if isinstance(outcome, BuildpackFailed):
        crossing = outcome.buildpack
        observer.say(
            f"{crossing} cannot live on an overlay, where a directory that was there before cannot "
            "be moved: building again, on plain copies"
        )
        outcome = _attempt(work, observer, copied=True)
        assert not isinstance(outcome, BuildpackFailed)  # with copies it is raised
        host.store.remember_copied(crossing, str(plan.request.name))
    exported, counters = outcome
    if work.cache_image:
        work.cache_image.write(*host.store.left(str(plan.request.name)), work.images.target)
    return deliver(plan.request, host, exported, counters, observer)


def prepare(plan: BuildPlan, host: Host, observer: BuildObserver) -> Work:
    """Makes the default builder when the plan needs one that is not there, and opens the cache image."""
    if plan.images is None:
        with observer.activity("making the default builder"):
            observer.say("making the default builder of this machine's packages (once, a minute or two)")
            made = default_builder.ensure(host.store, environ=host.environ, progress=observer.progress)
        builder = Builder.read(made.name, host.store.place(made.name).read())
        plan = with_images(plan, builder, host, observer)
    assert plan.images is not None  # `with_images` adds them
    for port in plan.loopback_ports:
        observer.detail(f"buildpacks reach port {port} of this machine, which their settings name")
    name = plan.request.cache_image
    cache = open_cache_image(name, host, observer.say) if name else None
    return Work(plan, plan.images, host, cache)


def _attempt(work: Work, observer: Observer, *, copied: bool) -> tuple[Exported, Counters] | BuildpackFailed:
    """Builds the image once, with `copied` layers and source or on overlays; what its layers cost.

    Returns the failure of a buildpack that failed because of an overlay, and so is to build again. The files
    of another one that fails stay when the step can be repeated, so that a person can look at them.
    """
    with opened_runner(work, observer, copied=copied) as ready:
        try:
            exported = create(
                ready.inputs,
                run_image=work.images.run_image.image,
                run_reference=work.images.run_image.reference,
                previous=work.host.images.place(work.plan.previous.image),
                target=work.store.place(str(work.plan.request.name)),
                runner=ready.runner,
                cache=ready.layers,
                observer=observer,
                memory=Application(
                    ready.source.survey, ready.runner.app_overlay, lambda: ready.layers.harvest
                ),
            )
        except BuildpackFailed as error:
            if error.crossed_device and not ready.layers.copied:
                return error
            # Before anything is left for a person to look at: it would keep the disk full.
            _say_that_the_disk_is_full(error, ready.scratch)
            offline = work.plan.network is Network.NONE
            repeatable = failure.repeatable(error, ready.scratch, offline=offline)
            if repeatable is None:
                raise
            work.store.leave(ready.scratch)
            raise repeatable from error
        return exported, ready.layers.counters


@dataclass(frozen=True, slots=True)
class Ready:
    """What phases need of the machine, for one attempt."""

    inputs: Inputs
    runner: BuildRunner
    layers: BuildLayers
    source: ShownSource
    scratch: Path


@contextmanager
def opened_runner(work: Work, observer: Observer, *, copied: bool) -> Iterator[Ready]:
    """Makes what one attempt needs, and removes it at the end."""
    plan, store, builder = work.plan, work.store, work.builder
    idmap = userns.choose(builder.uid, builder.gid)
    owner = idmap.outside(builder.uid, builder.gid)
    with (
        Parting() as parting,
        store.scratch() as scratch,
        userns.make(idmap) as namespace,
        opened(plan.path, owner, plan.left_out, scratch, namespace, looked_at=plan.overlays) as source,
    ):
        layers = _layers(work, namespace, scratch, observer, copied=copied)
        named = buildpacks.mount(work.images.named, scratch)
        _say_changed(work, layers.recorded, observer)
        root = store.root(builder.image, namespace.idmap)
        inputs = _inputs(work, root)
        volumes.check_places(plan.volumes, root, plan.path, (APP, inputs.env["HOME"], *TEMPORARY))
        platform = _platform(work, scratch)
        host_files = plan.host_network.mounts
        mounts = BuildMounts(
            root=root,
            home=inputs.env["HOME"],
            uid=builder.uid,
            gid=builder.gid,
            path=plan.path,
            source=source,
            confirmed=partial(_check_room, work, source, observer),
            layers=layers,
            overlays=plan.overlays,
            mounts=(*platform, *named, *host_files),
            volumes=volumes.shown(plan.volumes, scratch, owner, observer.say),
            network=plan.network,
            limits=plan.limits,
        )
        # A volume has to be free again when the command ends.
        steps = _sandbox(work, namespace, scratch, None if plan.volumes else parting)
        runner = BuildRunner(steps.open, mounts, namespace.idmap, scratch)
        try:
            yield Ready(inputs, runner, layers, source, scratch)
        except DetectErrored as error:
            _say_that_the_disk_is_full(error, scratch)
            raise


def _check_room(work: Work, source: ShownSource, observer: Observer) -> None:
    """Says that the disk is too small for a first image of the source, which is known."""
    size, room = source.survey().size, space.free(work.store.path)
    if room < size and str(work.plan.request.name) not in work.store.cached():
        observer.say(
            f"the source has {space.in_words(size)}, and only {space.in_words(room)} are free at "
            f"{work.store.path}: there may be too little room for the image"
        )


def _layers(
    work: Work, namespace: userns.Namespace, scratch: Path, observer: Observer, *, copied: bool
) -> BuildLayers:
    ids = {"uid": work.builder.uid, "gid": work.builder.gid}
    return BuildLayers(
        partial(_shown, work, namespace, scratch),
        among=lambda writers: [name for name in writers if name in work.images.copied_for],
        say=observer.say,
        copied=copied,
        elsewhere=work.cache_image,
        take=lambda layer, path: work.store.take_layer(layer, path, namespace.idmap, **ids),
    )


def _shown(
    work: Work, namespace: userns.Namespace, scratch: Path, *, copied: bool
) -> LayersOverlay | LayersCopies:
    """The layers that were kept, as steps have them: below an overlay, or as copies."""
    how = work.store.layer_copies if copied else work.store.layers
    return how(
        str(work.plan.request.name),
        namespace.idmap,
        uid=work.builder.uid,
        gid=work.builder.gid,
        scratch=scratch,
        family=work.plan.request.name.name,
        like=work.plan.previous.layers_of,
    )


def _sandbox(
    work: Work, namespace: userns.Namespace, scratch: Path, parting: Parting | None
) -> SandboxRunner:
    return sandbox(
        namespace,
        scratch,
        runtime=work.plan.request.sandbox,
        loopback=work.plan.loopback_ports,
        groups=groups(work.store),
        points=points(work.store),
        parting=parting,
    )


def _say_that_the_disk_is_full(error: BuildpackFailed | DetectErrored, scratch: Path) -> None:
    """Raises the error of a buildpack that failed with what to do about the disk, if that is full."""
    if why := shortage(scratch):
        raise type(error)(
            error.what, why=f"{error.why}\nthe disk is full: {why}", fix=f"{MAKE_ROOM}\n{error.fix}".strip()
        ) from error


def _say_changed(work: Work, since: float, observer: Observer) -> None:
    """Tells a buildpack's author that its kept layers are not what the new code would make."""
    request = work.plan.request
    if not since or request.clear_cache:
        return
    for name in buildpacks.changed(request.buildpacks, since):
        observer.say(
            f"{name} has changed since the last build of this image: layers that it keeps are those of then "
            "(--clear-cache makes all anew)"
        )


def _inputs(work: Work, root: Path) -> Inputs:
    """What the lifecycle is asked; the builder's files at `root` say where its user's home is."""
    request, images, builder = work.plan.request, work.images, work.builder
    home = account(root, f"{builder.uid}:{builder.gid}").home
    return Inputs(
        platform_api=images.platform_api,
        order=images.order,
        extensions=builder.extensions,
        launcher=builder.launcher,
        env={**images.env, "HOME": home, **work.plan.host_network.variables},
        run_image=images.run_image.name,
        uid=builder.uid,
        gid=builder.gid,
        exec_env=images.exec_env,
        default_process=request.default_process,
        created=request.created,
        skip_restore=request.clear_cache,
        annotations=images.provenance.annotations(),
    )


def _platform(work: Work, scratch: Path) -> tuple[Bind, ...]:
    """The platform directory: user variables as files (P-163), and where volumes in it are mounted."""
    directory = _make_directory(scratch / "platform")
    variables = _make_directory(directory / "env")  # also without any variable
    volumes.make_mount_points(directory, "/platform", work.plan.volumes)
    for name, value in work.plan.env.items():
        file = variables / name
        file.write_bytes(value.encode(errors="surrogateescape"))
        file.chmod(0o644)  # buildpacks read it as somebody else, whatever the umask
    return (Bind(directory, "/platform"),)


def _make_directory(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    path.chmod(0o755)
    return path
