"""The commands `packhorse builder` and `packhorse buildpack`."""

from __future__ import annotations

from pathlib import Path

import click

from packhorse.base.files import resolve
from packhorse.builder.default import ensure
from packhorse.builder.package import stage_buildpack
from packhorse.cli.main import CommandGroup, Context
from packhorse.cli.options import open_store
from packhorse.errors import UsageError
from packhorse.host.wiring import remove_leftovers


@click.group(cls=CommandGroup)
def builder() -> None:
    """Manage builders."""


@builder.command()
@click.option("--update", is_flag=True, help="Use today's packages, and say which are newer.")
@click.pass_obj
def default(context: Context, update: bool) -> None:
    """Make the default builder from the distribution's packages, unless it exists."""
    console = context.console
    with console.activity("making the default builder"), open_store(context) as store:
        remove_leftovers(store)
        made = ensure(store, environ=context.environ, progress=console.progress, update=update)
    for change in made.changes:
        console.say(str(change))
    if update and not made.changes:
        console.say("no package is newer")
    console.result(made.name)


@click.group(cls=CommandGroup)
def buildpack() -> None:
    """Prepare buildpacks for other machines and platforms."""


@buildpack.command()
@click.argument("source", metavar="DIR|ID")
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "-d",
    "--dependency",
    "dependencies",
    multiple=True,
    metavar="NAME@VERSION=FILE",
    help="A file that the buildpack would download. Repeatable.",
)
@click.pass_obj
def stage(context: Context, source: str, target: Path, dependencies: tuple[str, ...]) -> None:
    """Copy a buildpack to TARGET with everything that it needs, for any platform and without a network.

    The buildpack is a directory with a buildpack.toml, or the ID of a bundled one, such as packhorse/nodejs.
    """
    files = [_parse_dependency(text) for text in dependencies]
    stage_buildpack(source, target, files)
    context.console.result(str(target))


def _parse_dependency(text: str) -> tuple[str, str, Path]:
    spec, equals, file = text.partition("=")
    name, at, version = spec.rpartition("@")
    if not (equals and at and name and version and file):
        raise UsageError(f"--dependency: {text!r} is not a dependency", fix="write NAME@VERSION=FILE")
    path = resolve(Path(file))
    if path is None or not path.is_file():
        raise UsageError(f"there is no file {file}", why=f"--dependency {text} names it")
    return name, version, path
