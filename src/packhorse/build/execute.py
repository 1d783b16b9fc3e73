"""Executes a build plan: runs the lifecycle in one sandbox scope, then writes the image to its destinations.

The plan contains all decisions except one: if a buildpack fails because of an overlay, `execute` runs the
plan again with copies.

`detect` runs detection alone, for `packhorse detect`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from packhorse.base.dataclass import dataclass
from packhorse.base.files import find_shortage
from packhorse.base.installation import launcher, launcher_version
from packhorse.base.sandbox import Bind, Network
from packhorse.build import buildpacks
from packhorse.build.deliver import deliver
from packhorse.build.host import Host
from packhorse.build.layers import BuildLayers, HostAppLayerCache, LayersScope
from packhorse.build.mounts import SourceMount, check_targets, make_mount_points, make_readable, open_source
from packhorse.build.plan import BuildPlan, ImagesPlan, open_cache_image, with_images
from packhorse.build.request import BuildOutcome
from packhorse.build.runner import TEMPORARY, BuildMounts, BuildRunner, with_repeat_command
from packhorse.builder.default import ensure
from packhorse.builder.image import Builder
from packhorse.errors import MAKE_ROOM, BuildpackFailed, DetectErrored, InputError
from packhorse.host.cache_image import CacheImage
from packhorse.host.folders import count_free_bytes, format_bytes
from packhorse.host.machine import find_account
from packhorse.host.wiring import cgroups_directory, make_runner, mount_points_directory
from packhorse.lifecycle.analyze import analyze
from packhorse.lifecycle.create import create
from packhorse.lifecycle.detect import try_detect
from packhorse.lifecycle.inputs import SYSTEM_FILE, Inputs, LauncherInfo
from packhorse.lifecycle.ports import Observer
from packhorse.lifecycle.stages import Detection, Exported
from packhorse.linux import userns
from packhorse.sandbox.runner import SandboxRunner, TeardownQueue
from packhorse.store.layer_cache import LayerCounters
from packhorse.store.store import Store

if TYPE_CHECKING:
    from packhorse.host.cache_directory import CacheDirectory


class BuildObserver(Observer, Protocol):
    """Receives progress messages of a build. Must not affect the result."""

    def progress(self, text: str) -> None:
        """Shows the current step while the default builder is made."""
        ...


@dataclass(frozen=True, slots=True)
class PreparedBuild:
    """A plan with its images, the services that execute it, and the cache image or directory that it uses."""

    plan: BuildPlan
    images: ImagesPlan
    host: Host
    cache_image: CacheImage | CacheDirectory | None = None

    @property
    def store(self) -> Store:
        """The store of the build."""
        return self.host.store

    @property
    def builder(self) -> Builder:
        """The builder of the build."""
        return self.images.builder


def execute(plan: BuildPlan, host: Host, observer: BuildObserver) -> BuildOutcome:
    """Builds the image into the store under its name, then writes it to the plan's other destinations.

    Raises the errors of its parts (`packhorse.errors`). After an error the previous image keeps the name.
    """
    prepared = prepare(plan, host, observer)
    outcome = _attempt(prepared, observer, copied=not plan.overlays)
    if isinstance(outcome, BuildpackFailed):
        buildpack = outcome.buildpack
        observer.say(
            f"{buildpack} fails on an overlay, where a directory that was there before cannot "
            "be moved: building again with plain copies"
        )
        outcome = _attempt(prepared, observer, copied=True)
        assert not isinstance(outcome, BuildpackFailed)  # with copies `_attempt` raises every failure
        host.store.remember_copied(buildpack, plan.request.kept_as)
    exported, counters = outcome
    if prepared.cache_image:
        prepared.cache_image.write(*host.store.last_build(plan.request.kept_as), prepared.images.target)
    return deliver(plan.request, host, exported, counters, observer)


def prepare(plan: BuildPlan, host: Host, observer: BuildObserver) -> PreparedBuild:
    """Makes the default builder if the plan needs it and it is missing, and opens the cache image."""
    if plan.images is None:
        with observer.activity("making the default builder"):
            observer.say("making the default builder of this machine's packages (once, a minute or two)")
            made = ensure(host.store, environ=host.environ, progress=observer.progress)
        builder = Builder.read(made.name, host.store.place(made.name).read())
        plan = with_images(plan, builder, host, observer)
    assert plan.images is not None  # `with_images` adds them
    for port in plan.loopback_ports:
        observer.detail(f"buildpacks can reach port {port} of this machine: a variable names it")
    name = plan.request.cache_image
    directory = plan.request.cache_directory
    cache: CacheImage | CacheDirectory | None = None
    if name is not None:
        cache = open_cache_image(name, host, observer)
    elif directory is not None:
        from packhorse.host.cache_directory import CacheDirectory  # few builds have one

        cache = CacheDirectory(directory, observer)
    return PreparedBuild(plan, plan.images, host, cache)


def _attempt(
    prepared: PreparedBuild, observer: Observer, *, copied: bool
) -> tuple[Exported, LayerCounters] | BuildpackFailed:
    """Builds the image once, with `copied` layers and source or with overlays.

    Returns the image and the cost of its layers, or the failure of a buildpack that failed because of an
    overlay. Raises any other failure. If the failed step can be repeated, its files are kept for the user to
    look at.
    """
    with open_attempt(prepared, observer, copied=copied) as attempt:
        try:
            exported = create(
                attempt.inputs,
                run_image=prepared.images.run_image.image,
                run_reference=prepared.images.run_image.reference,
                previous=prepared.host.images.place(prepared.plan.previous.image),
                target=prepared.store.place(str(prepared.plan.request.name)),
                runner=attempt.runner,
                cache=attempt.layers,
                observer=observer,
                app_cache=HostAppLayerCache(attempt.source.scan, attempt.runner.app_overlay, attempt.layers),
            )
        except BuildpackFailed as error:
            if error.crossed_device and not attempt.layers.copied:
                return error
            # Comes first, because kept files would keep the disk full.
            _raise_if_disk_is_full(error, attempt.scratch)
            offline = prepared.plan.network is Network.NONE
            repeatable = with_repeat_command(error, attempt.scratch, offline=offline)
            if repeatable is None:
                raise
            prepared.store.keep_scratch(attempt.scratch)
            raise repeatable from error
        return exported, attempt.layers.counters


@dataclass(frozen=True, slots=True)
class Attempt:
    """What the phases of one attempt use on this machine."""

    inputs: Inputs
    runner: BuildRunner
    layers: BuildLayers
    source: SourceMount
    scratch: Path


@contextmanager
def open_attempt(prepared: PreparedBuild, observer: Observer, *, copied: bool) -> Iterator[Attempt]:
    """Creates the directories, mounts and layers of one attempt, and removes them at the end."""
    plan, store, builder = prepared.plan, prepared.store, prepared.builder
    idmap = userns.choose_map(builder.uid, builder.gid)
    owner = idmap.to_outside(builder.uid, builder.gid)
    with (
        TeardownQueue() as parting,
        store.scratch() as scratch,
        userns.make_namespace(idmap) as namespace,
        open_source(plan.path, owner, plan.excluded, scratch, namespace, scan=plan.overlays) as source,
    ):
        layers = _make_build_layers(prepared, namespace, scratch, observer, copied=copied)
        named = buildpacks.mount(prepared.images.named.all, scratch, store, namespace.idmap)
        _warn_of_changed_buildpacks(prepared, layers.last_build_time, observer)
        root = store.root(builder.image, namespace.idmap)
        inputs = _make_inputs(prepared, root)
        check_targets(plan.volumes, root, plan.path, inputs.app, areas=(inputs.env["HOME"], *TEMPORARY))
        platform = _make_platform_directory(prepared, scratch)
        host_files = plan.host_network.mounts
        mounts = BuildMounts(
            root=root,
            home=inputs.env["HOME"],
            app=inputs.app,
            uid=builder.uid,
            gid=builder.gid,
            path=plan.path,
            source=source,
            on_source_confirmed=partial(_check_room, prepared, source, observer),
            layers=layers,
            overlays=plan.overlays,
            sboms=plan.request.sboms,
            mounts=(*platform, *_make_launcher_directory(prepared, scratch), *named, *host_files),
            volumes=make_readable(plan.volumes, scratch, owner, observer),
            network=plan.network,
            limits=plan.limits,
        )
        # Teardown in the background could still hold a volume when the command ends.
        steps = _make_runner(prepared, namespace, scratch, None if plan.volumes else parting)
        runner = BuildRunner(steps.open, mounts, namespace.idmap, scratch)
        try:
            yield Attempt(inputs, runner, layers, source, scratch)
        except DetectErrored as error:
            _raise_if_disk_is_full(error, scratch)
            raise


def _check_room(prepared: PreparedBuild, source: SourceMount, observer: Observer) -> None:
    """Warns if the disk may be too small for the first image of this source."""
    size, room = source.scan().size, count_free_bytes(prepared.store.path)
    if room < size and str(prepared.plan.request.name) not in prepared.store.last_uses():
        observer.say(
            f"the source has {format_bytes(size)}, and only {format_bytes(room)} are free at "
            f"{prepared.store.path}: the image may not fit there"
        )


def _make_build_layers(
    prepared: PreparedBuild, namespace: userns.Namespace, scratch: Path, observer: Observer, *, copied: bool
) -> BuildLayers:
    request = prepared.plan.request
    scope = LayersScope(
        app=request.kept_as,
        family="" if request.cache_name else request.name.name,
        like=prepared.plan.previous.layers_name,
        idmap=namespace.idmap,
        uid=prepared.builder.uid,
        gid=prepared.builder.gid,
        scratch=scratch,
    )
    return BuildLayers(
        prepared.store,
        scope,
        observer,
        copied=copied,
        copied_buildpacks=prepared.images.copied_buildpacks,
        cache_image=prepared.cache_image,
    )


def _make_runner(
    prepared: PreparedBuild, namespace: userns.Namespace, scratch: Path, parting: TeardownQueue | None
) -> SandboxRunner:
    return make_runner(
        namespace,
        scratch,
        runtime=prepared.plan.request.sandbox,
        loopback=prepared.plan.loopback_ports,
        groups=cgroups_directory(prepared.store),
        points=mount_points_directory(prepared.store),
        parting=parting,
    )


def _raise_if_disk_is_full(error: BuildpackFailed | DetectErrored, scratch: Path) -> None:
    """If the disk is full, raises the error again with the advice to make room."""
    if why := find_shortage(scratch):
        raise type(error)(
            error.what, why=f"{error.why}\nthe disk is full: {why}", fix=f"{MAKE_ROOM}\n{error.fix}".strip()
        ) from error


def _warn_of_changed_buildpacks(prepared: PreparedBuild, since: float, observer: Observer) -> None:
    """Warns the author of a buildpack that its kept layers come from the code before the last change."""
    request = prepared.plan.request
    if not since or request.clear_cache:
        return
    named = [str(each.directory) for each in prepared.images.named.all if each.directory is not None]
    for name in buildpacks.find_changed(named, since):
        observer.say(
            f"{name} has changed since the last build of this image: its kept layers come from before the "
            "change (--clear-cache rebuilds them)"
        )


def _make_inputs(prepared: PreparedBuild, root: Path) -> Inputs:
    """The lifecycle's inputs. The home directory comes from /etc/passwd in the builder's `root`."""
    request, images, builder = prepared.plan.request, prepared.images, prepared.builder
    home = _find_home(builder, root)
    inside, outside = f"{request.workspace}/", f"{home.rstrip('/')}/"
    overlap = outside != "/" and (inside.startswith(outside) or outside.startswith(inside))
    if overlap and request.workspace != "/workspace":
        raise InputError(
            f"--workspace {request.workspace} and the home directory of the builder's user, {home}, overlap",
            why="buildpacks write to both, and only one of them becomes part of the image",
            fix="name a directory elsewhere",
        )
    return Inputs(
        platform_api=images.platform_api,
        order=images.order,
        app=request.workspace,
        system=SYSTEM_FILE if request.system_buildpacks else "",
        extensions=builder.extensions,
        launcher=LauncherInfo(launcher_version()) if request.launcher else builder.launcher,
        env={**images.env, "HOME": home, **prepared.plan.host_network.variables},
        run_image=images.run_image.name,
        uid=builder.uid,
        gid=builder.gid,
        exec_env=images.exec_env,
        default_process=request.default_process,
        created=request.created,
        labels=request.labels,
        skip_restore=request.clear_cache,
        annotations=images.provenance.annotations(),
    )


def _find_home(builder: Builder, root: Path) -> str:
    """The user's home directory in the builder's `root`.

    A `--uid` without an account gets the home of the builder's own user.
    """
    home = find_account(root, f"{builder.uid}:{builder.gid}").home
    return home if home != "/" else find_account(root, builder.env.get("CNB_USER_ID", "")).home


def _make_platform_directory(prepared: PreparedBuild, scratch: Path) -> tuple[Bind, ...]:
    """Makes the platform directory: the user's variables as files (P-163), and mount points for volumes."""
    directory = _make_directory(scratch / "platform")
    variables = _make_directory(directory / "env")  # must exist, even if there are no variables
    make_mount_points(directory, "/platform", prepared.plan.volumes)
    for name, value in prepared.plan.env.items():
        file = variables / name
        file.write_bytes(value.encode(errors="surrogateescape"))
        file.chmod(0o644)  # buildpacks run as another user, and the umask may be strict
    return (Bind(directory, "/platform"),)


def _make_launcher_directory(prepared: PreparedBuild, scratch: Path) -> tuple[Bind, ...]:
    """Makes the directory of packhorse's launcher, if the user wants it instead of the builder's.

    The mount hides the builder's whole lifecycle, so that no SBOM of the other launcher gets into the image.
    """
    if not prepared.plan.request.launcher:
        return ()
    directory = _make_directory(scratch / "lifecycle")
    file = directory / "launcher"
    file.write_bytes(launcher(prepared.images.target.arch))
    file.chmod(0o755)
    return (Bind(directory, "/cnb/lifecycle"),)


def _make_directory(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    path.chmod(0o755)
    return path


def detect(plan: BuildPlan, host: Host, observer: BuildObserver) -> Detection:
    """Runs detection for a plan, and writes no image.

    Raises the errors of a build that cannot begin. That no group accepts the source is no error.
    """
    prepared = prepare(plan, host, observer)
    run_image = prepared.images.run_image
    with (
        observer.phase("detect"),
        open_attempt(prepared, observer, copied=not prepared.plan.overlays) as attempt,
    ):
        analyzed = analyze(run_image.image, run_image.reference, None)
        return try_detect(attempt.inputs, analyzed.target, runner=attempt.runner, observer=observer)
