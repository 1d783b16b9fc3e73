"""`packhorse cache`: what builds have kept for the next ones."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import click

from packhorse.cli.document import FORMATS, serialize
from packhorse.cli.images import format_age
from packhorse.cli.main import CommandGroup, Context
from packhorse.cli.options import KEEP_STORAGE, open_store, parse_size
from packhorse.cli.options import keep_storage as bound
from packhorse.cli.output import format_size
from packhorse.errors import UsageError
from packhorse.image.reference import Reference
from packhorse.platform import kept_storage
from packhorse.platform.kept_storage import PruneResult

_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@click.group(cls=CommandGroup)
def cache() -> None:
    """Manage the layers that builds keep for the next builds."""


@cache.command()
@click.option("--output", type=click.Choice(FORMATS), help="Print for programs.")
@click.pass_obj
def ls(context: Context, output: str | None) -> None:
    """List what builds keep, and how much disk space it uses."""
    with context.console.activity("measuring what is kept"), open_store(context) as store:
        survey = store.caches()
    console = context.console
    if output:
        rows = [
            {
                "name": each.app,
                "layers": each.layers,
                "size": each.size,
                "alone": each.alone,
                "built": _format_time(each.used),
            }
            for each in survey.caches
        ]
        console.result(serialize({"caches": rows, "total": survey.total}, output))
        return
    table = [
        [
            _display_name(each.app),
            str(each.layers),
            _format_age(each.used),
            format_size(each.size),
            format_size(each.alone),
        ]
        for each in survey.caches
    ]
    console.table(["NAME", "LAYERS", "BUILT", "SIZE", "ALONE"], table, right=frozenset({1, 3, 4}))
    console.notes([f"{format_size(survey.total)} in all; ALONE is what is free when that one is removed"])


@cache.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@click.pass_obj
def rm(context: Context, names: tuple[str, ...]) -> None:
    """Remove the kept layers of images. The images stay; their next builds begin without kept layers."""
    with context.console.activity("freeing space"), open_store(context, frees=True) as store:
        _print_pruned(context, kept_storage.remove(store, names))


@cache.command()
@click.option("--keep-storage", default="", metavar="SIZE", help="Keep at most this much: 20g, 512m.")
@click.option(
    "--older-than", default="", metavar="AGE", help="Remove what was not built for this long: 12h, 30d."
)
@click.option("--all", "every", is_flag=True, help="Remove everything.")
@click.pass_obj
def prune(context: Context, keep_storage: str, older_than: str, every: bool) -> None:
    """Remove the layers that were unused for longest, down to the limit.

    Without options the limit is that of builds: PACKHORSE_KEEP_STORAGE, else a tenth of the disk. With only
    --older-than everything older is removed. With both options only what is older is removed.
    """
    if every and (keep_storage or older_than):
        raise UsageError("--all excludes --keep-storage and --older-than", fix="leave out one or the other")
    limit = parse_size(keep_storage, option="--keep-storage") if keep_storage else None
    older = _parse_age(older_than) if older_than else None
    if limit is None and older is None:
        limit = bound(context.environ)
    with context.console.activity("freeing space"), open_store(context, frees=True) as store:
        unbound = limit == 0 and not keep_storage
        if unbound and not every:
            context.console.notes([f"nothing goes: {KEEP_STORAGE} is none"])
            return
        _print_pruned(context, kept_storage.prune(store, limit=limit, older=older, every=every))


def _print_pruned(context: Context, pruned: PruneResult) -> None:
    for app in pruned.apps:
        context.console.result(f"Removed: {_display_name(app)}")
    context.console.notes([f"freed {format_size(pruned.freed.bytes)}"])


def _display_name(app: str) -> str:
    return Reference.parse(app).familiar if app else "(damaged)"


def _parse_age(text: str) -> float:
    found = re.fullmatch("([0-9]{1,9})([mhdw])", text.strip().lower())
    if found is None:
        raise UsageError(
            f"--older-than: {text[:100]!r} is not an age",
            why="write a number with m, h, d or w: 90m, 12h, 30d, 4w",
        )
    return int(found[1]) * _UNITS[found[2]]


def _format_time(used: float) -> str:
    return datetime.fromtimestamp(int(used), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _format_age(used: float) -> str:
    return format_age(_format_time(used))
