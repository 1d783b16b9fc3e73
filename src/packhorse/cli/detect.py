"""`packhorse detect`: says which buildpacks would build a source, and why the others would not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from packhorse.build.execute import detect as run_detection
from packhorse.build.images import Fetch
from packhorse.build.plan import resolve
from packhorse.build.request import BuildRequest
from packhorse.cli.build_options import (
    exec_env_option,
    run_image_option,
    sandbox_options,
    source_options,
    system_buildpacks_option,
    target_option,
)
from packhorse.cli.document import serialize
from packhorse.cli.main import Context
from packhorse.cli.options import (
    add_registry_options,
    docker_host,
    open_host,
    output_format,
    parse_seconds,
    pull_policy,
    verbosity,
)
from packhorse.cli.output import Console
from packhorse.errors import DetectFailed
from packhorse.host.locate import LOCAL_REGISTRY, PullPolicy
from packhorse.host.registries import RegistryOptions
from packhorse.lifecycle.stages import Detected, Detection
from packhorse.oci.reference import Reference
from packhorse.spec.buildpack_toml import Ref

_NAME = Reference.parse(f"{LOCAL_REGISTRY}/detect")
"""A request needs a name; no image gets this one."""


@click.command()
@click.argument("path", type=click.Path(path_type=Path), default=Path())
@source_options()
@system_buildpacks_option
@docker_host
@pull_policy(PullPolicy.ALWAYS)
@target_option
@run_image_option("A run image, instead of the builder's.")
@exec_env_option
@sandbox_options(limits=True)
@click.option("--timeout", default="", metavar="TIME", help="End detection after TIME: 90s, 10m, 1h.")
@output_format
@verbosity("Print only the result.")
@add_registry_options
@click.pass_obj
def detect(
    context: Context,
    /,
    path: Path,
    pull: str,
    timeout: str,
    output: str,
    docker_host: str,
    registry_options: RegistryOptions,
    **fields: Any,
) -> None:
    """Say which buildpacks would build the source in PATH, and why the others would not.

    Runs bin/detect of the buildpacks and nothing else; makes no image. Ends with 0 when a group of buildpacks
    takes the source, with 20 when none does, and with 21 when none does and a bin/detect failed.
    """
    if timeout:
        allowed = parse_seconds(timeout, option="--timeout")
        context.signals.limit_time(allowed, f"detection took longer than {timeout}")
    console = context.console
    request = BuildRequest(name=_NAME, path=path, pull=PullPolicy(pull), **fields)
    with (
        console.activity(f"detecting {path}"),
        open_host(context, docker_host=docker_host, registry_options=registry_options) as host,
    ):
        plan = resolve(request, host, console, fetch=Fetch.BUILDER)
        detection = run_detection(plan, host, console)
    if output == "json":
        console.document(serialize(_fields(detection), "json"))
    else:
        _print(console, detection)
    if isinstance(detection.outcome, DetectFailed):
        raise detection.outcome


def _print(console: Console, detection: Detection) -> None:
    for number, tried in enumerate(detection.tried, 1):
        names = ", ".join(f"{ref}{' (optional)' if ref.optional else ''}" for ref in tried.group)
        console.result(f"group {number}: {names}: {'does not build' if tried.reasons else 'builds'}")
        for reason in tried.reasons:
            console.result(f"  {reason}")
    if isinstance(detection.outcome, Detected):
        console.result(f"would build: {', '.join(str(each.ref) for each in detection.outcome.group)}")


def _fields(detection: Detection) -> dict[str, object]:
    """Returns the outcome for programs; `group` is null if no group builds."""
    outcome = detection.outcome
    return {
        "group": [_ref(each.ref) for each in outcome.group] if isinstance(outcome, Detected) else None,
        "tried": [
            {
                "group": [{**_ref(ref), "optional": ref.optional} for ref in tried.group],
                "builds": not tried.reasons,
                "why": list(tried.reasons),
            }
            for tried in detection.tried
        ],
        "buildpacks": [
            {**_ref(answer.ref), "result": answer.verdict, "status": answer.status, "why": answer.reason}
            for answer in detection.answers
        ],
    }


def _ref(ref: Ref) -> dict[str, str]:
    return {"id": ref.id, "version": ref.version}
