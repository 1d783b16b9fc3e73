"""The commands about images and the store: `packhorse images`, `rmi`, `gc`, `copy` and `cache`."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import click

from packhorse.base.target import Target
from packhorse.cli.document import FORMATS, serialize
from packhorse.cli.main import CommandGroup, Context
from packhorse.cli.options import (
    KEEP_STORAGE,
    add_registry_options,
    compression,
    docker_host,
    open_store,
    open_wiring,
    parse_size,
)
from packhorse.cli.options import keep_storage as storage_limit
from packhorse.cli.output import format_size
from packhorse.errors import NetworkError, PackhorseError, UsageError
from packhorse.fleet.copy import CopyOptions
from packhorse.fleet.copy import copy as copy_one
from packhorse.host import limits
from packhorse.host.limits import PruneResult
from packhorse.host.registries import RegistryOptions
from packhorse.host.wiring import Wiring
from packhorse.oci.reference import Location, LocationKind, Reference


@click.command()
@click.option("-q", "--quiet", is_flag=True, help="Print only image IDs.")
@click.option("--no-trunc", is_flag=True, help="Print full image IDs.")
@click.pass_obj
def images(context: Context, quiet: bool, no_trunc: bool) -> None:
    """List the images in the store."""
    with open_store(context) as store:
        records = store.images()
        rows = [
            [
                record.name.familiar_name,
                record.name.tag or "latest",
                str(record.id) if no_trunc else record.id.short,
                format_age(record.created),
                format_size(store.size(record)),
            ]
            for record in records
        ]
    if quiet:
        for row in rows:
            context.console.result(row[2])
        return
    context.console.table(["REPOSITORY", "TAG", "IMAGE ID", "BUILT", "SIZE"], rows, right=frozenset({4}))


@click.command()
@click.argument("names", nargs=-1, required=True)
@click.option("-f", "--force", is_flag=True, help="Remove all names of an image given by its ID.")
@add_registry_options
@click.pass_obj
def rmi(context: Context, names: tuple[str, ...], force: bool, registry_options: RegistryOptions) -> None:
    """Remove images from the store by name or ID; `packhorse gc` then frees the space.

    docker://NAME:TAG removes a tag from its registry, docker://NAME@DIGEST an image with all its tags.
    """
    with context.console.activity("removing"), open_store(context, frees=True) as store:
        for name in names:
            if name.startswith(f"{LocationKind.REGISTRY}://"):
                removed_name = Wiring(store, registry_options=registry_options).remove(
                    Location.parse(name).reference
                )
                context.console.result(f"Removed: {removed_name}")
                continue
            removed = store.remove(name, force=force)
            for reference in removed.untagged:
                context.console.result(f"Untagged: {reference.familiar}")
            if removed.deleted:
                context.console.result(f"Deleted: {removed.deleted}")


@click.command()
@click.pass_obj
def gc(context: Context) -> None:
    """Remove data that no image, cache or running command needs."""
    with context.console.activity("freeing space"), open_store(context, frees=True) as store:
        freed = store.gc()
    context.console.result(f"freed {format_size(freed.bytes)}")


@click.command()
@click.argument("source")
@click.argument("destination")
@click.option(
    "--target",
    default="",
    metavar="OS/ARCH",
    help="The target, if there are images for several.  [this machine's]",
)
@click.option("--all", "every", is_flag=True, help="Copy the images for all targets, unchanged.")
@click.option("--referrers", is_flag=True, help="Also copy signatures, attestations and other referrers.")
@click.option("--all-tags", is_flag=True, help="Copy every tag of the repository SOURCE.")
@click.option("--sparse", is_flag=True, help="For oci:DIR: leave out the layers of the image's run image.")
@compression
@docker_host
@add_registry_options
@click.pass_obj
def copy(
    context: Context,
    source: str,
    destination: str,
    target: str,
    every: bool,
    referrers: bool,
    all_tags: bool,
    sparse: bool,
    compression: str,
    docker_host: str,
    registry_options: RegistryOptions,
) -> None:
    """Copy an image from one location to another, of any kind. Sends only what is missing there.

    Locations are written as in skopeo: NAME or store:NAME, docker://NAME, docker-daemon:NAME, oci:DIR[:REF],
    oci-archive:FILE[:REF], docker-archive:FILE[:NAME].
    """
    if target and every:
        raise UsageError("--target and --all exclude each other", fix="leave one of them out")
    if (every or referrers) and compression != "gzip":
        option = "--all" if every else "--referrers"
        raise UsageError(f"{option} copies images as they are", fix="leave out --compression")
    start, end = Location.parse(source), Location.parse(destination)
    if sparse and (every or referrers or end.kind is not LocationKind.OCI):
        why = (
            f"{destination} takes whole images"
            if end.kind is not LocationKind.OCI
            else "--all copies images as they are"
        )
        raise UsageError("--sparse is for one image and oci:DIR", why=why, fix="leave out --sparse")
    with open_wiring(context, docker_host=docker_host, registry_options=registry_options) as wiring:
        wanted = CopyOptions(Target.parse(target) if target else None, every, compression, referrers, sparse)
        if all_tags:
            _copy_tags(context, wiring, start, end, wanted)
        else:
            context.console.result(str(copy_one(wiring, start, end, wanted, say=context.console.say)))


def _copy_tags(
    context: Context, wiring: Wiring, source: Location, destination: Location, wanted: CopyOptions
) -> None:
    from packhorse.fleet.copy import copy_tags

    failed: list[PackhorseError] = []
    count = 0
    # A registry may take minutes to list its tags, before the first is copied.
    with context.console.activity(f"copying the tags of {source}"):
        for tag, outcome in copy_tags(wiring, source, destination, wanted):
            count += 1
            if isinstance(outcome, PackhorseError):
                failed.append(outcome)
                context.console.result(f"{tag}  failed: {outcome.what}")
            else:
                context.console.result(f"{tag}  {outcome}")
    if failed:
        raise NetworkError(
            f"{len(failed)} of {count} tags were not copied",
            why=failed[0].why or failed[0].what,
            fix="the same command again sends only what is missing",
        ) from failed[0]


def format_age(created: str) -> str:
    """Formats how long ago a time was, as docker does."""
    seconds = int((datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds())
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}s ago"
    return "just now" if seconds < 60 else "a minute ago"


_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@click.group(cls=CommandGroup)
def cache() -> None:
    """Manage the layers that builds keep for the next builds."""


@cache.command()
@click.option("--output", type=click.Choice(FORMATS), help="Print for programs.")
@click.pass_obj
def ls(context: Context, output: str | None) -> None:
    """List what builds keep, and how much disk space it uses."""
    with context.console.activity("measuring kept layers"), open_store(context) as store:
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
    console.notes([f"{format_size(survey.total)} in all; ALONE is what removing that one frees"])


@cache.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@click.pass_obj
def rm(context: Context, names: tuple[str, ...]) -> None:
    """Remove the kept layers of images. The images stay; their next builds begin without kept layers."""
    with context.console.activity("freeing space"), open_store(context, frees=True) as store:
        _print_pruned(context, limits.remove(store, names))


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
        limit = storage_limit(context.environ)
    with context.console.activity("freeing space"), open_store(context, frees=True) as store:
        is_unlimited = limit == 0 and not keep_storage
        if is_unlimited and not every:
            context.console.notes([f"removed nothing, because {KEEP_STORAGE} is none"])
            return
        _print_pruned(context, limits.prune(store, limit=limit, older=older, every=every))


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
