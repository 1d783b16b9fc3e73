"""An app image as `pack inspect` reports it to programs: the same fields, so that scripts go on working.

Called by `inspect`. What pack has of its own configuration (mirrors of run images) is not there.
"""

from __future__ import annotations

from typing import Any

from packhorse.image.model import Config
from packhorse.image.wire import JsonNode
from packhorse.lifecycle import labels

STACK = "io.buildpacks.stack.id"
REBASABLE = "io.buildpacks.rebasable"

_PROCESS = "/cnb/process/"
_LAUNCHER = "/cnb/lifecycle/launcher"
_OLD_API = (0, 4)  # Platform API before which a variable names the default process

Fields = dict[str, Any]


def report(
    config: Config,
    build: JsonNode,
    metadata: labels.LayersMetadata,
    lifecycle: JsonNode,
    *,
    form: str = "json",
) -> Fields:
    """pack's `remote_info` or `local_info`. `build` and `lifecycle` are the two labels as JSON.

    `form` is where it will be written: a list without entries is null in pack's JSON, and in its TOML left
    out unless it is a process's.
    """
    nothing: list[Fields] | None = [] if form == "yaml" else None
    return {
        "stack": config.labels.get(STACK, ""),
        "base_image": {
            "top_layer": metadata.run_image.top_layer,
            "reference": _base_reference(metadata, build),
        },
        "run_images": _run_images(metadata, lifecycle) or nothing,
        "buildpacks": _modules(build, "buildpacks") or nothing,
        "extensions": _modules(build, "extensions") or nothing,
        "processes": _processes(config, build, none=None if form == "json" else []) or nothing,
        "rebasable": is_rebasable(config),
    }


def bom(build: JsonNode) -> list[Fields] | None:
    """The bill of materials of old buildpacks, which the label itself has; None without one."""
    entries = []
    for entry in build.nodes("bom"):
        owner = entry.node("buildpack") or JsonNode({}, entry.where)
        fields: Fields = {"name": entry.text("name")}
        if entry.text("version"):
            fields["version"] = entry.text("version")
        metadata = entry.node("metadata")
        fields["metadata"] = None if metadata is None else metadata.fields
        fields["buildpacks"] = _module(owner)
        entries.append(fields)
    return entries or None


def is_rebasable(config: Config) -> bool:
    """Whether the base may be replaced: unless the label says no."""
    return config.labels.get(REBASABLE, "true") != "false"


def default_process(config: Config) -> str:
    """The type of the process that the image starts, "" for none, by how the image itself says it."""
    api = config.variable("CNB_PLATFORM_API") or "0.3"
    version = _version(api)
    if version and version < _OLD_API:
        return config.variable("CNB_PROCESS_TYPE") or "web"
    first = config.entrypoint[0] if config.entrypoint else _LAUNCHER
    return "" if first == _LAUNCHER else first.removeprefix(_PROCESS)


def _base_reference(metadata: labels.LayersMetadata, build: JsonNode) -> str:
    """What the label says, but of lifecycles before 0.5, which wrote something else there."""
    launcher = build.node("launcher")
    version = _version(launcher.text("version")) if launcher else ()
    return "" if version and version < (0, 5) else metadata.run_image.reference


def _run_images(metadata: labels.LayersMetadata, lifecycle: JsonNode) -> list[Fields]:
    """The run image's names, from the label's older place where the newer is empty."""
    names = [metadata.run_image.image, *metadata.run_image.mirrors]
    if not names[0]:
        stack = lifecycle.node("stack")
        run = stack.node("runImage") if stack else None
        names = [run.text("image"), *run.texts("mirrors")] if run else []
    return [{"name": name} for name in names if name]


def _modules(build: JsonNode, key: str) -> list[Fields]:
    return [_module(node) for node in build.nodes(key)]


def _module(node: JsonNode) -> Fields:
    found = {key: node.text(key) for key in ("id", "version", "homepage")}
    return {key: value for key, value in found.items() if value}


def _processes(config: Config, build: JsonNode, *, none: list[str] | None) -> list[Fields]:
    """The default process first, as pack has it."""
    default = default_process(config)
    found = []
    for process in build.nodes("processes"):
        command, *arguments = (*command_words(process), *process.texts("args")) or ("",)
        found.append(
            {
                "type": process.text("type"),
                "shell": "" if process.flag("direct") else "bash",
                "command": command,
                "default": process.text("type") == default,
                "args": arguments or none,
                "working-dir": process.text("working-dir") or config.working_dir,
            }
        )
    return sorted(found, key=lambda fields: not fields["default"])


def command_words(process: JsonNode) -> tuple[str, ...]:
    """A command: one text in images of before Platform API 0.10, a list since."""
    if isinstance(process.fields.get("command"), str):
        return (process.text("command"),)
    return process.texts("command")


def _version(text: str) -> tuple[int, ...]:
    """The numbers of a version; none for what is no version."""
    parts = text.split("-")[0].split("+")[0].split(".")
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        return ()
    return tuple(map(int, parts))
