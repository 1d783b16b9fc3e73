"""The phases as programs: each reads the files of the phases before it, and writes its own.

The functions with a leading underscore do one phase; `creator` calls them one after another and hands over
values, the programs of single phases hand over files (platform.md "Lifecycle Interface").
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from packhorse.base.dataclass import dataclass, replace
from packhorse.base.target import Target
from packhorse.base.tree import read
from packhorse.errors import (
    AnalyzeError,
    DetectErrored,
    ExportError,
    FormatError,
    HostError,
    InputError,
    RebaseError,
    RestoreError,
    UsageError,
)
from packhorse.fs.rooted import RootedTree
from packhorse.host.cache_directory import CacheDirectory
from packhorse.host.cache_image import CacheImage
from packhorse.lifecycle.analyze import analyze
from packhorse.lifecycle.build import build
from packhorse.lifecycle.buildpacks import Descriptors
from packhorse.lifecycle.detect import detect
from packhorse.lifecycle.export import LAUNCHER_LIMIT, complete, export
from packhorse.lifecycle.inputs import EPOCH, Inputs, LauncherInfo, RunImageName
from packhorse.lifecycle.ports import SandboxPurpose
from packhorse.lifecycle.rebase import RunImage, read_base_label, rebase
from packhorse.lifecycle.restore import choose_layers, read_launch_sboms, restore
from packhorse.lifecycle.stages import (
    Analyzed,
    Built,
    Detected,
    Exported,
    Member,
    Restored,
    report_toml,
)
from packhorse.oci.mutate import empty_config
from packhorse.oci.place import Image, push_image
from packhorse.oci.reference import Reference, is_image_id
from packhorse.phases import files, privileges
from packhorse.phases.console import PhaseConsole
from packhorse.phases.files import AnalyzedToml
from packhorse.phases.images import PhaseImages
from packhorse.phases.layer_cache import MARKS, InPlaceLayerCache
from packhorse.phases.options import Phase, PhaseOptions
from packhorse.phases.runner import InPlaceRunner
from packhorse.spec.api import CREATED, PLATFORM_EXEC_ENV, PLATFORM_TARGETS, SBOM_LAYER
from packhorse.spec.env import BUILD_INHERITED


@dataclass(frozen=True, slots=True)
class Program:
    """What a phase works with: its options, the user's environment, the machine's files, and messages."""

    options: PhaseOptions
    environ: Mapping[str, str]
    images: PhaseImages
    tree: RootedTree
    console: PhaseConsole

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the new image: the arguments, then those of -tag, each once."""
        return tuple(dict.fromkeys((*self.options.images, *self.options.texts("tag"))))

    @property
    def previous_name(self) -> str:
        """The name of the image of the last build."""
        return self.options.text("previous-image") or self.options.images[0]

    @property
    def cache(self) -> CacheDirectory | CacheImage | None:
        """The layers of the last build; None if the platform names no cache."""
        name, directory = self.options.text("cache-image"), self.options.text("cache-dir")
        if name:
            return CacheImage(self.images.registry_place(name), name, self.console)
        return CacheDirectory(Path(directory), self.console) if directory else None

    def write(self, path: str, data: bytes) -> None:
        """Writes a file of this phase, wholly or not at all. Raises InputError."""
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
                file.write(data)
            Path(file.name).chmod(0o644)
            Path(file.name).replace(target)
        except OSError as error:
            raise InputError(f"{path} cannot be written", why=error.strerror or str(error)) from error

    def read(self, path: str) -> bytes | None:
        """Reads a file of another phase or of the platform; None if it is missing. Raises InputError."""
        try:
            return Path(path).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"{path} cannot be read", why=error.strerror or str(error)) from error

    def require(self, path: str, phase: str) -> bytes:
        """Reads a file that an earlier phase wrote. Raises InputError if it is missing."""
        data = self.read(path)
        if data is None:
            raise InputError(f"{path} does not exist", why=f"{phase} writes it", fix=f"run {phase} first")
        return data

    def run_images(self) -> tuple[RunImageName, ...]:
        """The run images of run.toml, before Platform API 0.12 of stack.toml. Raises InputError."""
        is_stack = not self.options.api.has(PLATFORM_TARGETS)
        path = self.options.text("stack" if is_stack else "run")
        data = self.read(path)
        return () if data is None else files.parse_run_images(data, path, stack=is_stack)

    def inputs(self, temporary: str) -> Inputs:
        """The lifecycle's inputs. `temporary` is a directory for plans."""
        options, environ, api = self.options, self.environ, self.options.api
        env = {name: environ[name] for name in BUILD_INHERITED if name in environ}
        env |= {"HOME": environ["HOME"]} if "HOME" in environ else {}
        return Inputs(
            platform_api=api,
            order=(),
            launcher=LauncherInfo(""),
            env=env,
            run_image=RunImageName(""),
            app=options.text("app"),
            layers=options.text("layers"),
            platform=options.text("platform"),
            buildpacks=options.text("buildpacks"),
            build_config=options.text("build-config"),
            order_file=options.text("order"),
            system=options.text("system"),
            launcher_path=options.text("launcher"),
            launcher_sboms=options.text("launcher-sbom"),
            temporary=temporary,
            uid=options.number("uid"),
            gid=options.number("gid"),
            exec_env=(environ.get("CNB_EXEC_ENV") or "production")
            if api.has(PLATFORM_EXEC_ENV)
            else "production",
            default_process=options.text("process-type"),
            created=self._created(),
            skip_restore=options.is_set("skip-layers"),
            parallel=os.cpu_count() or 1,
            has_real_parents=True,
        )

    def _created(self) -> int:
        text = self.environ.get("SOURCE_DATE_EPOCH", "")
        if not text or not self.options.api.has(CREATED):
            return EPOCH
        if not text.isdecimal() or len(text) > 11:
            self.console.warn(f"SOURCE_DATE_EPOCH is no time and is ignored: {text[:50]!r}")
            return EPOCH
        return int(text)


@contextmanager
def _temporary() -> Iterator[str]:
    """A directory for plans, which is removed at the end."""
    directory = tempfile.mkdtemp(prefix="cnb-")
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def analyzer(program: Program) -> None:
    """Writes analyzed.toml, and leaves the SBOM files of the previous image for the restorer."""
    options, images = program.options, program.images
    run_name = _prepare_images(program)
    images.read_credentials((*program.names, program.previous_name, run_name, options.text("cache-image")))
    _give_up_root(program, "layers", "launch-cache")
    with _temporary() as temporary:
        _analyze(program, program.inputs(temporary), run_name)


def detector(program: Program) -> None:
    """Writes group.toml and plan.toml."""
    _refuse_root(Phase.DETECTOR)
    privileges.hide_from_buildpacks()
    with _temporary() as temporary:
        _detect(program, program.inputs(temporary), _read_analyzed(program)[0])


def restorer(program: Program) -> None:
    """Restores layers and their metadata, and writes analyzed.toml again."""
    options = program.options
    program.images.read_credentials((options.text("cache-image"), options.text("build-image")))
    if options.text("build-image"):
        program.console.say(
            "-build-image is for image extensions, which are not supported yet: it is ignored"
        )
    _give_up_root(program, "layers", "cache-dir")
    group = _read_group(program)
    analyzed, toml = _read_analyzed(program)
    if toml is not None:
        program.write(options.text("analyzed"), toml.dump(options.api))
    with _temporary() as temporary:
        inputs = program.inputs(temporary)
        _restore(program, inputs, analyzed, Detected(group, ()), _open_cache(program, inputs, analyzed))


def builder(program: Program) -> None:
    """Runs the group, and writes metadata.toml."""
    _refuse_root(Phase.BUILDER)
    privileges.hide_from_buildpacks()
    path = program.options.text("plan")
    plan = files.parse_plan(program.require(path, "detector"), path)
    group = _read_group(program)
    with _temporary() as temporary:
        inputs = program.inputs(temporary)
        descriptors = Descriptors(inputs, program.tree, program.console.say)
        members = tuple(Member(descriptors.find(member.ref)) for member in group)
        # Nobody knows here which layers were restored, and none of them lies on an overlay.
        _build(program, inputs, _read_analyzed(program)[0], Detected(members, plan), Restored({}))


def exporter(program: Program) -> None:
    """Writes the image, the cache, and report.toml."""
    options = program.options
    if "run-image" in options.given or "image" in options.given:
        raise UsageError("exporter takes no run image", why="it takes the one of analyzed.toml")
    _check_names(program, [*program.names, options.text("cache-image")])
    path = options.text("analyzed")
    toml = AnalyzedToml.parse(program.require(path, "analyzer"), path)
    if not toml.run_reference:
        raise UsageError(f"{path} names no run image", fix="run analyzer with a run image")
    if toml.extend:
        raise ExportError(f"{path} wants an extended run image", why="image extensions are not supported yet")
    program.images.read_credentials(
        (*program.names, options.text("cache-image"), toml.run_reference, toml.previous)
        if program.images.is_registry
        else (options.text("cache-image"),)
    )
    _give_up_root(program, "cache-dir", "launch-cache")
    group = _read_group(program)
    metadata = f"{options.text('layers')}/config/metadata.toml"
    built = files.parse_built(program.require(metadata, "builder"), metadata, group)
    with _temporary() as temporary:
        inputs = program.inputs(temporary)
        analyzed = _open_analyzed(program, toml)
        cache = _open_cache(program, inputs, analyzed)
        cache.read_marks(program.read(f"{inputs.layers}/{MARKS}") or b"")
        _export(program, inputs, analyzed, built, cache, toml.run_name)


def creator(program: Program) -> None:
    """Runs all phases one after another, and writes the files of each."""
    options, images, console = program.options, program.images, program.console
    run_name = _prepare_images(program)
    images.read_credentials((*program.names, program.previous_name, run_name, options.text("cache-image")))
    _give_up_root(program, "layers", "cache-dir", "launch-cache")
    program = replace(program, environ=_with_account(program.environ))
    with _temporary() as temporary:
        inputs = program.inputs(temporary)
        with console.phase("analyze"):
            analyzed = _analyze(program, inputs, run_name)
        with console.phase("detect"):
            detected = _detect(program, inputs, analyzed)
        cache = _open_cache(program, inputs, analyzed)
        with console.phase("restore"):
            restored = _restore(program, inputs, analyzed, detected, cache)
        with console.phase("build"):
            built = _build(program, inputs, analyzed, detected, restored)
        with console.phase("export"):
            _export(program, inputs, analyzed, built, cache, run_name)


def rebaser(program: Program) -> None:
    """Puts an image on a new run image, and writes it under all names, and report.toml."""
    options, images, names = program.options, program.images, program.names
    source = options.text("previous-image") or names[0]
    _check_names(program, [*names, source])
    if "image" in options.given and "run-image" in options.given:
        raise UsageError("-image is the old name of -run-image", fix="give one of them")
    wanted = options.text("image") or options.text("run-image")
    images.read_credentials((*names, source, wanted) if images.is_registry else ())
    app = images.read(source)
    if app is None:
        raise RebaseError(f"{source} does not exist", why="it is the image to rebase")
    label = read_base_label(app.config)
    if not wanted:
        known = label.sources
        if not known:
            raise UsageError(
                "no run image is known", why=f"{source} names none", fix="name one with -run-image"
            )
        wanted = images.choose_run_image(RunImageName(known[0], known[1:]), source)
    run_image = images.read(wanted)
    if run_image is None:
        raise RebaseError(f"the run image {wanted} does not exist", fix="name another with -run-image")
    privileges.become(options.number("uid"), options.number("gid"))
    new = RunImage(run_image, wanted, images.identify(wanted, run_image))
    rebased = rebase(app, new, force=options.is_set("force"), say=program.console.warn)
    receipts = [push_image(rebased, images.target(name)) for name in names]
    program.write(options.text("report"), report_toml(names, receipts[0]))
    _show_image(program, rebased, names)


def extender(program: Program) -> None:
    """Refuses: image extensions are not supported yet."""
    raise HostError(
        "image extensions are not supported yet",
        why="extender applies the Dockerfiles that image extensions generate",
        fix="use a builder without image extensions, or one whose lifecycle supports them",
    )


def _prepare_images(program: Program) -> str:
    """Checks the names of a build's images, and returns the name of the run image. Raises UsageError."""
    options, images = program.options, program.images
    names = [*program.names, program.previous_name, options.text("cache-image")]
    _check_names(program, names)
    if options.text("launch-cache") and not images.is_daemon:
        program.console.warn("-launch-cache has no effect without -daemon")
    if images.is_layout:
        _require_experimental(program)
    if options.text("run-image"):
        return options.text("run-image")
    run_images = program.run_images()
    if not run_images:
        where = options.text("run" if options.api.has(PLATFORM_TARGETS) else "stack")
        raise UsageError("no run image is known", why=f"{where} names none", fix="name one with -run-image")
    return images.choose_run_image(run_images[0], options.images[0])


def _check_names(program: Program, names: Sequence[str]) -> None:
    """Refuses names that are none, and new images in several registries (P-022, P-023). Raises UsageError."""
    try:
        for name in filter(None, names):
            if not is_image_id(name):  # of a previous image in an engine
                Reference.parse(name)
        registries = {Reference.parse(name).registry for name in program.names}
    except InputError as error:
        raise UsageError(error.what, why=error.why, fix=error.fix) from error
    if len(registries) > 1 and not program.images.is_daemon:
        raise UsageError(
            "writing to multiple registries is unsupported",
            why=f"the names of the image are in {', '.join(sorted(registries))}",
            fix="name tags in one registry",
        )


def _require_experimental(program: Program) -> None:
    """Refuses layouts unless CNB_EXPERIMENTAL_MODE allows them (P-155 to P-157)."""
    mode = program.environ.get("CNB_EXPERIMENTAL_MODE") or "error"
    if mode == "error":
        raise UsageError(
            "export to OCI layout format is an experimental feature",
            why="CNB_EXPERIMENTAL_MODE=error disables them",
            fix="set it to warn or silent",
        )
    if mode not in ("quiet", "silent"):
        program.console.warn("Platform requested experimental feature 'export to OCI layout format'")


def _give_up_root(program: Program, *directories: str) -> None:
    """Gives the directories of these flags to the CNB user, and becomes that user."""
    options = program.options
    uid, gid = options.number("uid"), options.number("gid")
    privileges.own_directories([options.text(name) for name in directories], uid, gid)
    privileges.become(uid, gid)
    privileges.hide_from_buildpacks()


def _refuse_root(phase: Phase) -> None:
    if privileges.is_root():
        raise HostError(
            f"{phase} refuses to run as root",
            why="buildpacks would run as root too",
            fix="run it as the user of the build image",
        )


def _with_account(environ: Mapping[str, str]) -> Mapping[str, str]:
    """The environment with the home and the name of the user that this process has become."""
    name, home = privileges.find_account(os.getuid())
    return {**environ, "HOME": home, "USER": name} if name else environ


def _analyze(program: Program, inputs: Inputs, run_name: str) -> Analyzed:
    options, images = program.options, program.images
    if images.is_registry:
        images.check_push([*program.names, *filter(None, [options.text("cache-image")])])
    elif options.text("cache-image"):
        images.check_push([options.text("cache-image")])
    run_image = images.read(run_name)
    if run_image is None:
        raise AnalyzeError(f"the run image {run_name} does not exist", fix="name another with -run-image")
    previous_name = program.previous_name
    source = images.source(previous_name)
    analyzed = analyze(run_image, images.identify(run_name, run_image), source)
    previous = ""
    if analyzed.previous is None:
        program.console.say(f'Image with name "{previous_name}" not found')
    else:
        previous = images.identify(previous_name, analyzed.previous)
    toml = AnalyzedToml(
        previous=previous,
        run_reference=analyzed.run_reference,
        run_name=run_name,
        target=analyzed.target,
        target_id=run_image.config.labels.get("io.buildpacks.base.id", ""),
        metadata=analyzed.metadata,
    )
    program.write(options.text("analyzed"), toml.dump(options.api))
    if options.phase is Phase.ANALYZER and options.api.has(SBOM_LAYER) and not inputs.skip_restore:
        for sbom in read_launch_sboms(inputs, analyzed):
            path = f"{inputs.layers}/sbom/launch/{sbom.buildpack}/{sbom.layer}/sbom.{sbom.format}"
            program.tree.write(path, sbom.data)
    return analyzed


def _read_analyzed(program: Program) -> tuple[Analyzed, AnalyzedToml | None]:
    """What analyzed.toml says, without the images. A missing file is reported, and counts as empty."""
    path = program.options.text("analyzed")
    data = program.read(path)
    if data is None:
        program.console.warn(f"{path} does not exist: nothing is known of the last build")
    toml = AnalyzedToml.parse(data or b"", path)
    target = toml.target or Target(arch=Target.host().arch)
    image = Image(empty_config(target), ())
    return Analyzed(
        image, toml.run_reference, target, None, toml.metadata
    ), toml if data is not None else None


def _open_analyzed(program: Program, toml: AnalyzedToml) -> Analyzed:
    """Opens the images that analyzed.toml names. Raises ExportError if the run image is gone."""
    run_image = program.images.read(toml.run_reference)
    if run_image is None:
        raise ExportError(
            f"the run image {toml.run_reference} does not exist any more", fix="run analyzer again"
        )
    previous = program.images.read(toml.previous) if toml.previous else None
    target = toml.target or run_image.config.target
    return Analyzed(run_image, toml.run_reference, target, previous, toml.metadata)


def _read_group(program: Program) -> tuple[Member, ...]:
    path = program.options.text("group")
    return files.parse_group(program.require(path, "detector"), path)


def _detect(program: Program, inputs: Inputs, analyzed: Analyzed) -> Detected:
    options = program.options
    path = options.text("order")
    data = program.read(path)
    if data is None:
        raise DetectErrored(f"{path} does not exist", why="it names the buildpacks that detection tries")
    inputs = replace(inputs, order=files.parse_order(data, path))
    runner = InPlaceRunner(program.tree)
    detected = detect(inputs, analyzed, runner=runner, observer=program.console)
    program.write(options.text("group"), files.dump_group(detected.group))
    program.write(options.text("plan"), files.dump_plan(detected.plan))
    return detected


def _open_cache(program: Program, inputs: Inputs, analyzed: Analyzed) -> InPlaceLayerCache:
    kept = program.cache
    if kept is None:
        program.console.warn("No cached data will be used, no cache specified.")
    return InPlaceLayerCache(kept, inputs, program.tree, analyzed.target, program.console)


def _restore(
    program: Program, inputs: Inputs, analyzed: Analyzed, detected: Detected, cache: InPlaceLayerCache
) -> Restored:
    marks = f"{inputs.layers}/{MARKS}"
    try:
        program.tree.remove(marks)
        chosen = choose_layers(inputs, analyzed, detected, cache=cache, observer=program.console)
        restored = restore(inputs, analyzed, chosen, tree=program.tree, observer=program.console)
        found = cache.mark_restored()
        if program.options.phase is Phase.RESTORER:
            program.tree.write(marks, found)
        return restored
    except FormatError as error:
        raise RestoreError("the layers of the last build cannot be restored", why=str(error)) from error


def _build(
    program: Program, inputs: Inputs, analyzed: Analyzed, detected: Detected, restored: Restored
) -> Built:
    runner = InPlaceRunner(program.tree)
    with runner.open(SandboxPurpose.BUILD) as sandbox:
        return build(
            inputs, analyzed, detected, restored, runner=runner, sandbox=sandbox, observer=program.console
        )


def _export(
    program: Program,
    inputs: Inputs,
    analyzed: Analyzed,
    built: Built,
    cache: InPlaceLayerCache,
    run_name: str,
) -> Exported:
    options, images, names = program.options, program.images, program.names
    project = options.text("project-metadata")
    inputs = replace(
        inputs,
        run_image=_name_run_image(program, run_name),
        launcher=_describe_launcher(program, inputs),
        project=files.parse_project(program.read(project) or b"", project),
    )
    exported = export(
        inputs,
        analyzed,
        built,
        tree=program.tree,
        cache=cache,
        target=images.target(names[0], analyzed.previous),
        observer=program.console,
    )
    for name in names[1:]:
        push_image(exported.image, images.target(name))
    receipt, shown = exported.receipt, names
    if images.is_layout:  # the reference leaves the digest out, and names the directories
        receipt = replace(receipt, manifest_digest=None)
        shown = tuple(images.layout_path(name) for name in names)
    program.write(options.text("report"), report_toml(shown, receipt, exported.build_bom))
    _show_image(program, exported.image, shown)
    return exported


def _show_image(program: Program, image: Image, names: Sequence[str]) -> None:
    program.console.say(f"*** Images ({image.id.hex[:12]}):")
    for name in names:
        program.console.say(f"      {name}")


def _name_run_image(program: Program, run_name: str) -> RunImageName:
    """The entry of run.toml for the run image, else its first one (P-149)."""
    known = program.run_images()
    if not program.options.api.has(PLATFORM_TARGETS):
        return known[0] if known else RunImageName("")
    for name in known:
        if _is_among(run_name, (name.image, *name.mirrors)):
            return name
    return known[0] if known else RunImageName("")


def _is_among(name: str, names: tuple[str, ...]) -> bool:
    try:
        wanted = Reference.parse(name)
        found = [Reference.parse(each) for each in names]
    except InputError:
        return name in names
    return any((wanted.name, wanted.tag or "latest") == (each.name, each.tag or "latest") for each in found)


def _describe_launcher(program: Program, inputs: Inputs) -> LauncherInfo:
    """The source of the launcher: what a Go launcher says of itself, else packhorse's own version."""
    try:
        content = read(program.tree, inputs.launcher_path, limit=LAUNCHER_LIMIT)
    except FormatError as error:
        raise ExportError("the launcher cannot be read", why=str(error)) from error
    info = complete(LauncherInfo(""), content or b"")
    if info.version or content is None:
        return info
    from packhorse.base.installation import launcher_version

    return LauncherInfo(launcher_version())


PROGRAMS = {
    Phase.ANALYZER: analyzer,
    Phase.DETECTOR: detector,
    Phase.RESTORER: restorer,
    Phase.EXTENDER: extender,
    Phase.BUILDER: builder,
    Phase.EXPORTER: exporter,
    Phase.CREATOR: creator,
    Phase.REBASER: rebaser,
}
"""The function of each phase."""
