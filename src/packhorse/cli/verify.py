"""`packhorse verify`: builds an image again from its source and compares the two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from packhorse.build.request import BuildRequest
from packhorse.build.verify import request_for
from packhorse.build.verify import verify as run_verify
from packhorse.cli.build_options import path_option, run_image_option, sandbox_options, source_options
from packhorse.cli.diff import DIFFERENT, html_option, print_difference, write_page
from packhorse.cli.document import json_pieces
from packhorse.cli.main import Context
from packhorse.cli.options import add_registry_options, docker_host, open_host, output_format, verbosity
from packhorse.host.locate import LOCAL_REGISTRY, read
from packhorse.host.registries import RegistryOptions
from packhorse.oci.reference import Reference
from packhorse.report.diff_document import fields
from packhorse.report.provenance import BuildProvenance

_ANY = Reference.parse(f"{LOCAL_REGISTRY}/image")


@click.command()
@click.argument("name", metavar="IMAGE")
@path_option
@source_options(
    builder="A builder, instead of the recorded one.",
    buildpack="As in the first build.",
    env="As in the first build.",
    env_file="As in the first build.",
    volume="As in the first build.",
)
@run_image_option("A run image, instead of the recorded one.")
@sandbox_options(limits=False)
@output_format
@html_option
@click.option("--all", "every", is_flag=True, help="List every file.")
@docker_host
@add_registry_options
@verbosity("Print only the result.")
@click.pass_obj
def verify(
    context: Context,
    /,
    name: str,
    output: str,
    html: Path | None,
    every: bool,
    docker_host: str,
    registry_options: RegistryOptions,
    **asked_fields: Any,
) -> int:
    """Build IMAGE once more from its source, without kept layers, and say what differs.

    Uses the builder, run image and options that the image's manifest records. Ends with 0 if the source gives
    the image, with 1 if it gives another, otherwise as docs/reference/exit-codes.md says.
    """
    console = context.console
    asked = BuildRequest(name=_ANY, **asked_fields)
    with (
        console.activity(f"building {name} again"),
        open_host(context, docker_host=docker_host, registry_options=registry_options) as host,
    ):
        image, _ = read(host.images, name)
        known = BuildProvenance.parse(image)
        request = request_for(image, name, asked)
        unknown = sorted(set(asked.env) - set(known.env)) if known else []
        if unknown:
            console.say(f"the first build did not have {', '.join(unknown)}")
        verdict = run_verify(image, request, host, console, title=name)
    if output == "json":
        summary = {"reproducible": verdict.is_reproduced, "summary": verdict.headline}
        console.stream(json_pieces({**summary, "difference": fields(verdict.difference)}))
    else:
        console.result(verdict.headline)
        if not verdict.is_reproduced:
            console.result("")
            print_difference(console, verdict.difference, every=every, headline=False)
    if html is not None:
        write_page(console, html, verdict.difference)
    return 0 if verdict.is_reproduced else DIFFERENT
