"""`packhorse builder`."""

from __future__ import annotations

import click

from packhorse.cli.main import CommandGroup, Context
from packhorse.cli.options import open_store
from packhorse.platform.default_builder import ensure
from packhorse.platform.wiring import remove_leftovers


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
