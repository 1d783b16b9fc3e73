"""What `packhorse build --dry-run` prints: the plan of a build, for people or as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from packhorse.build.description import describe
from packhorse.build.host import Host
from packhorse.build.plan import BuildPlan
from packhorse.cli.document import serialize
from packhorse.cli.output import Console, format_size
from packhorse.platform.limits import SIZES

_LISTED = 10
"""How many paths that are left out are listed for people; JSON has all."""


def print_plan(console: Console, plan: BuildPlan, host: Host, form: str) -> None:
    """Prints the plan on stdout; `form` is `human` or `json`."""
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
    yield "source", [plan["source"]["path"]]
    yield "left out", _shorten(plan["source"]["left_out"])
    yield "builder", _image(plan["builder"])
    yield "run image", _image(plan["run_image"])
    yield "target", [plan["target"] or ""]
    yield "order", [_group(number, group) for number, group in enumerate(plan["order"] or (), 1)]
    yield (
        "buildpacks",
        [f"{one['id']} from {one['directory']}" for one in plan["buildpacks"] if one["directory"]],
    )
    yield "previous", list(_previous(plan["previous"], plan["cache_image"]))
    yield "layers", list(_layers(plan["layers"]))
    yield "mounts", [_mount(mount) for mount in plan["mounts"]]
    yield "variables", [" ".join(plan["env"])]
    ports = ", ".join(map(str, plan["loopback_ports"]))
    yield "network", [plan["network"], f"port {ports} of this machine is reached" if ports else ""]
    yield "sandbox", [plan["sandbox"]]
    yield "limits", [", ".join(f"{name} {_limit(name, value)}" for name, value in plan["limits"].items())]
    yield "process", [plan["default_process"] or ""]
    yield "not known yet", plan["unknown"]


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


def _previous(previous: Mapping[str, Any], cache_image: str | None) -> Iterator[str]:
    yield f"{previous['image']}  {previous['id']}" if previous["id"] else "none"
    if previous["layers_of"] is None:
        yield "no layer of earlier builds is kept"
    elif previous["id"]:
        yield f"its layers: those kept for {previous['layers_of']}"
    if cache_image:
        yield f"cache image {cache_image}"


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
