"""Reads the labels of an app image or a builder into a report: the use case behind `packhorse inspect`.

It reads the manifest and the config only, and no layer. The JSON has the fields of `pack inspect`, so that
scripts keep working, but not what pack takes from its own configuration (mirrors of run images). cli prints
the report.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from packhorse.base.dataclass import dataclass, replace
from packhorse.base.digest import Digest
from packhorse.errors import FormatError, NetworkError, NotFoundError
from packhorse.host.wiring import Wiring
from packhorse.lifecycle import labels
from packhorse.oci.place import Image
from packhorse.oci.reference import Location, Reference
from packhorse.oci.types import Config, JsonNode
from packhorse.report.builder import BuilderReport
from packhorse.report.owners import LayerPart, OwnedLayer, owned_layers
from packhorse.report.provenance import BuildProvenance

STACK = "io.buildpacks.stack.id"
REBASABLE = "io.buildpacks.rebasable"

_PROCESS = "/cnb/process/"
_LAUNCHER = "/cnb/lifecycle/launcher"
_OLD_API = (0, 4)  # Platform API before which a variable names the default process

Fields = dict[str, Any]
RELEASED = "io.buildpacks.base.released"
_DEFAULT = "buildpack-default-process-type"
_REAL = 2000  # an image from before this year has a constant time, for reproducible builds


def pack_report(
    config: Config,
    build: JsonNode,
    metadata: labels.LayersMetadata,
    lifecycle: JsonNode,
    *,
    form: str = "json",
) -> Fields:
    """Returns pack's `remote_info` or `local_info`. `build` and `lifecycle` are the two labels as JSON.

    `form` is the output format: pack writes an empty list as null in JSON, and leaves it out in TOML unless
    it belongs to a process.
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


def legacy_bom(build: JsonNode) -> list[Fields] | None:
    """Returns the bill of materials that old buildpacks put into the label; None if there is none."""
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
    """Whether a rebase may replace the base: yes, unless the label says false."""
    return config.labels.get(REBASABLE, "true") != "false"


def default_process(config: Config) -> str:
    """Returns the type of the process that the image starts, "" for none.

    The entrypoint names it, or before Platform API 0.4 the variable CNB_PROCESS_TYPE.
    """
    api = config.variable("CNB_PLATFORM_API") or "0.3"
    version = _version(api)
    if version and version < _OLD_API:
        return config.variable("CNB_PROCESS_TYPE") or "web"
    first = config.entrypoint[0] if config.entrypoint else _LAUNCHER
    return "" if first == _LAUNCHER else first.removeprefix(_PROCESS)


def _base_reference(metadata: labels.LayersMetadata, build: JsonNode) -> str:
    """Returns the reference in the label; "" for lifecycles before 0.5, which wrote something else there."""
    launcher = build.node("launcher")
    version = _version(launcher.text("version")) if launcher else ()
    return "" if version and version < (0, 5) else metadata.run_image.reference


def _run_images(metadata: labels.LayersMetadata, lifecycle: JsonNode) -> list[Fields]:
    """Returns the run image's names from the label, or if it has none, from its older field `stack`."""
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
    """Returns the processes, the default one first, as in pack."""
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
    """Returns a process's command, which is one string before Platform API 0.10, and a list since."""
    if isinstance(process.fields.get("command"), str):
        return (process.text("command"),)
    return process.texts("command")


def _version(text: str) -> tuple[int, ...]:
    """Returns the numbers of a version, an empty tuple for an invalid one."""
    parts = text.split("-")[0].split("+")[0].split(".")
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        return ()
    return tuple(map(int, parts))


@dataclass(frozen=True, slots=True)
class BaseAge:
    """When an image's base was made, and when the run image that now has its name was made (`newer`).

    Both are RFC 3339. `created` is "" if unknown. `newer` is "" if the run image is the same (`current`) or
    was not looked up.
    """

    created: str = ""
    newer: str = ""
    current: bool = False


@dataclass(frozen=True, slots=True)
class Attachment:
    """A document attached to an image or to the index that contains it. `kind` is a media type.

    `tag` is set only if the document does not name its subject, so that the tag must.
    """

    kind: str
    digest: Digest
    size: int
    subject: Digest
    tag: str = ""

    def fields(self) -> dict[str, object]:
        """Returns the JSON object."""
        return {
            "artifact_type": self.kind,
            "digest": str(self.digest),
            "size": self.size,
            "subject": str(self.subject),
            "tag": self.tag,
        }


@dataclass(frozen=True, slots=True)
class ImageReport:
    """The content of an image's labels and config.

    `build` is the label io.buildpacks.build.metadata, empty if buildpacks did not make the image. `lifecycle`
    is io.buildpacks.lifecycle.metadata as JSON, and `metadata` the same label parsed. `name` is the name that
    the user gave. `remote` is true if the image came from a registry. `attachments` is None if they were not
    looked up.
    """

    image: Image
    metadata: labels.LayersMetadata
    build: JsonNode
    lifecycle: JsonNode
    layers: tuple[OwnedLayer, ...]
    name: str = ""
    remote: bool = False
    base: BaseAge = BaseAge()
    attachments: tuple[Attachment, ...] | None = None

    def with_base(self, base: BaseAge) -> ImageReport:
        """Returns the report with the base's age."""
        return replace(self, base=base)

    def fields(self, *, form: str = "json") -> dict[str, object]:
        """Returns the JSON object for output as `form`: pack's fields first, then those that pack lacks."""
        config, run = self.image.config, self.metadata.run_image
        theirs = pack_report(config, self.build, self.metadata, self.lifecycle, form=form)
        return {
            "image_name": self.name,
            "remote_info": theirs if self.remote else None,
            "local_info": None if self.remote else theirs,
            "id": str(self.image.id),
            "digest": str(self.image.manifest.digest) if self.image.manifest else None,
            "target": str(config.target),
            "created": config.created,
            "user": config.user,
            "entrypoint": list(config.entrypoint),
            "cmd": list(config.cmd),
            "working_dir": config.working_dir,
            "env": list(config.env),
            "buildpacks": [node.fields for node in self.build.nodes("buildpacks")],
            "processes": [node.fields for node in self.build.nodes("processes")],
            "default_process": self.build.text(_DEFAULT),
            "run_image": {
                "name": run.image,
                "reference": run.reference,
                "top_layer": run.top_layer,
                "mirrors": list(run.mirrors),
                "created": self.base.created,
                "newer": self.base.newer,
            },
            "rebasable": is_rebasable(config),
            "builder": self.builder.fields() if self.builder else None,
            "built_with": self.provenance.fields() if self.provenance else None,
            "layers": [_layer(owned) for owned in self.layers],
            "sbom": self.has_sbom,
            "referrers": None if self.attachments is None else [one.fields() for one in self.attachments],
            "labels": dict(config.labels),
        }

    def bom(self) -> dict[str, object]:
        """Returns the JSON object of `pack inspect --bom`."""
        found = legacy_bom(self.build)
        return {"remote": found if self.remote else None, "local": None if self.remote else found}

    @property
    def provenance(self) -> BuildProvenance | None:
        """How the image was built; None if its manifest does not tell."""
        return BuildProvenance.parse(self.image)

    @property
    def builder(self) -> BuilderReport | None:
        """What the image says of itself as a builder, if it is one."""
        return BuilderReport.read(self.image.config)

    @property
    def has_sbom(self) -> bool:
        """Whether the image has a layer of SBOM files."""
        return any(owned.part is LayerPart.SBOM for owned in self.layers)

    def lines(self) -> Iterator[str]:
        """Yields the report for people, without the layers, which cli prints as a table."""
        config, run = self.image.config, self.metadata.run_image
        yield f"image       {self.image.id}"
        if self.image.manifest:
            yield f"digest      {self.image.manifest.digest}"
        yield f"target      {config.target}"
        builder = self.builder
        if builder is not None:
            yield from builder.lines()
        elif not self.build.fields:
            yield "buildpacks  none: it was not built by buildpacks"
        if run.image or run.reference:
            yield f"run image   {run.image or '(unnamed)'}  {run.reference}"
            yield from self._age()
        if self.provenance:
            yield f"builder     {self.provenance.builder}  {self.provenance.builder_id}"
        if self.provenance and self.provenance.env:
            names = " ".join(self.provenance.env)
            yield f"variables   {names}  (in the build; their values are not recorded)"
        for buildpack in self.build.nodes("buildpacks"):
            homepage = buildpack.text("homepage")
            name = f"{buildpack.text('id')}@{buildpack.text('version')}"
            yield f"buildpack   {name}{f'  {homepage}' if homepage else ''}"
        for extension in self.build.nodes("extensions"):
            yield f"extension   {extension.text('id')}@{extension.text('version')}"
        default = self.build.text(_DEFAULT) or default_process(config)
        for process in self.build.nodes("processes"):
            mark = "  (default)" if process.text("type") == default else ""
            command = " ".join((*command_words(process), *process.texts("args")))
            yield f"process     {process.text('type')}{mark}: {command}"
        yield f"entrypoint  {' '.join((*config.entrypoint, *config.cmd)) or '(none)'}"
        yield f"user        {config.user or 'root'}"
        if self.build.fields:
            yield f"rebasable   {'yes' if is_rebasable(config) else 'no'}"
        yield f"sbom        {'yes' if self.has_sbom else 'none'}"
        for one in self.attachments or ():
            yield f"attached    {one.kind or '(of no kind)'}  {one.tag or one.digest}"
        if self.attachments == ():
            yield "attached    nothing"

    def _age(self) -> Iterator[str]:
        if self.base.created:
            yield f"base        made {_format_age(self.base.created)}"
        if self.base.newer:
            yield f"newer base  made {_format_age(self.base.newer)}: packhorse rebase puts the image on it"
        if self.base.current:
            yield "newer base  none: the run image is still the same"


def inspect(image: Image, *, name: str = "", remote: bool = False) -> ImageReport:
    """Reads the labels of an image; raises FormatError for an invalid one."""
    values = image.config.labels
    build, lifecycle = (
        JsonNode.parse((values.get(key) or "{}").encode(), key) for key in (labels.BUILD, labels.LIFECYCLE)
    )
    metadata = labels.LayersMetadata.parse(values.get(labels.LIFECYCLE, ""))
    report = ImageReport(image, metadata, build, lifecycle, owned_layers(image, metadata), name, remote)
    report.fields(), report.bom()  # raises FormatError here, before anything is printed
    for _ in report.lines():
        pass
    return report


def attachments(location: Location, image: Image, wiring: Wiring) -> tuple[Attachment, ...]:
    """Lists what is attached to an image and its index; raises InputError if the place has no attachments."""
    from packhorse.oci.attached import Referrer, index_referrers, list_attachments

    def attachment(referrer: Referrer, subject: Digest, tag: str = "") -> Attachment:
        return Attachment(referrer.kind, referrer.descriptor.digest, referrer.descriptor.size, subject, tag)

    holder = wiring.index_place(location)
    subjects = [image.manifest.digest] if image.manifest else []
    found = []
    if image.all_targets is not None:
        root = holder.root()
        found = [attachment(each, subject) for subject in subjects for each in index_referrers(root, subject)]
        subjects.append(root.digest)
    others = list_attachments(holder, subjects)
    return (*found, *(attachment(each.referrer, each.subject, each.tag) for each in others))


def base_of(report: ImageReport, wiring: Wiring, *, ask: bool) -> BaseAge:
    """Finds out when an image's base was made: by its label, or by the run image in the store.

    With `ask` it also reads the run image in its registry, and compares it. Raises NetworkError,
    NotFoundError and FormatError about that registry.
    """
    config = report.image.config
    base = tuple(owned.layer.diff_id for owned in report.layers if owned.part is LayerPart.BASE)
    created = _real_time(config.labels.get(RELEASED, ""))
    if base and not created:
        same = (record.name for record in wiring.store.images() if record.layers == base)
        created = next((_store_time(wiring, name) for name in same), "")
    run = report.metadata.run_image
    if not ask or not run.image:
        return BaseAge(created)
    now = wiring.registry(Reference.parse(run.image), config.target).read()
    if now.config.diff_ids == base:
        return BaseAge(created or _real_time(now.config.created), current=True)
    if not created and "@" in run.reference:
        try:
            then = wiring.registry(Reference.parse(run.reference), config.target).read()
            created = _real_time(then.config.created)
        except (NetworkError, NotFoundError, FormatError):
            pass  # registries remove images without a tag
    return BaseAge(created, now.config.labels.get(RELEASED, "") or now.config.created)


def _store_time(wiring: Wiring, name: Reference) -> str:
    try:
        return _real_time(wiring.store.place(str(name)).read().config.created)
    except (FormatError, NotFoundError):
        return ""


def _layer(owned: OwnedLayer) -> dict[str, object]:
    layer = owned.layer
    return {
        "diff_id": str(layer.diff_id),
        "part": str(owned.part),
        "owner": owned.owner,
        "name": owned.name,
        "version": owned.version,
        "size": layer.size,
        "compressed_size": layer.descriptor.size if layer.descriptor else None,
    }


def _parse_time(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _real_time(text: str) -> str:
    """Returns a time, "" if it is invalid or a constant for reproducible builds."""
    moment = _parse_time(text)
    return text if moment and moment.year >= _REAL else ""


def _format_age(text: str) -> str:
    """Formats a time as a number of days ago, and the date."""
    moment = _parse_time(text)
    if moment is None or moment.year < _REAL:
        return "at a time that is not known"
    days = (datetime.now(UTC) - moment).days
    when = "today" if days < 1 else "yesterday" if days == 1 else f"{days} days ago"
    return f"{when}, on {moment:%Y-%m-%d}"
