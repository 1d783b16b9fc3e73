"""The program `builder`: runs the group of buildpacks."""

from __future__ import annotations

from packhorse.base.target import Target
from packhorse.lifecycle.build import build
from packhorse.lifecycle.buildpacks import Descriptors
from packhorse.lifecycle.inputs import Inputs
from packhorse.lifecycle.ports import SandboxPurpose
from packhorse.lifecycle.stages import Built, Detected, Member, Restored
from packhorse.phases import files, privileges
from packhorse.phases.options import Phase
from packhorse.phases.program import (
    Program,
    read_analyzed,
    read_group,
    refuse_root,
    target_of,
    temporary_directory,
)
from packhorse.phases.runner import InPlaceRunner


def main(program: Program) -> None:
    """Runs the group, and writes metadata.toml."""
    refuse_root(Phase.BUILDER)
    privileges.hide_from_buildpacks()
    path = program.options.text("plan")
    plan = files.parse_plan(program.require(path, "detector"), path)
    group = read_group(program)
    with temporary_directory() as temporary:
        inputs = program.inputs(temporary)
        descriptors = Descriptors(inputs, program.tree, program.console.say)
        members = tuple(Member(descriptors.find(member.ref)) for member in group)
        # Nobody knows here which layers were restored, and none of them lies on an overlay.
        run_group(program, inputs, target_of(read_analyzed(program)), Detected(members, plan), Restored({}))


def run_group(
    program: Program, inputs: Inputs, base: Target, detected: Detected, restored: Restored
) -> Built:
    """Runs bin/build of each buildpack, for the run image's target `base`."""
    runner = InPlaceRunner(program.tree)
    with runner.open(SandboxPurpose.BUILD) as sandbox:
        return build(
            inputs, base, detected, restored, runner=runner, sandbox=sandbox, observer=program.console
        )
