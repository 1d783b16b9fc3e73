"""`packhorse sbom`: lists the components of an image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from packhorse.cli.main import CommandGroup, Context
from packhorse.cli.options import add_registry_options, docker_host, local_or_remote, open_image
from packhorse.host.locate import title

_SHOW = "show"


class _SbomGroup(CommandGroup):
    """A group whose first word may be an image: `sbom IMAGE` is `sbom show IMAGE`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *self.get_help_option_names(ctx)):
            args = [_SHOW, *args]
        return super().parse_args(ctx, args)


@click.group(cls=_SbomGroup, subcommand_metavar="[show] IMAGE | download IMAGE")
def sbom() -> None:
    """List the components of an image: from its buildpacks' SBOMs, the launcher, the base's packages.

    `packhorse sbom IMAGE` prints one SBOM of everything. `packhorse sbom download IMAGE` saves the
    buildpacks' own SBOMs.
    """


def _add_image_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the argument and options of `open_image` to both subcommands."""
    return click.argument("name", metavar="IMAGE")(
        local_or_remote(add_registry_options(docker_host(command)))
    )


@sbom.command(_SHOW, short_help="Make one SBOM of everything in an image.")
@_add_image_options
@click.option(
    "--format",
    "form",
    type=click.Choice(["cyclonedx", "spdx"]),
    default="cyclonedx",
    help="CycloneDX 1.5 or SPDX 2.3, in JSON.  [cyclonedx]",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the SBOM to this file.")
@click.pass_obj
def show(context: Context, /, form: str, output: Path | None, *, name: str, **options: Any) -> None:
    """Print one SBOM of everything in the image. The same image gives the same SBOM."""
    from packhorse.base import files
    from packhorse.report.sbom import merge

    with open_image(context, name, **options) as (image, _, _):
        found = merge(image, name=title(name))
    data = found.cyclonedx() if form == "cyclonedx" else found.spdx()
    if output is None:
        context.console.document(data.decode().rstrip("\n"))
    else:
        files.write(output, data)
        context.console.say(f"{len(found.components)} components are in {output}")


@sbom.command(short_help="Download the SBOMs that the buildpacks wrote.")
@_add_image_options
@click.option(
    "-o",
    "--output-dir",
    type=click.Path(path_type=Path),
    default=Path(),
    help="Where to write them.  [the current directory]",
)
@click.pass_obj
def download(context: Context, /, output_dir: Path, **options: Any) -> None:
    """Save the SBOMs that the image's buildpacks wrote as files: layers/sbom/launch/…"""
    from packhorse.report.sbom import read_files, save_files

    with open_image(context, **options) as (image, _, _):
        found = read_files(image)
    save_files(found, output_dir)
    for path in sorted(found):
        context.console.result(str(output_dir / path))
