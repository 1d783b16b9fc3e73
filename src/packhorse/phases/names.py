"""Checks the names of a phase's images before anything is done with them."""

from __future__ import annotations

from collections.abc import Sequence

from packhorse.errors import InputError, UsageError
from packhorse.oci.reference import Reference, is_image_id
from packhorse.phases.program import Program
from packhorse.spec.api import PLATFORM_TARGETS


def prepare_images(program: Program) -> str:
    """Checks the names of a build's images, and returns the name of the run image. Raises UsageError."""
    options, images = program.options, program.images
    names = [*program.names, program.previous_name, options.text("cache-image")]
    check_names(program, names)
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


def check_names(program: Program, names: Sequence[str]) -> None:
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
