"""The program `detector`: finds the group of buildpacks that accepts the source."""

from __future__ import annotations

from packhorse.base.dataclass import replace
from packhorse.base.target import Target
from packhorse.errors import DetectErrored
from packhorse.lifecycle.detect import detect
from packhorse.lifecycle.inputs import Inputs
from packhorse.lifecycle.stages import Detected
from packhorse.phases import files, privileges
from packhorse.phases.options import Phase
from packhorse.phases.program import Program, read_analyzed, refuse_root, target_of, temporary_directory
from packhorse.phases.runner import InPlaceRunner


def main(program: Program) -> None:
    """Writes group.toml and plan.toml."""
    refuse_root(Phase.DETECTOR)
    privileges.hide_from_buildpacks()
    with temporary_directory() as temporary:
        detect_group(program, program.inputs(temporary), target_of(read_analyzed(program)))


def detect_group(program: Program, inputs: Inputs, base: Target) -> Detected:
    """Runs detection for the run image's target `base`, and writes group.toml and plan.toml."""
    options = program.options
    path = options.text("order")
    data = program.read(path)
    if data is None:
        raise DetectErrored(f"{path} does not exist", why="it names the buildpacks that detection tries")
    inputs = replace(inputs, order=files.parse_order(data, path))
    runner = InPlaceRunner(program.tree)
    detected = detect(inputs, base, runner=runner, observer=program.console)
    program.write(options.text("group"), files.dump_group(detected.group))
    program.write(options.text("plan"), files.dump_plan(detected.plan))
    return detected
