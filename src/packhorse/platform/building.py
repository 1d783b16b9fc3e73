"""One build: the steps that make an image of a source on a builder, once all of these were found.

Called by `build`. Nothing is chosen here; what cannot live on an overlay is built once more without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from packhorse.base import userns
from packhorse.base.dataclass import dataclass
from packhorse.base.diskspace import shortage
from packhorse.base.step import Bind, Network
from packhorse.errors import MAKE_ROOM, BuildpackFailed, DetectErrored
from packhorse.lifecycle.api import EXEC_ENV, PlatformApi
from packhorse.lifecycle.create import create
from packhorse.lifecycle.inputs import Inputs, RunImageName
from packhorse.lifecycle.ports import Observer
from packhorse.lifecycle.rebase import RunImage
from packhorse.lifecycle.stages import Exported
from packhorse.platform import (
    buildpacks,
    failure,
    host,
    recorded,
    space,
    volumes,
)
from packhorse.platform.accounts import account
from packhorse.platform.application import Application
from packhorse.platform.beginning import Beginning
from packhorse.platform.build_request import BuildRequest
from packhorse.platform.builder import Builder
from packhorse.platform.crossing import BuildLayers, Crossed, Listener, takes_overlays
from packhorse.platform.limits import build_limits
from packhorse.platform.runner import APP, TEMPORARY, BuildRunner, Scene
from packhorse.platform.shown_source import SeveralOwners, ShownSource, opened
from packhorse.platform.together import together
from packhorse.platform.wiring import groups, points, sandbox
from packhorse.sandbox.parting import Parting
from packhorse.sandbox.runner import SandboxRunner
from packhorse.source.project import Project
from packhorse.source.survey import Survey
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
class Work:
    """What a build is made of: the source is at `path`, `project` is its project.toml, volumes are `shared`,
    and `begin` is what it goes on from.
    """

    request: BuildRequest
    store: Store
    builder: Builder
    named: RunImageName
    base: RunImage
    begin: Beginning
    path: Path
    project: Project
    shared: Sequence[Bind]

    @property
    def env(self) -> Mapping[str, str]:
        """The variables for buildpacks: the command line's go before those of project.toml."""
        return {**self.project.env, **self.request.env}


def exported_by(work: Work, observer: Observer) -> tuple[Exported, Counters]:
    """The image in the store, and what its layers cost."""
    overlays = work.request.overlay and takes_overlays(work.store.path, observer.say)
    copied, crossing, known = not overlays, "", None
    network = _network(work.request.network, observer)
    left_out = work.project.left_out(work.path)
    while True:
        try:
            listener = Listener(observer)
            outcome = _exported_once(
                work, listener, left_out, overlays=overlays, copied=copied, network=network, known=known
            )
        except SeveralOwners as several:
            known = several.survey
            observer.detail("the source has files of several users: buildpacks have a copy of their own")
        except Crossed as crossed:
            copied, crossing = True, crossed.buildpack
            observer.say(
                f"{crossing} cannot live on an overlay, where a directory that was there before cannot "
                "be moved: building again, on plain copies"
            )
        else:
            break
    if crossing:
        work.store.remember_copied(crossing, str(work.request.name))
    return outcome


def _exported_once(
    work: Work,
    observer: Listener,
    left_out: Sequence[str],
    *,
    overlays: bool,
    copied: bool,
    network: Network,
    known: Survey | None = None,
) -> tuple[Exported, Counters]:
    """As `exported_by`, on an overlay or with `copied` layers and source; without `overlays` there are none.
    What is `left_out` is no part of the source; what is `known` of that is not looked at again.

    Raises Crossed for a buildpack that an overlay made fail, and SeveralOwners as `ShownSource.settle` does.
    Whatever another failing step leaves stays there to be looked at, if the step can be repeated.
    """
    request, store, builder = work.request, work.store, work.builder
    idmap = userns.choose(builder.uid, builder.gid)
    owner = idmap.outside(builder.uid, builder.gid)
    with (
        Parting() as parting,
        store.scratch() as scratch,
        userns.make(idmap) as namespace,
        opened(work.path, owner, left_out, known, looked_at=overlays) as source,
    ):
        layers = _layers(work, namespace, scratch, observer, copied=copied)
        added = buildpacks.added(request.buildpacks, builder, scratch)
        _say_changed(request, layers.recorded, observer)
        outside = host.network(request.environ)
        root = store.root(builder.image, namespace.idmap)
        inputs = _inputs(request, builder, work.named, added, root, outside.variables)
        volumes.check_places(work.shared, root, work.path, (APP, inputs.env["HOME"], *TEMPORARY))
        platform = _platform(work.env, work.shared, scratch)
        shown = together(added.mounts, root, scratch) if overlays else added.mounts
        scene = Scene(
            root=root,
            home=inputs.env["HOME"],
            uid=builder.uid,
            gid=builder.gid,
            app=source.lowers(scratch, namespace),
            settle=partial(_settle, work, source, observer),
            layers=layers.mounts,
            overlays=overlays,
            copied=lambda: layers.copied,
            source=work.path,
            copy=source.copy,
            mounts=(*platform, *added.mounts, *outside.mounts),
            mounted=(*platform, *shown, *outside.mounts),
            volumes=volumes.shown(work.shared, scratch, owner, observer.say),
            network=network,
            limits=build_limits(scratch, request.limits),
        )
        loopback = _loopback(scene.network, {**outside.variables, **work.env}, observer)
        steps = _sandbox(work, namespace, scratch, loopback, parting)
        offline = scene.network is Network.NONE
        with (
            _failing(store, scratch, layers, observer, offline=offline),
            source.settled(),
            BuildRunner(steps.open, scene, namespace.idmap, scratch) as runner,
        ):
            exported = create(
                inputs,
                run_image=work.base.image,
                run_reference=work.base.reference,
                previous=work.begin.previous,
                target=store.place(str(request.name)),
                runner=runner,
                cache=layers,
                observer=observer,
                memory=Application(source.survey, runner.app_overlay, lambda: layers.harvest),
            )
            if not work.shared:
                parting.nothing_follows()
        return exported, layers.counters


def _settle(work: Work, source: ShownSource, observer: Observer) -> None:
    """Waits until the source is known; says that the disk is too small for a first image of it."""
    source.settle()
    size, room = source.survey().size, space.free(work.store.path)
    if room < size and str(work.request.name) not in work.store.cached():
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
        among=work.store.copied,
        say=observer.say,
        copied=copied,
        elsewhere=work.begin.elsewhere,
        take=lambda layer, path: work.store.take_layer(layer, path, namespace.idmap, **ids),
    )


def _shown(
    work: Work, namespace: userns.Namespace, scratch: Path, *, copied: bool
) -> LayersOverlay | LayersCopies:
    """The layers that were kept, as steps have them: below an overlay, or as copies."""
    how = work.store.layer_copies if copied else work.store.layers
    return how(
        str(work.request.name),
        namespace.idmap,
        uid=work.builder.uid,
        gid=work.builder.gid,
        scratch=scratch,
        family=work.request.name.name,
        like=work.begin.like,
    )


def _sandbox(
    work: Work, namespace: userns.Namespace, scratch: Path, loopback: Sequence[int], parting: Parting
) -> SandboxRunner:
    return sandbox(
        namespace,
        scratch,
        runtime=work.request.sandbox,
        loopback=loopback,
        groups=groups(work.store),
        points=points(work.store),
        parting=parting,
    )


@contextmanager
def _failing(
    store: Store, scratch: Path, layers: BuildLayers, observer: Listener, *, offline: bool
) -> Iterator[None]:
    """Says of a step that failed how to repeat it, unless it has to be repeated without an overlay."""
    try:
        yield
    except DetectErrored as error:
        _say_that_the_disk_is_full(error, scratch)
        raise
    except BuildpackFailed as error:
        if not layers.copied and observer.heard(error):
            raise Crossed(error.buildpack) from error
        # Before anything is left for a person to look at: it would keep the disk full.
        _say_that_the_disk_is_full(error, scratch)
        told = failure.repeatable(error, scratch, offline=offline)
        if told is None:
            raise
        store.leave(scratch)
        raise told from error


def _say_that_the_disk_is_full(error: BuildpackFailed | DetectErrored, scratch: Path) -> None:
    """Raises the error of a buildpack that failed with what to do about the disk, if that is full."""
    if why := shortage(scratch):
        raise type(error)(
            error.what, why=f"{error.why}\nthe disk is full: {why}", fix=f"{MAKE_ROOM}\n{error.fix}".strip()
        ) from error


def _say_changed(request: BuildRequest, since: float, observer: Observer) -> None:
    """Tells an author at work that a layer which is kept by its key is not what the new code would make."""
    if not since or request.clear_cache:
        return
    for name in buildpacks.changed(request.buildpacks, since):
        observer.say(
            f"{name} has changed since the last build of this image: layers that it keeps are those of then "
            "(--clear-cache makes all anew)"
        )


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
        extensions=builder.extensions,
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


def _platform(env: Mapping[str, str], shared: Sequence[Bind], scratch: Path) -> tuple[Bind, ...]:
    """The platform directory: user variables as files (P-163), and where volumes in it are mounted."""
    directory = _made(scratch / "platform")
    variables = _made(directory / "env")  # also without any variable
    volumes.make_mount_points(directory, "/platform", shared)
    for name, value in env.items():
        file = variables / name
        file.write_bytes(value.encode(errors="surrogateescape"))
        file.chmod(0o644)  # buildpacks read it as somebody else, whatever the umask
    return (Bind(directory, "/platform"),)


def _network(asked: Network | None, observer: Observer) -> Network:
    network, reason = host.choose_network(asked)
    if reason:
        observer.say(
            f"buildpacks use this machine's network, and reach what listens on its loopback: {reason}"
        )
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
