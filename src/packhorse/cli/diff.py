"""`packhorse diff`: what differs between two images, wherever they are."""

from __future__ import annotations

from pathlib import Path

import click

from packhorse.cli.diff_text import DIFFERENT, print_difference
from packhorse.cli.document import json_pieces
from packhorse.cli.main import Context
from packhorse.cli.options import add_registry_options, docker_host, open_store
from packhorse.platform import locate
from packhorse.platform.diff.comparison import compared_image
from packhorse.platform.diff.comparison import diff as compared
from packhorse.platform.diff.report import fields
from packhorse.platform.network import RegistryOptions
from packhorse.platform.wiring import Wiring


@click.command()
@click.argument("a")
@click.argument("b")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["human", "json"]),
    default="human",
    help="The output format.  [human]",
)
@click.option(
    "--html", type=click.Path(path_type=Path), help="Draw the differences as one page in this file."
)
@click.option("--layers", "shallow", is_flag=True, help="Compare only layers and config; read no files.")
@click.option("--all", "every", is_flag=True, help="List every file, and also what follows from the layers.")
@docker_host
@add_registry_options
@click.pass_obj
def diff(
    context: Context,
    a: str,
    b: str,
    output: str,
    html: Path | None,
    shallow: bool,
    every: bool,
    docker_host: str,
    registry_options: RegistryOptions,
) -> int:
    """Show what differs between the images A and B: by owner of the layer, by file, in config and labels.

    Write locations as for `packhorse inspect`. Ends with 0 if the images are the same, with 1 if they differ,
    otherwise as docs/exit-codes.md says.
    """
    with context.console.activity("comparing"), open_store(context) as store:
        wiring = Wiring(
            store, registry_options=registry_options, environ=context.environ, docker_host=docker_host
        )
        one, other = (compared_image(name, locate.read(wiring, name)[0]) for name in (a, b))
        found = compared(one, other, files=not shallow)
    console = context.console
    if output == "json":
        console.stream(json_pieces(fields(found)))
    else:
        print_difference(console, found, every=every)
    if html is not None:
        from packhorse.base import files
        from packhorse.cli.diff_page import page

        files.write(html, page(found).encode())
        console.say(f"the page is in {html}")
    return 0 if found.is_same else DIFFERENT
