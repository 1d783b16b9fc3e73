"""`packhorse verify`: does the source give the image?"""

from __future__ import annotations

from pathlib import Path

import click

from packhorse.base.dataclass import replace
from packhorse.base.step import Network
from packhorse.cli.diff_text import DIFFERENT, tell
from packhorse.cli.document import pieces
from packhorse.cli.given import Given, giving
from packhorse.cli.main import Context
from packhorse.cli.options import docker_host, image_name, opened_store, reaching
from packhorse.image.reference import Reference
from packhorse.platform import locate
from packhorse.platform.diff.report import fields
from packhorse.platform.network import Reach
from packhorse.platform.recorded import Recorded
from packhorse.platform.verify import request_for
from packhorse.platform.verify import verify as run_verify
from packhorse.platform.wiring import Wiring

_ANY = Reference.parse(f"{locate.LOCAL_REGISTRY}/image")


@click.command()
@click.argument("name", metavar="IMAGE")
@giving(
    builder="A builder, instead of the recorded one.",
    buildpack="As for the build.",
    env="As for the build.",
    env_file="As for the build.",
    volume="As for the build.",
)
@click.option("--run-image", default="", metavar="IMAGE", help="A run image, instead of the recorded one.")
@click.option("--network", type=click.Choice(["none", "host"]), help="The network buildpacks have.")
@click.option("--sandbox", default="", metavar="RUNTIME", help="bubblewrap, or an OCI runtime.")
@click.option(
    "-o", "--output", type=click.Choice(["human", "json"]), default="human", help="The form.  [human]"
)
@click.option("--html", type=click.Path(path_type=Path), help="Draw what differs as one page in this file.")
@click.option("--all", "every", is_flag=True, help="List every file.")
@docker_host
@reaching
@click.option("-q", "--quiet", is_flag=True, help="Print the result alone.")
@click.option("-v", "--verbose", is_flag=True, help="Print everything.")
@click.pass_obj
def verify(
    context: Context,
    name: str,
    given: Given,
    run_image: str,
    network: str | None,
    sandbox: str,
    output: str,
    html: Path | None,
    every: bool,
    docker_host: str,
    reach: Reach,
    quiet: bool,
    verbose: bool,
) -> int:
    """Build IMAGE once more from its source, with nothing kept, and say what is not the same.

    Builder, run image and options are those that the image's manifest names. Ends with 0 when the source
    gives the image, 1 when it gives another, otherwise as docs/exit-codes.md says.
    """
    console = context.console
    console.adjust(quiet=quiet, verbose=verbose, no_color=False)
    asked = replace(
        given.request(_ANY, context),
        run_image=image_name(run_image, "--run-image"),
        network=Network(network) if network else None,
        sandbox=sandbox,
        docker_host=docker_host,
        reach=reach,
    )
    with console.activity(f"building {name} again"), opened_store(context) as store:
        image, _ = locate.read(
            Wiring(store, reach=reach, environ=context.environ, docker_host=docker_host), name
        )
        known = Recorded.parse(image)
        request = request_for(image, name, asked)
        unknown = sorted(set(asked.env) - set(known.env)) if known else []
        if unknown:
            console.say(f"the first build did not have {', '.join(unknown)}")
        verdict = run_verify(image, replace(request, name=_ANY), store, console, console.progress, title=name)
    if output == "json":
        told = {"reproducible": verdict.reproduced, "summary": verdict.headline}
        console.stream(pieces({**told, "difference": fields(verdict.difference)}))
    else:
        console.result(verdict.headline)
        if not verdict.reproduced:
            console.result("")
            tell(console, verdict.difference, every=every, headline=False)
    if html is not None:
        from packhorse.base import files
        from packhorse.cli.diff_page import page

        files.write(html, page(verdict.difference).encode())
        console.say(f"the page is in {html}")
    return 0 if verdict.reproduced else DIFFERENT
