"""`packhorse build`: turns the options into a request, builds it, and prints the result or, with
`--dry-run`, the plan.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from packhorse.base.dataclass import replace
from packhorse.base.go_toml import END
from packhorse.build.execute import execute
from packhorse.build.host import Host
from packhorse.build.images import Fetch
from packhorse.build.plan import BuildPlan, resolve
from packhorse.build.request import BuildOutcome, BuildRequest
from packhorse.cli.build_options import (
    BuildCaches,
    cache_option,
    exec_env_option,
    field_option,
    label_option,
    parse_new_name,
    path_option,
    previous_image_option,
    run_image_option,
    sandbox_options,
    source_options,
    system_buildpacks_option,
    target_option,
    user_options,
    workspace_option,
)
from packhorse.cli.main import Context
from packhorse.cli.options import (
    add_registry_options,
    compression,
    docker_host,
    keep_storage,
    open_host,
    parse_seconds,
    pull_policy,
    verbosity,
)
from packhorse.cli.output import Console, Level, format_size, format_table
from packhorse.errors import UsageError
from packhorse.host.limits import SIZES
from packhorse.host.locate import PullPolicy
from packhorse.host.registries import RegistryOptions
from packhorse.lifecycle.inputs import EPOCH
from packhorse.oci.reference import Location, LocationKind, Reference

_LISTED = 10
"""How many paths that are left out are listed for people; JSON has all."""


def print_plan(console: Console, plan: BuildPlan, host: Host, form: str) -> None:
    """Prints the plan on stdout; `form` is `human` or `json`."""
    from packhorse.build.description import describe  # a build that runs does not need these
    from packhorse.cli.document import serialize

    fields = describe(plan, host)
    if form == "json":
        console.document(serialize(fields, "json"))
        return
    rows = [(title, line) for title, lines in _sections(fields) for line in lines if line]
    before = ""
    for title, line in rows:
        console.result(f"{'' if title == before else title:14}{line}")
        before = title


def _sections(plan: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[str]]]:
    """Each part of the plan: its title, and its lines."""
    yield "image", [plan["name"], *plan["tags"]]
    published = "published to the registries of its names" if plan["publish"] else ""
    yield "written to", ["the store", published, *plan["outputs"]]
    yield "report", [f"{plan['report']}/report.toml" if plan["report"] else ""]
    yield "SBOM files", [plan["sboms"] or ""]
    yield "source", [plan["source"]["path"]]
    yield "left out", _shorten(plan["source"]["left_out"])
    yield "builder", _image(plan["builder"])
    yield "run image", _image(plan["run_image"])
    yield "target", [plan["target"] or ""]
    yield "order", [_group(number, group) for number, group in enumerate(plan["order"] or (), 1)]
    yield (
        "buildpacks",
        [
            f"{one['id']} from {_origin(one)}"
            for one in plan["buildpacks"]
            if one["directory"] or one["package"] or one["inline"]
        ],
    )
    yield "previous", list(_previous(plan["previous"]))
    yield "cache", list(_caches(plan))
    yield "layers", list(_layers(plan["layers"]))
    yield "mounts", [_mount(mount) for mount in plan["mounts"]]
    yield "variables", [" ".join(plan["env"])]
    ports = ", ".join(map(str, plan["loopback_ports"]))
    yield "network", [plan["network"], f"port {ports} of this machine is reached" if ports else ""]
    yield "sandbox", [plan["sandbox"]]
    yield "limits", [", ".join(f"{name} {_limit(name, value)}" for name, value in plan["limits"].items())]
    yield "labels", [f"{name}={value}" for name, value in plan["labels"].items()]
    yield "process", [plan["default_process"] or ""]
    yield "not known yet", plan["unknown"]


def _origin(buildpack: Mapping[str, Any]) -> str:
    """Where a named buildpack that is not the builder's comes from."""
    if buildpack["package"]:
        return buildpack["locator"] or f"the image {buildpack['package']}"
    return buildpack["directory"] or "a script in project.toml"


def _shorten(paths: Sequence[str]) -> list[str]:
    more = len(paths) - _LISTED
    return [*paths[:_LISTED], f"and {more} more (--format json lists all)" if more > 0 else ""]


def _image(image: Mapping[str, Any] | None) -> list[str]:
    if image is None:
        return []
    user = (
        f"user {image['uid']}:{image['gid']}, Platform API {image['platform_api']}" if "uid" in image else ""
    )
    fetch = "the store does not have it: the build fetches it" if image["fetch"] else ""
    return [f"{image['name']}  {image['id']}", user, fetch]


def _group(number: int, group: Sequence[Mapping[str, Any]]) -> str:
    names = (
        "@".join(filter(None, (one["id"], one["version"]))) + (" (optional)" if one["optional"] else "")
        for one in group
    )
    return f"{number}: {', '.join(names)}"


def _caches(plan: Mapping[str, Any]) -> Iterator[str]:
    for what in ("image", "directory", "name"):
        if plan[f"cache_{what}"]:
            yield f"{what} {plan[f'cache_{what}']}"


def _previous(previous: Mapping[str, Any]) -> Iterator[str]:
    yield f"{previous['image']}  {previous['id']}" if previous["id"] else "none"
    if previous["layers_of"] is None:
        yield "no layer of earlier builds is kept"
    elif previous["id"]:
        yield f"its layers: those kept for {previous['layers_of']}"


def _layers(layers: Mapping[str, Any]) -> Iterator[str]:
    yield "below overlays" if layers["kind"] == "overlay" else "plain copies"
    if layers["copied_for"]:
        yield f"plain copies when one of these builds: {', '.join(layers['copied_for'])}"


def _mount(mount: Mapping[str, Any]) -> str:
    source = {"overlay": " below an overlay", "copy": ", copied"}.get(mount["kind"], "")
    what = f"{mount['source']}{source}" if mount["source"] else f"a new directory{source}"
    if mount["target"] == "/layers":
        what = f"the kept layers{source}"
    return f"{mount['target']}  {what}{'' if mount['writable'] else '  (read-only)'}"


def _limit(name: str, value: int | None) -> str:
    if value is None:
        return "none"
    return format_size(value) if name in SIZES else str(value)


@click.command()
@click.argument("name")
@path_option
@source_options()
@system_buildpacks_option
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
@click.option("--sparse", is_flag=True, help="For oci:DIR: leave out the layers of the run image.")
@click.option("--publish", is_flag=True, help="Also push the image to the registry in its name.")
@field_option(
    "-t",
    "--tag",
    "tags",
    multiple=True,
    metavar="NAME",
    read=lambda texts: tuple(
        dict.fromkeys(parse_new_name(one, "--tag") for text in texts for one in text.split(","))
    ),
    help="An additional name of the image. Repeatable.",
)
@click.option("--daemon", is_flag=True, help="Also copy the image to a container engine: dockerd, podman.")
@docker_host
@pull_policy(PullPolicy.ALWAYS)
@click.option(
    "-D", "--default-process", default="", metavar="TYPE", help="The process type that the image starts."
)
@run_image_option("A run image, instead of the builder's.")
@field_option(
    "--launcher",
    type=click.Choice(["builder", "own"]),
    default="builder",
    read=lambda name: name if name == "own" else "",
    help="Whose launcher the image gets: the builder's, or packhorse's own.  [builder]",
)
@target_option
@workspace_option
@user_options
@previous_image_option
@exec_env_option
@field_option(
    "--creation-time",
    "created",
    default="",
    metavar="SECONDS",
    read=lambda text: _parse_created(text),
    help="The image's time: seconds since 1970, or now.  [in 1980]",
)
@label_option
@click.option("--clear-cache", is_flag=True, help="Use no layers of earlier builds.")
@field_option(
    "--cache-image",
    default="",
    metavar="NAME",
    read=lambda text: parse_new_name(text, "--cache-image") if text else None,
    help="Also keep layers in a registry, as this image.",
)
@cache_option
@field_option(
    "--no-overlay",
    "overlay",
    is_flag=True,
    read=lambda is_given: not is_given,
    help="Give buildpacks copies of kept layers and of the source.",
)
@click.option(
    "--report-output-dir",
    "report",
    type=click.Path(path_type=Path),
    help="Where to write the specification's report.toml.",
)
@click.option(
    "--sbom-output-dir",
    "sboms",
    type=click.Path(path_type=Path),
    help="Where to write the SBOM files of the buildpacks.",
)
@sandbox_options(limits=True)
@click.option("--timeout", default="", metavar="TIME", help="End the build after TIME: 90s, 10m, 1h.")
@click.option("--dry-run", is_flag=True, help="Print what the build would do; run and write nothing.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["human", "json"]),
    help="With --dry-run: the form of the plan.  [human]",
)
@verbosity("Print only the image ID; with --publish the manifest digest.")
@add_registry_options
@click.pass_obj
def build(
    context: Context,
    /,
    name: str,
    outputs: tuple[str, ...],
    daemon: bool,
    sparse: bool,
    caches: BuildCaches,
    pull: str,
    timeout: str,
    dry_run: bool,
    form: str | None,
    docker_host: str,
    registry_options: RegistryOptions,
    **fields: Any,
) -> None:
    """Turn source code into an image called NAME."""
    if form and not dry_run:
        raise UsageError("--format is for --dry-run", fix="add --dry-run, or leave --format out")
    if (caches.image or caches.directory) and fields["cache_image"]:
        raise UsageError("--cache and --cache-image name two places", fix="leave out one of them")
    if caches.has_launch:
        context.console.say(
            "--cache type=launch has no effect: the store has every layer of an image already"
        )
    request = BuildRequest(
        name=parse_new_name(name),
        outputs=_parse_outputs(outputs, name, daemon=daemon, sparse=sparse),
        sparse=sparse,
        pull=PullPolicy(pull),
        keep_storage=keep_storage(context.environ),
        cache_name=caches.name,
        cache_directory=caches.directory,
        **fields | {"cache_image": caches.image or fields["cache_image"]},
    )
    if timeout:
        allowed = parse_seconds(timeout, option="--timeout")
        context.signals.limit_time(allowed, f"the build took longer than {timeout}")
    console, started = context.console, time.monotonic()
    with (
        console.activity(f"building {name}"),
        open_host(context, docker_host=docker_host, registry_options=registry_options) as host,
    ):
        plan = resolve(request, host, console, fetch=Fetch.NOTHING if dry_run else Fetch.ALL)
        if dry_run:
            print_plan(console, plan, host, form or "human")
            return
        outcome = execute(plan, host, console)
    _print_outcome(console, request, outcome, time.monotonic() - started)


def _parse_created(text: str) -> int:
    """Seconds since 1970; the reference's constant when nothing is asked for (P-106)."""
    if text == "now":
        return int(time.time())
    if not text:
        return EPOCH
    if not text.isascii() or not text.isdecimal() or len(text) > 12 or int(text) >= END:
        raise UsageError(f"--creation-time: {text!r} is not a time", fix="write seconds since 1970, or now")
    return int(text)


def _parse_output(text: str, name: str) -> Location:
    """Where to write; in a docker archive the image has the name it was built as, unless another is given."""
    location = Location.parse(text)
    if location.kind is LocationKind.STORE:
        raise UsageError(
            f"--output cannot write to {text!r}",
            why="every build is in the store; --output also writes it to another location",
            fix="write oci:DIR[:REF], oci-archive:FILE[:REF], docker-archive:FILE[:NAME], docker-daemon:NAME "
            "or docker://NAME",
        )
    if location.kind is LocationKind.DOCKER_ARCHIVE and not location.name:
        return replace(location, name=name)
    if location.kind in (LocationKind.REGISTRY, LocationKind.DAEMON, LocationKind.DOCKER_ARCHIVE):
        Reference.parse_new(location.name)
    return location


def _parse_outputs(texts: tuple[str, ...], name: str, *, daemon: bool, sparse: bool) -> tuple[Location, ...]:
    found = [_parse_output(text, name) for text in texts]
    if daemon:
        found.append(Location(LocationKind.DAEMON, "", name))
    if sparse and all(location.kind is not LocationKind.OCI for location in found):
        raise UsageError("--sparse is for --output oci:DIR", fix="name a layout, or leave out --sparse")
    return tuple(found)


def _print_outcome(console: Console, request: BuildRequest, outcome: BuildOutcome, seconds: float) -> None:
    exported = outcome.exported
    if console.level is Level.QUIET:
        published = outcome.published and outcome.published.manifest_digest
        console.result(str(published or exported.image.id))
        return
    rows = [
        [
            row.name,
            row.owner,
            "reused" if row.size is None else format_size(row.size),
            "kept" if row.is_in_previous else "new",
            row.why,
        ]
        for row in exported.layers
    ]
    lines = format_table(["layer", "from", "size", "", ""], rows, right=frozenset({2}))
    console.notes(["", *(f"  {line}" for line in lines), ""])
    counters = outcome.counters
    console.detail(
        f"buildpack layers: {counters.untouched} untouched, "
        + (f"{counters.same} written to and the same, " if counters.same else "")
        + f"{counters.changed} changed; {format_size(counters.hashed)} read and hashed, "
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
