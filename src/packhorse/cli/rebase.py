"""`packhorse rebase`: images on newer run images."""

from __future__ import annotations

from pathlib import Path

import click

from packhorse.cli.main import Context
from packhorse.cli.options import store_when_needed
from packhorse.cli.output import Console
from packhorse.errors import UsageError
from packhorse.image.reference import Kind, Location
from packhorse.platform.rebase import Rebased, RebaseRequest, State
from packhorse.platform.rebase import rebase as rebase_one
from packhorse.platform.run_images import PullPolicy, RunImages
from packhorse.platform.wiring import Wiring

_MARKED = 19  # characters of a digest that tell images apart


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--run-image", default="", metavar="REF", help="The run image, in place of the image's own.")
@click.option("--publish", is_flag=True, help="Rebase the image in its registry, and not in the store.")
@click.option(
    "--previous-image", default="", metavar="REF", help="Rebase this one; IMAGE is what becomes of it."
)
@click.option("--force", is_flag=True, help="Take a run image of another name or target.")
@click.option(
    "--report-output-dir", type=click.Path(path_type=Path), metavar="DIR", help="Write report.toml there."
)
@click.option(
    "--pull-policy",
    type=click.Choice([*PullPolicy]),
    default=PullPolicy.ALWAYS,
    help="When to ask a registry for a run image that is to be in the store.  [always]",
)
@click.pass_obj
def rebase(
    context: Context,
    images: tuple[str, ...],
    run_image: str,
    publish: bool,
    previous_image: str,
    force: bool,
    report_output_dir: Path | None,
    pull_policy: str,
) -> None:
    """Put IMAGE on the newest version of its run image, without building it anew.

    Places are spelled as for `packhorse copy`. In a registry nothing but manifests and configs is read.
    """
    console = context.console
    location = _location(images[0], publish=publish)
    source = _location(previous_image, publish=publish) if previous_image else location
    request = RebaseRequest(location, source, run_image, force=force)
    with store_when_needed(context) as store:
        wiring = Wiring(store)
        run_images = RunImages(wiring, say=console.say, policy=PullPolicy(pull_policy))
        outcome = rebase_one(request, wiring, run_images)
    if report_output_dir and outcome.receipt:
        from packhorse.platform import report

        report.write(report_output_dir, location.name or str(location), outcome.receipt)
    _tell(console, outcome)


def _location(text: str, *, publish: bool) -> Location:
    """Where an image is; a bare name is in the store, or with `publish` in its registry."""
    location = Location.parse(text)
    if not publish or location.kind is Kind.REGISTRY:
        return location
    if location.kind is not Kind.STORE or text.startswith(f"{Kind.STORE}:"):
        raise UsageError(f"{text} is not in a registry", why="--publish is for images that are")
    return Location(Kind.REGISTRY, "", location.name)


def _tell(console: Console, outcome: Rebased) -> None:
    for note in outcome.notes:
        console.say(note)
    if outcome.state is State.CURRENT:
        console.say(f"the image is on {outcome.run_image} already: {outcome.after}")
    elif outcome.receipt:
        console.say(f"on {outcome.run_image}: {outcome.layers[0]} layers replaced by {outcome.layers[1]}")
    if outcome.receipt:
        console.result(str(outcome.receipt.manifest_digest or outcome.receipt.image_id))
