"""`packhorse build`."""

from __future__ import annotations

import re
import time
from pathlib import Path

import click

from packhorse.base import rfc3339
from packhorse.base.dataclass import replace
from packhorse.base.step import Network
from packhorse.cli.given import Given, giving
from packhorse.cli.main import Context
from packhorse.cli.options import (
    asked_limits,
    compression,
    docker_host,
    image_name,
    keep_storage,
    opened_store,
    pull_policy,
    reaching,
    seconds_of,
)
from packhorse.cli.output import Console, Level, columns, size
from packhorse.errors import UsageError
from packhorse.image.reference import Kind, Location, Reference
from packhorse.lifecycle.inputs import EPOCH
from packhorse.platform.build import BuildOutcome
from packhorse.platform.build import build as run_build
from packhorse.platform.build_request import BuildRequest
from packhorse.platform.network import Reach
from packhorse.platform.pull import PullPolicy

_EXEC_ENV = re.compile(r"[A-Za-z0-9.-]+")


@click.command()
@click.argument("name")
@giving()
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    metavar="PLACE",
    help="Also write the image to oci:DIR[:REF], oci-archive:FILE, docker-archive:FILE or "
    "docker-daemon:NAME. Repeatable.",
)
@compression
@click.option(
    "--sparse", is_flag=True, help="To oci:DIR: leave out the layers of the run image, which others have."
)
@click.option("--publish", is_flag=True, help="Also bring the image to the registry of its name.")
@click.option(
    "-t", "--tag", "tags", multiple=True, metavar="NAME", help="A further name of the image. Repeatable."
)
@click.option("--daemon", is_flag=True, help="Also hand the image to a container engine: dockerd, podman.")
@docker_host
@pull_policy(PullPolicy.ALWAYS)
@click.option(
    "-D", "--default-process", default="", metavar="TYPE", help="The process type the image starts."
)
@click.option("--run-image", default="", metavar="IMAGE", help="A run image, instead of the builder's.")
@click.option(
    "--exec-env",
    default="production",
    metavar="NAME",
    help="The execution environment the image is for.  [production]",
)
@click.option(
    "--creation-time", default="", metavar="SECONDS", help="The image's time, since 1970, or now.  [in 1980]"
)
@click.option("--clear-cache", is_flag=True, help="Keep no layer of earlier builds.")
@click.option(
    "--cache-image", default="", metavar="NAME", help="Keep layers in a registry too, as this image."
)
@click.option("--no-overlay", is_flag=True, help="Give buildpacks copies of kept layers and source.")
@click.option(
    "--report-output-dir",
    "report",
    type=click.Path(path_type=Path),
    help="Where to write the specification's report.toml.",
)
@click.option(
    "--network", type=click.Choice(["none", "host"]), help="The network buildpacks have.  [own if possible]"
)
@click.option(
    "--sandbox",
    default="",
    metavar="RUNTIME",
    help="bubblewrap, or an OCI runtime: runc, crun.  [bubblewrap]",
)
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="NAME=NUMBER",
    help="How much buildpacks may use: memory=4g, processes=8192, … or NAME=none. Repeatable.",
)
@click.option("--timeout", default="", metavar="TIME", help="End the build after TIME: 90s, 10m, 1h.")
@click.option(
    "-q", "--quiet", is_flag=True, help="Print the image ID alone; with --publish the manifest digest."
)
@click.option("-v", "--verbose", is_flag=True, help="Print everything.")
@click.option("--no-color", is_flag=True, help="Print without colours.")
@reaching
@click.pass_obj
def build(
    context: Context,
    name: str,
    given: Given,
    outputs: tuple[str, ...],
    compression: str,
    sparse: bool,
    publish: bool,
    tags: tuple[str, ...],
    daemon: bool,
    docker_host: str,
    pull: str,
    default_process: str,
    run_image: str,
    exec_env: str,
    creation_time: str,
    clear_cache: bool,
    cache_image: str,
    no_overlay: bool,
    report: Path | None,
    network: str | None,
    sandbox: str,
    limits: tuple[str, ...],
    timeout: str,
    quiet: bool,
    verbose: bool,
    no_color: bool,
    reach: Reach,
) -> None:
    """Turn source code into an image called NAME."""
    console = context.console
    console.adjust(quiet=quiet, verbose=verbose, no_color=no_color)
    request = replace(
        given.request(_new_name(name), context),
        tags=tuple(dict.fromkeys(_new_name(one, "--tag") for text in tags for one in text.split(","))),
        publish=publish,
        compression=compression,
        sparse=sparse,
        outputs=_outputs(outputs, name, daemon=daemon, sparse=sparse),
        pull=PullPolicy(pull),
        docker_host=docker_host,
        default_process=default_process,
        run_image=image_name(run_image, "--run-image"),
        exec_env=_exec_env(exec_env),
        created=_moment(creation_time),
        clear_cache=clear_cache,
        cache_image=_new_name(cache_image, "--cache-image") if cache_image else None,
        overlay=not no_overlay,
        keep_storage=keep_storage(context.environ),
        report=report,
        network=Network(network) if network else None,
        sandbox=sandbox,
        limits=asked_limits(limits),
        reach=reach,
    )
    if timeout:
        context.ending.after(seconds_of(timeout, option="--timeout"), f"the build took longer than {timeout}")
    started = time.monotonic()
    with console.activity(f"building {name}"), opened_store(context) as store:
        outcome = run_build(request, store, console, console.progress)
    _tell(console, request, outcome, time.monotonic() - started)


def _new_name(text: str, option: str = "") -> Reference:
    """The name of an image that is to be made; UsageError for a place, which would be taken for a name."""
    location = Location.parse(text)
    if location.kind is Kind.STORE:
        return Reference.parse_new(location.name)
    option = f"{option}: " if option else ""
    raise UsageError(
        f"{option}{text[:300]!r} is a place, not the name of an image",
        why="a build makes an image of a name in the store; other places take copies of it",
        fix=_meant(location, option),
    )


def _meant(location: Location, option: str) -> str:
    """How to spell what was meant by a place in the place of a name."""
    if location.kind is Kind.REGISTRY:
        return f"write {location.name}" + ("" if option.startswith("--cache") else " and --publish")
    if option.startswith("--cache"):
        return "name an image of a registry"
    if location.kind is Kind.DAEMON:
        return f"write {location.name} and --daemon" if not option else f"write --output {location}"
    return f"write a name, and --output {location}"


def _exec_env(text: str) -> str:
    """An execution environment's name; directories of layers are named after it (B-009)."""
    if not _EXEC_ENV.fullmatch(text):
        raise UsageError(
            f"--exec-env: {text!r} is no execution environment",
            why="its name has letters, digits, '.' and '-'",
            fix="write production, test or a name of your own",
        )
    return text


def _moment(text: str) -> int:
    """Seconds since 1970; the reference's constant when nothing is asked for (P-106)."""
    if text == "now":
        return int(time.time())
    if not text:
        return EPOCH
    if not text.isascii() or not text.isdecimal() or len(text) > 12 or int(text) >= rfc3339.END:
        raise UsageError(f"--creation-time: {text!r} is no time", fix="write seconds since 1970, or now")
    return int(text)


def _output(text: str, name: str) -> Location:
    """Where to write; in a docker archive the image has the name it was built as, unless another is given."""
    location = Location.parse(text)
    if location.kind is Kind.STORE:
        raise UsageError(
            f"--output cannot write to {text!r}",
            why="every build is in the store; --output writes it to another place as well",
            fix="write oci:DIR[:REF], oci-archive:FILE[:REF], docker-archive:FILE[:NAME], docker-daemon:NAME "
            "or docker://NAME",
        )
    if location.kind is Kind.DOCKER_ARCHIVE and not location.name:
        return replace(location, name=name)
    if location.kind in (Kind.REGISTRY, Kind.DAEMON, Kind.DOCKER_ARCHIVE):
        Reference.parse_new(location.name)
    return location


def _outputs(texts: tuple[str, ...], name: str, *, daemon: bool, sparse: bool) -> tuple[Location, ...]:
    found = [_output(text, name) for text in texts]
    if daemon:
        found.append(Location(Kind.DAEMON, "", name))
    if sparse and all(location.kind is not Kind.OCI for location in found):
        raise UsageError("--sparse is for --output oci:DIR", fix="name a layout, or leave --sparse out")
    return tuple(found)


def _tell(console: Console, request: BuildRequest, outcome: BuildOutcome, seconds: float) -> None:
    exported = outcome.exported
    if console.level is Level.QUIET:
        published = outcome.published and outcome.published.manifest_digest
        console.result(str(published or exported.image.id))
        return
    rows = [
        [
            row.name,
            row.owner,
            "reused" if row.size is None else size(row.size),
            "kept" if row.kept else "new",
            row.why,
        ]
        for row in exported.layers
    ]
    lines = columns(["layer", "from", "size", "", ""], rows, right=frozenset({2}))
    console.notes(["", *(f"  {line}" for line in lines), ""])
    counters = outcome.counters
    console.detail(
        f"buildpack layers: {counters.untouched} untouched, "
        + (f"{counters.same} written to and the same, " if counters.same else "")
        + f"{counters.changed} changed; {size(counters.hashed)} read and hashed, "
        + f"{counters.linked} entries linked"
        + (f", {counters.copied} copied" if counters.copied else "")
    )
    name = request.name.familiar.removesuffix(":latest")
    console.notes([f"built {name}  {exported.image.id}  in {seconds:.1f} s"])
    for location, receipt in outcome.copies:
        digest = f"  {receipt.manifest_digest}" if receipt.manifest_digest else ""
        console.notes([f"wrote {location}{digest}"])
    types = [process.type for process in exported.processes]
    if exported.default_process:
        console.notes(
            [f"run it: packhorse run {name}{' -p 8080:8080' if exported.default_process == 'web' else ''}"]
        )
    elif types:
        console.notes(
            [f"run it: packhorse run --entrypoint {types[0]} {name}  (processes: {', '.join(types)})"]
        )
    else:
        console.notes([f"it has no process; run a command in it: packhorse run {name} sh"])
