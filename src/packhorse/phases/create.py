"""The program `creator`: all phases one after another."""

from __future__ import annotations

import os
from collections.abc import Mapping

from packhorse.phases import privileges
from packhorse.phases.analyze import analyze_images
from packhorse.phases.build import run_group
from packhorse.phases.detect import detect_group
from packhorse.phases.export import export_image
from packhorse.phases.names import prepare_images
from packhorse.phases.program import Program, give_up_root, temporary_directory
from packhorse.phases.restore import open_cache, restore_layers


def main(program: Program) -> None:
    """Runs all phases one after another, and writes the files of each."""
    options, images, console = program.options, program.images, program.console
    run_name = prepare_images(program)
    images.read_credentials((*program.names, program.previous_name, run_name, options.text("cache-image")))
    give_up_root(program, "layers", "cache-dir", "launch-cache")
    program = program.with_environ(_with_account(program.environ))
    with temporary_directory() as temporary:
        inputs = program.inputs(temporary)
        with console.phase("analyze"):
            analyzed = analyze_images(program, inputs, run_name)
        with console.phase("detect"):
            detected = detect_group(program, inputs, analyzed.target)
        cache = open_cache(program, inputs, analyzed)
        with console.phase("restore"):
            restored = restore_layers(program, inputs, analyzed, detected, cache)
        with console.phase("build"):
            built = run_group(program, inputs, analyzed.target, detected, restored)
        with console.phase("export"):
            export_image(program, inputs, analyzed, built, cache, run_name)


def _with_account(environ: Mapping[str, str]) -> Mapping[str, str]:
    """The environment with the home and the name of the user that this process has become."""
    name, home = privileges.find_account(os.getuid())
    return {**environ, "HOME": home, "USER": name} if name else environ
