"""The command `packhorse diff`. Also prints differences for `verify`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from packhorse.cli.document import json_pieces
from packhorse.cli.main import Context
from packhorse.cli.options import add_registry_options, docker_host, open_wiring, output_format
from packhorse.cli.output import Console, format_size, format_table, sanitize_line
from packhorse.host.locate import read
from packhorse.host.registries import RegistryOptions
from packhorse.report.diff import (
    Change,
    Difference,
    FileChange,
    LayerGroup,
    Package,
    ValueChange,
    compared_image,
    counts,
    format_value,
    partition,
)
from packhorse.report.diff import diff as compared
from packhorse.report.diff_document import Sizes, details, fields

DIFFERENT = 1
"""The exit code for images that differ, as diff(1) has it."""

MARKS = {Change.ADDED: "+", Change.REMOVED: "-", Change.CHANGED: "~", Change.SAME: "="}
_MOST = 15
"""The most files of one layer that are listed."""

_LONGEST = 100
"""The most characters of a value that are printed."""


def print_difference(
    console: Console, found: Difference, *, every: bool = False, headline: bool = True
) -> None:
    """Prints a difference for people: a headline if wanted, then layer by layer, then the config."""
    if found.is_same:
        console.result(found.headline)
        return
    sizes = Sizes.of(found)
    for line in _sides(found, sizes):
        console.result(line)
    if headline:
        console.result("")
        console.result(found.headline)
    for group in found.changed_groups:
        console.result("")
        for line in _group(group, sizes, most=None if every else _MOST):
            console.result(line)
    told, noted, restated = partition(found.values)
    for title, values in (
        ("config", told),
        ("recorded by the build", noted),
        ("follows from the layers", restated if every else []),
    ):
        if values:
            console.result("")
            console.result(title)
        for line in _values(values, every=every):
            console.result(line)
    if restated and not every:
        console.result("")
        what = "value follows" if len(restated) == 1 else "values follow"
        console.result(f"{len(restated)} more {what} from the layers (--all)")


def _sides(found: Difference, sizes: Sizes) -> list[str]:
    kind = " compressed" if sizes.compressed else ""
    rows = [
        [mark, one.name, one.image.id.short, f"{measure(sizes.total(one.layers))}{kind}"]
        for mark, one in (("a", found.before), ("b", found.after))
    ]
    return format_table(["", "image", "id", "size"], rows, right=frozenset({3}))


def _group(group: LayerGroup, sizes: Sizes, *, most: int | None) -> Iterator[str]:
    yield f"{sanitize_line(group.title)}  {describe_change(group, sizes)}"
    if group.files is None:
        return
    yield from _packages(group.packages[:most])
    left = len(group.packages) - len(group.packages[:most])
    if left:
        yield f"  … and {left} more package{'' if left == 1 else 's'} (--all)"
    if not group.files:
        yield "  every file is the same: the tars differ in order, or in fields that are not compared"
        return
    yield from _files(group.files[:most])
    left = len(group.files) - len(group.files[:most])
    if left:
        rest = counts(group.files[most:])
        yield f"  … and {left} more: {tally(rest)} (--all)"


def describe_change(group: LayerGroup, sizes: Sizes) -> str:
    """Says whether a group of layers was added, removed or changed, with its sizes."""
    before, after = measure(sizes.total(group.before)), measure(sizes.total(group.after))
    if group.change is Change.CHANGED:
        files = f": {tally(counts(group.files))}" if group.files else ""
        return f"changed, {before} → {after}{files}"
    return f"{group.change}, {after if group.before == () else before}"


def measure(bytes_: int | None) -> str:
    """Formats a size; `?` if it is unknown, because an engine does not report the sizes of layers."""
    return "?" if bytes_ is None else format_size(bytes_)


def tally(found: dict[Change, int]) -> str:
    """Formats how many files changed: `3 changed, 1 added`."""
    order = (Change.CHANGED, Change.ADDED, Change.REMOVED)
    return ", ".join(f"{found[change]:,} {change}" for change in order if found.get(change))


def path_text(path: str) -> str:
    """Formats a path for printing; bytes that are not UTF-8 become escapes."""
    return sanitize_line("/" + os.fsencode(path).decode("utf-8", "backslashreplace"))


def _files(files: Sequence[FileChange]) -> Iterator[str]:
    for file in files:
        yield f"  {MARKS[file.change]} {path_text(file.path)}  {sanitize_line(', '.join(details(file)))}"


def _packages(packages: Sequence[Package]) -> Iterator[str]:
    for package in packages:
        name, versions = sanitize_line(package.name), sanitize_line(package_versions(package))
        yield f"  {package_mark(package)} package {name}  {versions}"


def package_mark(package: Package) -> str:
    """Returns the mark of a package: added, removed or changed."""
    change = Change.ADDED if package.before is None else Change.CHANGED if package.after else Change.REMOVED
    return MARKS[change]


def package_versions(package: Package) -> str:
    """Formats the version of a package before and after, or the only one."""
    return " → ".join(version for version in (package.before, package.after) if version is not None)


def _values(values: Sequence[ValueChange], *, every: bool) -> Iterator[str]:
    for value in values:
        mark = "+" if value.before is None else "-" if value.after is None else "~"
        texts = [_cut(format_value(one), every) for one in (value.before, value.after) if one is not None]
        yield f"  {mark} {sanitize_line(value.title)}  {' → '.join(texts)}"


def _cut(text: str, every: bool) -> str:
    text = sanitize_line(text)
    return text if every or len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


html_option = click.option(
    "--html", type=click.Path(path_type=Path), help="Draw the differences as one page in this file."
)


def write_page(console: Console, path: Path, difference: Difference) -> None:
    """Writes the page of `--html`."""
    from packhorse.base import files
    from packhorse.cli.diff_page import page

    files.write(path, page(difference).encode())
    console.say(f"the page is in {path}")


@click.command()
@click.argument("a")
@click.argument("b")
@output_format
@html_option
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

    Write locations as for `packhorse copy`. Ends with 0 if the images are the same, with 1 if they differ,
    otherwise as docs/reference/exit-codes.md says.
    """
    with (
        context.console.activity("comparing"),
        open_wiring(context, docker_host=docker_host, registry_options=registry_options) as wiring,
    ):
        one, other = (compared_image(name, read(wiring, name)[0]) for name in (a, b))
        found = compared(one, other, files=not shallow)
    console = context.console
    if output == "json":
        console.stream(json_pieces(fields(found)))
    else:
        print_difference(console, found, every=every)
    if html is not None:
        write_page(console, html, found)
    return 0 if found.is_same else DIFFERENT
