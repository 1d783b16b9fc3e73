"""`packhorse inspect`: shows what is in an image, wherever it is."""

from __future__ import annotations

import click

from packhorse.base.dataclass import replace
from packhorse.cli.document import FORMATS, serialize
from packhorse.cli.main import Context
from packhorse.cli.options import add_registry_options, docker_host, local_or_remote, open_image
from packhorse.cli.output import Console, format_size, format_table
from packhorse.host.registries import RegistryOptions
from packhorse.oci.reference import Location, LocationKind
from packhorse.report.inspect import ImageReport, attachments, base_of
from packhorse.report.inspect import inspect as report_on
from packhorse.report.owners import OwnedLayer

_HUMAN = ("human", "human-readable")
_MARKED = 19  # characters of a digest that tell layers apart


@click.command()
@click.argument("name")
@click.option(
    "-o",
    "--output",
    type=click.Choice([*_HUMAN, *FORMATS]),
    default="human",
    help="The output format.  [human]",
)
@local_or_remote
@click.option("--age", is_flag=True, help="Also ask the run image's registry how old the base is.")
@click.option(
    "--referrers", is_flag=True, help="Also list what is attached to the image: signatures, attestations."
)
@click.option("--bom", is_flag=True, help="Print only the bill of materials of old buildpacks.")
@docker_host
@add_registry_options
@click.pass_obj
def inspect(
    context: Context,
    name: str,
    output: str,
    local: bool,
    remote: bool,
    age: bool,
    referrers: bool,
    bom: bool,
    docker_host: str,
    registry_options: RegistryOptions,
) -> None:
    """Show what is in the image NAME: in the store, a container engine, its registry, or elsewhere.

    Reads no layer. Write locations as for `packhorse copy`.
    """
    with open_image(
        context, name, local=local, remote=remote, docker_host=docker_host, registry_options=registry_options
    ) as (image, is_remote, wiring):
        report = report_on(image, name=name, remote=is_remote)
        if not bom:
            report = report.with_base(base_of(report, wiring, ask=age))
        if referrers and not bom:
            location = Location.parse(name)
            if is_remote and location.kind is LocationKind.STORE:
                location = replace(location, kind=LocationKind.REGISTRY)
            report = replace(report, attachments=attachments(location, image, wiring))
    console = context.console
    if bom:
        console.document(serialize(report.bom(), "json" if output in _HUMAN else output))
    elif output in _HUMAN:
        _print_report(console, report)
    else:
        console.document(serialize(report.fields(form=output), output))


def _print_report(console: Console, report: ImageReport) -> None:
    for line in report.lines():
        console.result(line)
    console.result("")
    rows = [_row(owned) for owned in report.layers]
    for line in format_table(["layer", "from", "size", "digest"], rows, right=frozenset({2})):
        console.result(line)


def _row(owned: OwnedLayer) -> list[str]:
    layer = owned.layer
    version = f"@{owned.version}" if owned.version else ""
    known = "" if layer.size is None else format_size(layer.size)
    if layer.size is None and layer.descriptor:
        known = f"{format_size(layer.descriptor.size)} compressed"
    source = f"{owned.owner}{version}" if owned.owner else str(owned.part)
    return [owned.name or str(owned.part), source, known, str(layer.diff_id)[:_MARKED]]
