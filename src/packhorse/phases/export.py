"""The program `exporter`: makes the image."""

from __future__ import annotations

from collections.abc import Sequence

from packhorse.base.dataclass import replace
from packhorse.base.installation import launcher_version
from packhorse.base.tree import read
from packhorse.errors import ExportError, FormatError, InputError, UsageError
from packhorse.lifecycle.export import LAUNCHER_LIMIT, complete, export
from packhorse.lifecycle.inputs import Inputs, LauncherInfo, RunImageName
from packhorse.lifecycle.stages import Analyzed, Built, Exported, report_toml
from packhorse.oci.place import Image, push_image
from packhorse.oci.reference import Reference
from packhorse.phases import files
from packhorse.phases.files import AnalyzedToml
from packhorse.phases.layer_cache import MARKS, InPlaceLayerCache
from packhorse.phases.names import check_names
from packhorse.phases.program import Program, give_up_root, read_group, temporary_directory
from packhorse.phases.restore import open_cache
from packhorse.spec.api import PLATFORM_TARGETS


def main(program: Program) -> None:
    """Writes the image, the cache, and report.toml."""
    options = program.options
    if "run-image" in options.given or "image" in options.given:
        raise UsageError("exporter takes no run image", why="it takes the one of analyzed.toml")
    check_names(program, [*program.names, options.text("cache-image")])
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
    give_up_root(program, "cache-dir", "launch-cache")
    group = read_group(program)
    metadata = f"{options.text('layers')}/config/metadata.toml"
    built = files.parse_built(program.require(metadata, "builder"), metadata, group)
    with temporary_directory() as temporary:
        inputs = program.inputs(temporary)
        analyzed = _open_analyzed(program, toml)
        cache = open_cache(program, inputs, analyzed)
        cache.read_marks(program.read(f"{inputs.layers}/{MARKS}") or b"")
        export_image(program, inputs, analyzed, built, cache, toml.run_name)


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


def export_image(
    program: Program,
    inputs: Inputs,
    analyzed: Analyzed,
    built: Built,
    cache: InPlaceLayerCache,
    run_name: str,
) -> Exported:
    """Writes the image under all its names, then the cache and report.toml."""
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
    show_image(program, exported.image, shown)
    return exported


def show_image(program: Program, image: Image, names: Sequence[str]) -> None:
    """Prints the ID and the names of an image that was written."""
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
    return LauncherInfo(launcher_version())
