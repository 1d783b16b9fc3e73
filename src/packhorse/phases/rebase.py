"""The program `rebaser`: puts an image on a new run image."""

from __future__ import annotations

from packhorse.errors import RebaseError, UsageError
from packhorse.lifecycle.inputs import RunImageName
from packhorse.lifecycle.rebase import RunImage, read_base_label, rebase
from packhorse.lifecycle.stages import report_toml
from packhorse.oci.place import push_image
from packhorse.phases import privileges
from packhorse.phases.export import show_image
from packhorse.phases.names import check_names
from packhorse.phases.program import Program


def main(program: Program) -> None:
    """Puts an image on a new run image, and writes it under all names, and report.toml."""
    options, images, names = program.options, program.images, program.names
    source = options.text("previous-image") or names[0]
    check_names(program, [*names, source])
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
    show_image(program, rebased, names)
