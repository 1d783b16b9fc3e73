"""`packhorse rebase`: images on newer run images, one or many."""

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
    docker_host,
    image_name,
    pull_policy,
    reaching,
    store_when_needed,
)
from packhorse.cli.output import Console, Level
from packhorse.errors import InputError, SomeNotRebased, UsageError
from packhorse.image.reference import Kind, Location
from packhorse.platform.network import Reach
from packhorse.platform.pull import PullPolicy
from packhorse.platform.rebase.one import rebase as rebase_one
from packhorse.platform.rebase.outcome import Rebased, RebaseRequest, State, WantedLabel
from packhorse.platform.run_images import RunImages
from packhorse.platform.selection import listed, located, parsed
from packhorse.platform.wiring import Wiring

_STDIN = "-"
_LIST_LIMIT = 64 << 20  # bytes of a list of images
_FAILED = "failed"
_WIDTH = max(map(len, (*State, _FAILED)))
_MARKED = 12  # hexadecimal digits that tell run images apart
_SHOWN = 3  # labels that a check names, unless everything is to be said


@dataclass(frozen=True, slots=True)
class _Asked:
    """The options that hold for every image. `check` says what would change, `dry_run` what would be done."""

    run_image: str
    old: str
    labels: tuple[WantedLabel, ...]
    force: bool
    dry_run: bool
    check: bool

    def of(
        self, location: Location, *, source: Location | None = None, is_listed: bool = False
    ) -> RebaseRequest:
        """What is asked of one image."""
        return RebaseRequest(
            location,
            source or location,
            self.run_image,
            self.old,
            force=self.force,
            dry_run=self.dry_run or self.check,
            listed=is_listed,
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
@reaching
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
    reach: Reach,
) -> None:
    """Put images on the newest version of their run image, without a build.

    IMAGE is in the store, or with --publish in its registry. Write other locations as for `packhorse copy`;
    - is a list on standard input. In a registry packhorse reads only manifests and configs.
    """
    run_image, old = image_name(run_image, "--run-image"), image_name(old, "--from")
    asked = _Asked(run_image, old, WantedLabel.parse_all(labels), force, dry_run, check)
    single = len(images) == 1 and images[0] != _STDIN and not files and not scopes
    if not (images or files or scopes):
        raise UsageError(
            "no image was named", fix="name one, or a list with --file, or a registry's with --all"
        )
    if not single and (previous_image or report_output_dir):
        raise UsageError("--previous-image and --report-output-dir are for one image", fix="name one image")
    console = context.console
    with store_when_needed(context) as store:
        wiring = Wiring(store, reach=reach, environ=context.environ, docker_host=docker_host)
        run_images = RunImages(wiring, say=console.say, policy=PullPolicy(pull))
        if single:
            location = located(images[0], publish=publish)
            source = located(previous_image, publish=publish) if previous_image else None
            outcome = rebase_one(asked.of(location, source=source), wiring, run_images)
            _tell(console, asked, location, outcome)
            _report(report_output_dir, location, outcome)
        else:
            given = _given(images, files, publish=publish)
            requests = chain(map(asked.of, given), _listed(asked, wiring, scopes))
            _rebase_many(console, asked, requests, wiring, run_images, jobs)


def _given(images: Iterable[str], files: Iterable[Path], *, publish: bool) -> list[Location]:
    """The images of arguments and lists, each once. Everything is read before anything is done."""
    found: dict[Location, None] = {}
    for text in images:
        if text == _STDIN:
            found |= dict.fromkeys(_read(Path(_STDIN), publish=publish))
        else:
            found[located(text, publish=publish)] = None
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
        return parsed(data.decode().splitlines(), where=where, publish=publish)
    except OSError as error:
        raise InputError(f"{file} cannot be read", why=error.strerror or "") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file} is not a list of images", why=f"it is not UTF-8, at byte {error.start}"
        ) from error


def _listed(asked: _Asked, wiring: Wiring, scopes: Iterable[str]) -> Iterator[RebaseRequest]:
    for scope in scopes:
        for location in listed(wiring, scope):
            yield asked.of(location, is_listed=True)


def _rebase_many(
    console: Console,
    asked: _Asked,
    requests: Iterable[RebaseRequest],
    wiring: Wiring,
    run_images: RunImages,
    jobs: int,
) -> None:
    """One line an image, as it is done, and at the end how many became what."""
    from packhorse.platform.rebase.many import rebase_many

    states: Counter[str] = Counter()
    for row in rebase_many(requests, wiring, run_images, jobs=jobs):
        state = row.outcome.state if row.outcome else _FAILED
        states[state] += 1
        name = _name(row.request.location)
        if row.error:
            why = f": {'; '.join(row.error.why.splitlines())}" if row.error.why else ""
            console.result(f"{_FAILED:{_WIDTH}}  {name}  {row.error.what}{why}")
        elif row.outcome:
            _row(console, asked, name, row.outcome)
    told = ", ".join(f"{count} {state}" for state, count in states.items()) or "there was no image"
    console.notes([told])
    if states[_FAILED]:
        raise SomeNotRebased(
            f"{states[_FAILED]} of {states.total()} images could not be rebased",
            why="the lines above say why",
            fix="the same command again passes over those that are done",
        )


def _row(console: Console, asked: _Asked, name: str, outcome: Rebased) -> None:
    if asked.check and outcome.state is not State.BEHIND:
        return
    if console.level is Level.QUIET:
        # What can be handed to the next command.
        if outcome.state in (State.REBASED, State.BEHIND):
            console.result(name)
        return
    if outcome.state is State.SKIPPED:
        console.result(f"{outcome.state:{_WIDTH}}  {name}  {'; '.join(outcome.notes)}")
        return
    told = ", ".join(f"{target}: {_change(one)}" for target, one in outcome.members) or _change(outcome)
    notes = "".join(f"; {note}" for note in outcome.notes)
    console.result(f"{outcome.state:{_WIDTH}}  {name}  {told}{notes}")


def _change(outcome: Rebased) -> str:
    """From which run image to which, in a few words."""
    if outcome.state is State.SKIPPED:
        return "left as it is"
    if outcome.state is State.CURRENT:
        return f"{outcome.run_image} {_short(outcome.after)}"
    return f"{outcome.run_image} {_short(outcome.before)} -> {_short(outcome.after)}"


def _tell(console: Console, asked: _Asked, location: Location, outcome: Rebased) -> None:
    """What became of the one image that was asked for, or of each that its name stands for."""
    for note in outcome.notes:
        console.say(note)
    name = _name(location)
    for target, one in outcome.members:
        _tell_one(console, f"{name} ({target})", one)
    if not outcome.members:
        _tell_one(console, name, outcome)
    if outcome.receipt:
        console.result(str(outcome.receipt.manifest_digest or outcome.receipt.image_id))
    elif outcome.image and not asked.check:
        console.result(str(outcome.image))
    elif outcome.state is State.BEHIND:
        console.result(name)


def _tell_one(console: Console, name: str, outcome: Rebased) -> None:
    if outcome.state is State.CURRENT:
        console.say(f"{name} is on {outcome.run_image} already: {outcome.after}")
    if outcome.state is State.SKIPPED:
        console.say(f"{name} stays as it is")
    if outcome.state in (State.BEHIND, State.REBASED):
        verb = "would be put" if outcome.state is State.BEHIND else "is"
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


def _report(directory: Path | None, location: Location, outcome: Rebased) -> None:
    if directory and outcome.receipt:
        from packhorse.platform import report

        report.write(directory, location.name or str(location), outcome.receipt)


def _name(location: Location) -> str:
    """An image as it may be given to this command again."""
    return location.name if location.kind is Kind.STORE else str(location)


def _short(reference: str) -> str:
    """What tells a run image apart: the first digits of its digest."""
    marked = reference.rpartition("sha256:")[2]
    return marked[:_MARKED] or "(unknown)"
