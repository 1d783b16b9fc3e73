"""The program `analyzer`: finds the images of a build."""

from __future__ import annotations

from packhorse.errors import AnalyzeError
from packhorse.lifecycle.analyze import analyze
from packhorse.lifecycle.inputs import Inputs
from packhorse.lifecycle.labels import BASE_ID
from packhorse.lifecycle.restore import read_launch_sboms
from packhorse.lifecycle.stages import Analyzed
from packhorse.phases.files import AnalyzedToml
from packhorse.phases.names import prepare_images
from packhorse.phases.options import Phase
from packhorse.phases.program import Program, give_up_root, temporary_directory
from packhorse.spec.api import SBOM_LAYER


def main(program: Program) -> None:
    """Writes analyzed.toml, and leaves the SBOM files of the previous image for the restorer."""
    options, images = program.options, program.images
    run_name = prepare_images(program)
    images.read_credentials((*program.names, program.previous_name, run_name, options.text("cache-image")))
    give_up_root(program, "layers", "launch-cache")
    with temporary_directory() as temporary:
        analyze_images(program, program.inputs(temporary), run_name)


def analyze_images(program: Program, inputs: Inputs, run_name: str) -> Analyzed:
    """Reads the run image and the previous image, and writes analyzed.toml."""
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
        target_id=run_image.config.labels.get(BASE_ID, ""),
        metadata=analyzed.metadata,
    )
    program.write(options.text("analyzed"), toml.dump(options.api))
    if options.phase is Phase.ANALYZER and options.api.has(SBOM_LAYER) and not inputs.skip_restore:
        for sbom in read_launch_sboms(inputs, analyzed):
            path = f"{inputs.layers}/sbom/launch/{sbom.buildpack}/{sbom.layer}/sbom.{sbom.format}"
            program.tree.write(path, sbom.data)
    return analyzed
