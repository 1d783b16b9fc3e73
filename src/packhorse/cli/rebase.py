"""`packhorse rebase`: puts one or many images on newer run images."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import click

from packhorse.base.dataclass import dataclass
from packhorse.cli.main import Context
from packhorse.cli.options import (
    Count,
    add_registry_options,
    docker_host,
    image_name,
    open_store_lazily,
    pull_policy,
)
from packhorse.cli.output import Console, Level
from packhorse.errors import InputError, SomeNotRebased, UsageError
from packhorse.fleet.rebase import rebase as rebase_one
from packhorse.fleet.rebase_plan import RebaseRequest, RebaseResult, RebaseState, WantedLabel
from packhorse.fleet.run_images import RunImages
from packhorse.fleet.selection import list_images, parse_list, parse_location
from packhorse.host.locate import PullPolicy
from packhorse.host.registries import RegistryOptions
from packhorse.host.wiring import Wiring
from packhorse.oci.reference import Location, LocationKind

_STDIN = "-"
_LIST_LIMIT = 64 << 20  # the most bytes of a list of images
_FAILED = "failed"
_WIDTH = max(map(len, (*RebaseState, _FAILED)))
_MARKED = 12  # hexadecimal digits that tell run images apart
_SHOWN = 3  # the most changed labels that are printed without --verbose


@dataclass(frozen=True, slots=True)
class _RebaseOptions:
    """The options that apply to every image. `check` and `dry_run` write nothing."""

    run_image: str
    old_run_image: str
    labels: tuple[WantedLabel, ...]
    force: bool
    dry_run: bool
    check: bool

    def request_for(
        self, location: Location, *, source: Location | None = None, is_listed: bool = False
    ) -> RebaseRequest:
        """Returns the request for one image."""
        return RebaseRequest(
            location,
            source or location,
            self.run_image,
            self.old_run_image,
            force=self.force,
            dry_run=self.dry_run or self.check,
            is_listed=is_listed,
            labels=self.labels,
        )


@click.command()
@click.argument("images", nargs=-1, metavar="IMAGE...")
@click.option(
    "--run-image", "--to", default="", metavar="REF", help="The run image to use instead of the image's own."
)
@click.option("--from", "old", default="", metavar="REF", help="Take only images that are on this run image.")
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="KEY[=VALUE]",
    help="Take only images that have this label; several: that have them all.",
)
@click.option("--publish", is_flag=True, help="The images are in their registries, not in the store.")
@click.option(
    "--previous-image", default="", metavar="REF", help="Rebase this image, and write the result to IMAGE."
)
@click.option("--force", is_flag=True, help="Accept a run image with another name or target.")
@click.option(
    "--check", is_flag=True, help="Say which images are behind, and what would change; write nothing."
)
@click.option("--dry-run", is_flag=True, help="Say what the command would do; write nothing.")
@click.option(
    "--file",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="LIST",
    help="Rebase the images of this list, one a line; - is standard input.",
)
@click.option(
    "--all",
    "scopes",
    multiple=True,
    metavar="REGISTRY/PREFIX/",
    help="Rebase the images that the registry lists there.",
)
@click.option(
    "--jobs", type=Count(1, 64), default=8, metavar="N", help="How many images to work on at a time.  [8]"
)
@click.option(
    "--report-output-dir", type=click.Path(path_type=Path), metavar="DIR", help="Write report.toml there."
)
@docker_host
@pull_policy(PullPolicy.ALWAYS)
@add_registry_options
@click.pass_obj
def rebase(
    context: Context,
    images: tuple[str, ...],
    run_image: str,
    old: str,
    labels: tuple[str, ...],
    publish: bool,
    previous_image: str,
    force: bool,
    check: bool,
    dry_run: bool,
    files: tuple[Path, ...],
    scopes: tuple[str, ...],
    jobs: int,
    report_output_dir: Path | None,
    docker_host: str,
    pull: str,
    registry_options: RegistryOptions,
) -> None:
    """Put images on the newest version of their run image, without a build.

    IMAGE is in the store, or with --publish in its registry. Write other locations as for `packhorse copy`;
    - is a list on standard input. In a registry packhorse
    neither downloads nor uploads layers that the repository has.
    """
    run_image, old = image_name(run_image, "--run-image"), image_name(old, "--from")
    asked = _RebaseOptions(run_image, old, WantedLabel.parse_all(labels), force, dry_run, check)
    single = len(images) == 1 and images[0] != _STDIN and not files and not scopes
    if not (images or files or scopes):
        raise UsageError(
            "no image was named", fix="name one, or a list with --file, or a registry's with --all"
        )
    if not single and (previous_image or report_output_dir):
        raise UsageError("--previous-image and --report-output-dir are for one image", fix="name one image")
    console = context.console
    with open_store_lazily(context) as store:
        wiring = Wiring(
            store, registry_options=registry_options, environ=context.environ, docker_host=docker_host
        )
        run_images = RunImages(wiring, say=console.say, policy=PullPolicy(pull))
        if single:
            location = parse_location(images[0], publish=publish)
            source = parse_location(previous_image, publish=publish) if previous_image else None
            outcome = rebase_one(asked.request_for(location, source=source), wiring, run_images)
            _print_result(console, asked, location, outcome)
            _report(report_output_dir, location, outcome)
        else:
            given = _read_images(images, files, publish=publish)
            requests = chain(map(asked.request_for, given), _list_requests(asked, wiring, scopes))
            _rebase_many(console, asked, requests, wiring, run_images, jobs)


def _read_images(images: Iterable[str], files: Iterable[Path], *, publish: bool) -> list[Location]:
    """Reads the images of arguments and lists, each once, so that a wrong list stops the command early."""
    found: dict[Location, None] = {}
    for text in images:
        if text == _STDIN:
            found |= dict.fromkeys(_read(Path(_STDIN), publish=publish))
        else:
            found[parse_location(text, publish=publish)] = None
    for file in files:
        found |= dict.fromkeys(_read(file, publish=publish))
    return list(found)


def _read(file: Path, *, publish: bool) -> list[Location]:
    try:
        if str(file) == _STDIN:
            data, where = sys.stdin.buffer.read(_LIST_LIMIT + 1), "standard input"
        else:
            with file.open("rb") as opened:
                data, where = opened.read(_LIST_LIMIT + 1), str(file)
        if len(data) > _LIST_LIMIT:
            raise InputError(f"{where} is too long", why=f"a list of images has at most {_LIST_LIMIT} bytes")
        return parse_list(data.decode().splitlines(), where=where, publish=publish)
    except OSError as error:
        raise InputError(f"{file} cannot be read", why=error.strerror or "") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file} is not a list of images", why=f"it is not UTF-8, at byte {error.start}"
        ) from error


def _list_requests(asked: _RebaseOptions, wiring: Wiring, scopes: Iterable[str]) -> Iterator[RebaseRequest]:
    for scope in scopes:
        for location in list_images(wiring, scope):
            yield asked.request_for(location, is_listed=True)


def _rebase_many(
    console: Console,
    asked: _RebaseOptions,
    requests: Iterable[RebaseRequest],
    wiring: Wiring,
    run_images: RunImages,
    jobs: int,
) -> None:
    """Prints one line for each image when it is done, and at the end how many have which state."""
    from packhorse.fleet.rebase_many import rebase_many

    states: Counter[str] = Counter()
    for row in rebase_many(requests, wiring, run_images, jobs=jobs):
        state = row.outcome.state if row.outcome else _FAILED
        states[state] += 1
        name = _name(row.request.location)
        if row.error:
            why = f": {'; '.join(row.error.why.splitlines())}" if row.error.why else ""
            console.result(f"{_FAILED:{_WIDTH}}  {name}  {row.error.what}{why}")
        elif row.outcome:
            _print_row(console, asked, name, row.outcome)
    console.notes([", ".join(f"{count} {state}" for state, count in states.items()) or "there was no image"])
    if states[_FAILED]:
        raise SomeNotRebased(
            f"{states[_FAILED]} of {states.total()} images could not be rebased",
            why="the lines above say why",
            fix="run the same command again: it skips the images that are done",
        )


def _print_row(console: Console, asked: _RebaseOptions, name: str, outcome: RebaseResult) -> None:
    if asked.check and outcome.state is not RebaseState.BEHIND:
        return
    if console.level is Level.QUIET:
        # Only names, which another command can read.
        if outcome.state in (RebaseState.REBASED, RebaseState.BEHIND):
            console.result(name)
        return
    if outcome.state is RebaseState.SKIPPED:
        console.result(f"{outcome.state:{_WIDTH}}  {name}  {'; '.join(outcome.notes)}")
        return
    changes = ", ".join(
        f"{target}: {_describe_change(one)}" for target, one in outcome.members
    ) or _describe_change(outcome)
    notes = "".join(f"; {note}" for note in outcome.notes)
    console.result(f"{outcome.state:{_WIDTH}}  {name}  {changes}{notes}")


def _describe_change(outcome: RebaseResult) -> str:
    """Says in a few words from which run image to which an image was put."""
    if outcome.state is RebaseState.SKIPPED:
        return "left as it is"
    if outcome.state is RebaseState.CURRENT:
        return f"{outcome.run_image} {_short_digest(outcome.after)}"
    return f"{outcome.run_image} {_short_digest(outcome.before)} -> {_short_digest(outcome.after)}"


def _print_result(console: Console, asked: _RebaseOptions, location: Location, outcome: RebaseResult) -> None:
    """Prints the result for the one image, or for each image of an index."""
    for note in outcome.notes:
        console.say(note)
    name = _name(location)
    for target, one in outcome.members:
        _print_one_result(console, f"{name} ({target})", one)
    if not outcome.members:
        _print_one_result(console, name, outcome)
    if outcome.receipt:
        console.result(str(outcome.receipt.manifest_digest or outcome.receipt.image_id))
    elif outcome.image and not asked.check:
        console.result(str(outcome.image))
    elif outcome.state is RebaseState.BEHIND:
        console.result(name)


def _print_one_result(console: Console, name: str, outcome: RebaseResult) -> None:
    if outcome.state is RebaseState.CURRENT:
        console.say(f"{name} is on {outcome.run_image} already: {outcome.after}")
    if outcome.state is RebaseState.SKIPPED:
        console.say(f"{name} stays as it is")
    if outcome.state in (RebaseState.BEHIND, RebaseState.REBASED):
        verb = "would be put" if outcome.state is RebaseState.BEHIND else "is"
        console.say(f"{name} {verb} on {outcome.run_image}")
        console.say(f"run image   {outcome.before or '(unknown)'}")
        console.say(f"         -> {outcome.after}")
        old, new = outcome.layers
        console.say(f"layers      {old} of the base replaced by {new}")
        shown = outcome.labels if console.level is Level.VERBOSE else outcome.labels[:_SHOWN]
        for label, before, after in shown:
            console.say(f"label       {label}: {before or '(none)'} -> {after or '(none)'}")
        if len(shown) < len(outcome.labels):
            console.say(f"label       and {len(outcome.labels) - len(shown)} more")


def _report(directory: Path | None, location: Location, outcome: RebaseResult) -> None:
    if directory and outcome.receipt:
        from packhorse.build.deliver import write

        write(directory, location.name or str(location), outcome.receipt)


def _name(location: Location) -> str:
    """Returns an image's name as this command accepts it."""
    return location.name if location.kind is LocationKind.STORE else str(location)


def _short_digest(reference: str) -> str:
    """Returns the first digits of a run image's digest, which tell it apart."""
    marked = reference.rpartition("sha256:")[2]
    return marked[:_MARKED] or "(unknown)"
