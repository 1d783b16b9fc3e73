"""`packhorse buildpack`."""

from __future__ import annotations

from pathlib import Path

import click

from packhorse.base.files import resolve
from packhorse.cli.main import CommandGroup, Context
from packhorse.errors import UsageError
from packhorse.platform.staging import stage as stage_buildpack


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
    """Copy a buildpack to TARGET with everything that it needs, for any platform and without a network."""
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
