"""Makes a new image config from an old one, with the bytes that the reference writes.

The reference marshals go-containerregistry's ConfigFile: it writes fields in that struct's order, omits zero
values where the struct says `omitempty`, and drops unknown fields. So equal values give equal image IDs.
`lifecycle` and `builder` choose the values. `rebase_image` puts an image on another base, as
go-containerregistry's rebase does. Nothing here does I/O. Copying an image does not need this module.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime

from packhorse.base.dataclass import replace
from packhorse.base.digest import Digest
from packhorse.base.go_json import json_bytes
from packhorse.base.go_toml import SortedMap
from packhorse.base.target import Target
from packhorse.errors import FormatError
from packhorse.oci.place import Image, layer_ids
from packhorse.oci.types import Config, History, JsonNode

EPOCH = "1980-01-01T00:00:01Z"
"""The time of a rebased image and of its history, as in the reference."""

BASE_ANNOTATIONS = ("org.opencontainers.image.base.name", "org.opencontainers.image.base.digest")
"""Annotations that a rebase removes, because they describe the old base."""

_ZERO_TIME = "0001-01-01T00:00:00Z"
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", re.ASCII)

Fields = dict[str, object]
_ENGINE_FIELDS = {
    *("architecture", "author", "created", "history", "os", "rootfs", "config"),
    *("os.version", "variant"),
}
_ENGINE_RUN_FIELDS = {
    *("Cmd", "Healthcheck", "Entrypoint", "Env", "Labels", "OnBuild", "User", "Volumes", "WorkingDir"),
    *("ExposedPorts", "StopSignal", "Shell"),
}
_ALWAYS = {"architecture", "os", "created"}


def edit_config(
    config: Config,
    *,
    target: Target | None = None,
    os_version: str | None = None,
    created: str | None = None,
    env: Sequence[str] | None = None,
    labels: Mapping[str, str] | None = None,
    entrypoint: Sequence[str] | None = None,
    cmd: Sequence[str] | None = None,
    working_dir: str | None = None,
    user: str | None = None,
    diff_ids: Sequence[Digest] | None = None,
    history: Sequence[History] | None = None,
    anew: bool = False,
) -> Config:
    """Returns `config` with the given values; None keeps the old value. It drops the build container's ID.

    `created` is RFC 3339. With `anew` it keeps only the `config` section, as the reference's rebase does.
    Raises FormatError if Go could not read `config`.
    """
    node = JsonNode.parse(config.raw, "config")
    run = _read_struct(node.node("config") or JsonNode({}, "config.config"), _RUN)
    run.update(_drop_absent(Env=env, Entrypoint=entrypoint, Cmd=cmd, WorkingDir=working_dir, User=user))
    if labels is not None:
        run["Labels"] = SortedMap(labels)
    if anew:
        node, history = JsonNode({"rootfs": {"type": "layers", "diff_ids": []}}, "config"), history or ()
    file = _read_struct(node, _FILE)
    file.update(
        _drop_absent(created=created, **{"os.version": os_version}), container="", config=_drop_zeros(run)
    )
    if target is not None:
        file.update(os=target.os, architecture=target.arch, variant=target.variant)
    if diff_ids is not None:
        file["rootfs"] = {**_rootfs(node, "rootfs"), "diff_ids": [str(digest) for digest in diff_ids]}
    file["created"] = _go_time(file["created"])
    file["history"] = [_history(entry) for entry in (config.history if history is None else history)]
    return Config.parse(json_bytes(_drop_zeros(file)))


def empty_config(target: Target) -> Config:
    """Makes the config that the reference begins an image without layers with."""
    return edit_config(Config.parse(b'{"rootfs":{"type":"layers","diff_ids":[]}}'), target=target)


def engine_view(config: Config) -> Config:
    """Returns `config` as the reference sees it through an engine: with fewer fields and another history.

    When the reference writes to an engine, it reads the base with `docker inspect` and `docker history`.
    These do not tell which history entries belong to empty layers, so a base with such entries loses its
    history (`align_history`). Raises FormatError as `edit_config` does.
    """
    node = JsonNode.parse(config.raw, "config")
    run = _read_struct(node.node("config") or JsonNode({}, "config.config"), _RUN)
    file = _read_struct(node, _FILE)
    shown = {key: value for key, value in file.items() if key in _ENGINE_FIELDS}
    shown["created"] = _go_time(file["created"])
    shown["history"] = [_history(replace(entry, author="", empty_layer=False)) for entry in config.history]
    shown["config"] = _drop_zeros({key: value for key, value in run.items() if key in _ENGINE_RUN_FIELDS})
    return Config.parse(json_bytes(_drop_zeros(shown)))


def add_layers(
    config: Config, layers: Iterable[tuple[Digest, History]], *, created: str, keep_history: bool
) -> Config:
    """Returns `config` with more layers on top, and `created` as the time of the image and its whole history.

    It calls `align_history` first. Without `keep_history` (Platform API before 0.12) the history entries have
    only the time.
    """
    layers = tuple(layers)
    entries = [*align_history(config), *(entry for _, entry in layers)]
    kept = [
        replace(entry, created=created) if keep_history else History(created=created) for entry in entries
    ]
    diff_ids = (*config.diff_ids, *(diff_id for diff_id, _ in layers)) if layers else None
    return edit_config(config, created=created, diff_ids=diff_ids, history=kept)


def align_history(config: Config) -> tuple[History, ...]:
    """Returns one history entry for each layer: without those of empty layers.

    If the number of entries still differs from the number of layers, all returned entries are blank.
    """
    full = tuple(entry for entry in config.history if not entry.empty_layer)
    return full if len(full) == len(config.diff_ids) else (History(),) * len(config.diff_ids)


def set_variables(env: Sequence[str], values: Mapping[str, str]) -> tuple[str, ...]:
    """Returns `env` with `values`: each replaces the first entry of its name, or is added at the end."""
    entries = list(env)
    for name, value in values.items():
        names = [entry.partition("=")[0] for entry in entries]
        at = names.index(name) if name in names else len(entries)
        entries[at : at + 1] = [f"{name}={value}"]
    return tuple(entries)


def _read_struct(node: JsonNode, table: Mapping[str, Callable[[JsonNode, str], object]]) -> Fields:
    """Reads all fields of a Go struct in the order of `table`, with zero values for absent ones."""
    return {key: read(node, key) for key, read in table.items()}


def _drop_zeros(fields: Fields) -> Fields:
    """Returns the fields that Go writes: all structs, those in `_ALWAYS`, and others unless they are zero."""
    return {key: value for key, value in fields.items() if value or key in _ALWAYS or type(value) is dict}


def _drop_absent(**fields: object) -> Fields:
    return {key: value for key, value in fields.items() if value is not None}


def _set(node: JsonNode, key: str) -> SortedMap:
    members = node.node(key)
    return SortedMap({name: {} for name in members.fields} if members else {})


def _labels(node: JsonNode, key: str) -> SortedMap:
    return SortedMap(node.mapping(key))


def _health(node: JsonNode, key: str) -> Fields | None:
    health = node.node(key)
    return None if health is None else _drop_zeros(_read_struct(health, _HEALTH))


def _rootfs(node: JsonNode, key: str) -> Fields:
    rootfs = node.node(key) or JsonNode({}, f"config.{key}")
    there = rootfs.fields.get("diff_ids") is not None
    diff_ids = [str(digest) for digest in rootfs.digests("diff_ids")] if there else None
    return {"type": rootfs.text("type"), "diff_ids": diff_ids}


def _history(entry: History) -> Fields:
    fields: Fields = {"author": entry.author, "created": _go_time(entry.created)}
    fields.update(created_by=entry.created_by, comment=entry.comment, empty_layer=entry.empty_layer)
    return _drop_zeros(fields)


def _go_time(text: object) -> str:
    """Formats an RFC 3339 time as Go does: the fraction without trailing zeros, and `Z` for no offset."""
    if not text:
        return _ZERO_TIME
    match = _TIME.fullmatch(str(text))
    try:
        if match is None:
            raise ValueError("it is not RFC 3339")
        datetime.fromisoformat(match[1] + match[3])
    except ValueError as error:
        raise FormatError(f"not a time: {str(text)[:60]!r}", why=str(error)) from None
    fraction = (match[2] or "")[:9].rstrip("0")
    zone = "Z" if match[3][1:] == "00:00" else match[3]
    return match[1] + ("." + fraction if fraction else "") + zone


_HEALTH: Mapping[str, Callable[[JsonNode, str], object]] = {
    "Test": JsonNode.texts,
    "Interval": JsonNode.number,
    "Timeout": JsonNode.number,
    "StartPeriod": JsonNode.number,
    "Retries": JsonNode.number,
}
_RUN: Mapping[str, Callable[[JsonNode, str], object]] = {
    "AttachStderr": JsonNode.flag,
    "AttachStdin": JsonNode.flag,
    "AttachStdout": JsonNode.flag,
    "Cmd": JsonNode.texts,
    "Healthcheck": _health,
    "Domainname": JsonNode.text,
    "Entrypoint": JsonNode.texts,
    "Env": JsonNode.texts,
    "Hostname": JsonNode.text,
    "Image": JsonNode.text,
    "Labels": _labels,
    "OnBuild": JsonNode.texts,
    "OpenStdin": JsonNode.flag,
    "StdinOnce": JsonNode.flag,
    "Tty": JsonNode.flag,
    "User": JsonNode.text,
    "Volumes": _set,
    "WorkingDir": JsonNode.text,
    "ExposedPorts": _set,
    "ArgsEscaped": JsonNode.flag,
    "NetworkDisabled": JsonNode.flag,
    "MacAddress": JsonNode.text,
    "StopSignal": JsonNode.text,
    "Shell": JsonNode.texts,
}
_FILE: Mapping[str, Callable[[JsonNode, str], object]] = {
    "architecture": JsonNode.text,
    "author": JsonNode.text,
    "container": JsonNode.text,
    "created": JsonNode.text,
    "docker_version": JsonNode.text,
    "history": JsonNode.nodes,
    "os": JsonNode.text,
    "rootfs": _rootfs,
    "config": JsonNode.node,
    "os.version": JsonNode.text,
    "variant": JsonNode.text,
    "os.features": JsonNode.texts,
}


def rebase_image(app: Image, above: int, base: Image, *, labels: Mapping[str, str]) -> Image:
    """Returns `app` with the layers of `base` instead of its lowest `above` layers, and with `labels`.

    Outside the config's `config` section nothing is kept, not even history and author, as in the reference.
    Operating system and architecture are those of `base`.
    """
    layers = (*base.layers, *app.layers[above:])
    diff_ids = (*layer_ids(base), *layer_ids(app)[above:])
    return Image(
        _rebase_config(app.config, base.config, diff_ids, labels), layers, annotations=_kept_annotations(app)
    )


def count_base_layers(app: Image, top: Digest, own: Collection[str] = ()) -> int:
    """Returns how many layers the base of an image has, whose top layer is `top`; raises FormatError.

    A base may have `top` several times, for example as an empty layer. The last one below all of the image's
    `own` layers counts. (The reference uses the first, and so keeps the layers of the old base above it.)
    """
    diff_ids = layer_ids(app)
    if top not in diff_ids:
        raise FormatError("the image is not built on the base that it names", why=f"it has no layer {top}")
    first = diff_ids.index(top)
    places = enumerate(diff_ids)
    base = next((place for place, layer in places if layer != top and str(layer) in own), first + 1)
    return max((place for place in range(first, base) if diff_ids[place] == top), default=first) + 1


def _rebase_config(
    app: Config, base: Config, diff_ids: tuple[Digest, ...], labels: Mapping[str, str]
) -> Config:
    return edit_config(
        app,
        anew=True,
        target=Target(base.os, base.architecture),
        os_version=base.os_version,
        created=EPOCH,
        labels=labels,
        diff_ids=diff_ids,
        history=[History(created=EPOCH)] * len(diff_ids),
    )


def _kept_annotations(app: Image) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in app.annotations if name not in BASE_ANNOTATIONS)
