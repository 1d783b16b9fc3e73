"""The program `restorer`: restores the layers of the last build."""

from __future__ import annotations

from packhorse.errors import FormatError, RestoreError
from packhorse.lifecycle.inputs import Inputs
from packhorse.lifecycle.labels import LayersMetadata
from packhorse.lifecycle.restore import choose_layers, restore
from packhorse.lifecycle.stages import Analyzed, Detected, Restored
from packhorse.oci.mutate import empty_config
from packhorse.oci.place import Image
from packhorse.phases.layer_cache import MARKS, InPlaceLayerCache
from packhorse.phases.options import Phase
from packhorse.phases.program import (
    Program,
    give_up_root,
    read_analyzed,
    read_group,
    target_of,
    temporary_directory,
)


def main(program: Program) -> None:
    """Restores layers and their metadata, and writes analyzed.toml again."""
    options = program.options
    program.images.read_credentials((options.text("cache-image"), options.text("build-image")))
    if options.text("build-image"):
        program.console.say(
            "-build-image is for image extensions, which are not supported yet: it is ignored"
        )
    give_up_root(program, "layers", "cache-dir")
    group = read_group(program)
    toml = read_analyzed(program)
    if toml is not None:
        program.write(options.text("analyzed"), toml.dump(options.api))
    target = target_of(toml)
    metadata = toml.metadata if toml else LayersMetadata()
    # Restoring needs no image: analyzer has left the SBOM files of the previous one.
    analyzed = Analyzed(Image(empty_config(target), ()), "", target, None, metadata)
    with temporary_directory() as temporary:
        inputs = program.inputs(temporary)
        restore_layers(program, inputs, analyzed, Detected(group, ()), open_cache(program, inputs, analyzed))


def restore_layers(
    program: Program, inputs: Inputs, analyzed: Analyzed, detected: Detected, cache: InPlaceLayerCache
) -> Restored:
    """Restores what the group can use of the last build. Raises RestoreError."""
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


def open_cache(program: Program, inputs: Inputs, analyzed: Analyzed) -> InPlaceLayerCache:
    """Opens the cache that the platform names. Warns if it names none."""
    kept = program.cache
    if kept is None:
        program.console.warn("No cached data will be used, no cache specified.")
    return InPlaceLayerCache(kept, inputs, program.tree, analyzed.target, program.console)
