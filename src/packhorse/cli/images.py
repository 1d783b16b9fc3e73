"""`packhorse images`, `rmi`, `gc`, `copy`: what is in the store."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from packhorse.base.target import Target
from packhorse.cli.main import Context
from packhorse.cli.options import (
    add_registry_options,
    compression,
    docker_host,
    open_store,
)
from packhorse.cli.output import format_size
from packhorse.errors import NetworkError, PackhorseError, UsageError
from packhorse.image.reference import Location, LocationKind
from packhorse.platform.copies import CopyOptions
from packhorse.platform.copies import copy as copy_one
from packhorse.platform.network import RegistryOptions
from packhorse.platform.wiring import Wiring


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
    with open_store(context) as store:
        wiring = Wiring(
            store, registry_options=registry_options, environ=context.environ, docker_host=docker_host
        )
        wanted = CopyOptions(Target.parse(target) if target else None, every, compression, referrers, sparse)
        if all_tags:
            _copy_tags(context, wiring, start, end, wanted)
        else:
            context.console.result(str(copy_one(wiring, start, end, wanted, say=context.console.say)))


def _copy_tags(
    context: Context, wiring: Wiring, source: Location, destination: Location, wanted: CopyOptions
) -> None:
    from packhorse.platform.tags import copy_tags

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
    """How long ago, as docker puts it."""
    seconds = int((datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds())
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}s ago"
    return "just now" if seconds < 60 else "a minute ago"
