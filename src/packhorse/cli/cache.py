"""`packhorse cache`: what builds have kept for the next ones."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import click

from packhorse.cli.document import FORMATS, written
from packhorse.cli.images import age
from packhorse.cli.main import Context, Group
from packhorse.cli.options import KEEP_STORAGE, opened_store, size_of
from packhorse.cli.options import keep_storage as bound
from packhorse.cli.output import size
from packhorse.errors import UsageError
from packhorse.image.reference import Reference
from packhorse.platform import kept_storage
from packhorse.platform.kept_storage import Pruned

_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@click.group(cls=Group)
def cache() -> None:
    """Manage the layers that builds keep for the next builds."""


@cache.command()
@click.option("--output", type=click.Choice(FORMATS), help="Print for programs.")
@click.pass_obj
def ls(context: Context, output: str | None) -> None:
    """List what builds keep, and how much disk space it uses."""
    with context.console.activity("measuring what is kept"), opened_store(context) as store:
        survey = store.caches()
    console = context.console
    if output:
        rows = [
            {
                "name": each.app,
                "layers": each.layers,
                "size": each.size,
                "alone": each.alone,
                "built": _moment(each.used),
            }
            for each in survey.caches
        ]
        console.result(written({"caches": rows, "total": survey.total}, output))
        return
    table = [
        [
            _shown(each.app),
            str(each.layers),
            _age(each.used),
            size(each.size),
            size(each.alone),
        ]
        for each in survey.caches
    ]
    console.table(["NAME", "LAYERS", "BUILT", "SIZE", "ALONE"], table, right=frozenset({1, 3, 4}))
    console.notes([f"{size(survey.total)} in all; ALONE is what is free when that one is removed"])


@cache.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@click.pass_obj
def rm(context: Context, names: tuple[str, ...]) -> None:
    """Remove the kept layers of images. The images stay; their next builds begin without kept layers."""
    with context.console.activity("freeing space"), opened_store(context, frees=True) as store:
        _tell(context, kept_storage.remove(store, names))


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
    limit = size_of(keep_storage, option="--keep-storage") if keep_storage else None
    older = _seconds(older_than) if older_than else None
    if limit is None and older is None:
        limit = bound(context.environ)
    with context.console.activity("freeing space"), opened_store(context, frees=True) as store:
        unbound = limit == 0 and not keep_storage
        if unbound and not every:
            context.console.notes([f"nothing goes: {KEEP_STORAGE} is none"])
            return
        _tell(context, kept_storage.prune(store, limit=limit, older=older, every=every))


def _tell(context: Context, pruned: Pruned) -> None:
    for app in pruned.apps:
        context.console.result(f"Removed: {_shown(app)}")
    context.console.notes([f"freed {size(pruned.freed.bytes)}"])


def _shown(app: str) -> str:
    return Reference.parse(app).familiar if app else "(damaged)"


def _seconds(text: str) -> float:
    found = re.fullmatch("([0-9]{1,9})([mhdw])", text.strip().lower())
    if found is None:
        raise UsageError(
            f"--older-than: {text[:100]!r} is not an age",
            why="write a number with m, h, d or w: 90m, 12h, 30d, 4w",
        )
    return int(found[1]) * _UNITS[found[2]]


def _moment(used: float) -> str:
    return datetime.fromtimestamp(int(used), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _age(used: float) -> str:
    return age(_moment(used))
