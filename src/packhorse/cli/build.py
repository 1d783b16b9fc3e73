"""`packhorse build`."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import click

from packhorse.base.step import Network
from packhorse.cli.main import Context
from packhorse.cli.options import environment, opened_store
from packhorse.cli.output import Console, Level, columns, size
from packhorse.errors import UsageError
from packhorse.image.reference import Kind, Location, Reference
from packhorse.platform.build import BuildOutcome, BuildRequest
from packhorse.platform.build import build as run_build


@click.command()
@click.argument("name")
@click.option(
    "-p", "--path", type=click.Path(path_type=Path), default=Path(), help="The source directory.  [.]"
)
@click.option(
    "-B", "--builder", default="", metavar="IMAGE", help="A builder image, instead of the default one."
)
@click.option(
    "-b",
    "--buildpack",
    "buildpacks",
    multiple=True,
    metavar="DIR|ID",
    help="A buildpack, instead of the builder's order. Repeatable.",
)
@click.option(
    "-e", "--env", "env", multiple=True, metavar="NAME[=VALUE]", help="A variable for buildpacks. Repeatable."
)
@click.option(
    "--env-file",
    "env_files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A file of variables. Repeatable.",
)
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    metavar="PLACE",
    help="Also write the image to oci:DIR[:REF], oci-archive:FILE or docker-archive:FILE. Repeatable.",
)
@click.option(
    "-D", "--default-process", default="", metavar="TYPE", help="The process type the image starts."
)
@click.option("--clear-cache", is_flag=True, help="Keep no layer of earlier builds.")
@click.option(
    "--report-output-dir",
    "report",
    type=click.Path(path_type=Path),
    help="Where to write the specification's report.toml.",
)
@click.option(
    "--network", type=click.Choice(["none", "host"]), help="The network buildpacks have.  [own if possible]"
)
@click.option("-q", "--quiet", is_flag=True, help="Print the image ID alone.")
@click.option("-v", "--verbose", is_flag=True, help="Print everything.")
@click.option("--no-color", is_flag=True, help="Print without colours.")
@click.pass_obj
def build(
    context: Context,
    name: str,
    path: Path,
    builder: str,
    buildpacks: tuple[str, ...],
    env: tuple[str, ...],
    env_files: tuple[Path, ...],
    outputs: tuple[str, ...],
    default_process: str,
    clear_cache: bool,
    report: Path | None,
    network: str | None,
    quiet: bool,
    verbose: bool,
    no_color: bool,
) -> None:
    """Turn source code into an image called NAME."""
    console = context.console
    console.adjust(quiet=quiet, verbose=verbose, no_color=no_color)
    request = BuildRequest(
        name=Reference.parse(name),
        path=path,
        builder=builder,
        buildpacks=buildpacks,
        env=environment(env, env_files, context.environ),
        outputs=tuple(_output(text, name) for text in outputs),
        default_process=default_process,
        clear_cache=clear_cache,
        report=report,
        network=Network(network) if network else None,
        environ=context.environ,
    )
    started = time.monotonic()
    with opened_store(context) as store:
        outcome = run_build(request, store, console, console.progress)
    _tell(console, request, outcome, time.monotonic() - started)


def _output(text: str, name: str) -> Location:
    """Where to write; in a docker archive the image has the name it was built as, unless another is given."""
    location = Location.parse(text)
    if location.kind in (Kind.STORE, Kind.DAEMON):
        raise UsageError(
            f"--output cannot write to {text!r}",
            why="every build is in the store; --output writes it to files as well",
            fix="write oci:DIR[:REF], oci-archive:FILE[:REF] or docker-archive:FILE[:NAME]",
        )
    if location.kind is Kind.DOCKER_ARCHIVE and not location.name:
        return replace(location, name=name)
    return location


def _tell(console: Console, request: BuildRequest, outcome: BuildOutcome, seconds: float) -> None:
    exported = outcome.exported
    if console.level is Level.QUIET:
        console.result(str(exported.image.id))
        return
    rows = [
        [row.name, row.owner, size(row.size), "kept" if row.kept else "new", row.why]
        for row in exported.layers
    ]
    lines = columns(["layer", "from", "size", "", ""], rows, right=frozenset({2}))
    console.notes(["", *(f"  {line}" for line in lines), ""])
    counters = outcome.counters
    console.detail(
        f"buildpack layers: {counters.untouched} untouched, {counters.changed} changed; "
        f"{size(counters.hashed)} read and hashed, {counters.linked} entries linked"
    )
    name = request.name.familiar.removesuffix(":latest")
    console.notes([f"built {name}  {exported.image.id}  in {seconds:.1f} s"])
    for location, receipt in outcome.copies:
        digest = f"  {receipt.manifest_digest}" if receipt.manifest_digest else ""
        console.notes([f"wrote {location}{digest}"])
    types = [process.type for process in exported.processes]
    if exported.default_process:
        console.notes(
            [f"run it: packhorse run {name}{' -p 8080:8080' if exported.default_process == 'web' else ''}"]
        )
    elif types:
        console.notes(
            [f"run it: packhorse run --entrypoint {types[0]} {name}  (processes: {', '.join(types)})"]
        )
    else:
        console.notes([f"it has no process; run a command in it: packhorse run {name} sh"])
