"""The values that phases hand to each other, and the files of the specification that they stand for.

============  ===========================================================
Analyzed      analyzed.toml
Detected      group.toml, plan.toml
Restored      the `<layer>.toml` files and layer directories
Built         `<layers>/config/metadata.toml`
Exported      report.toml
============  ===========================================================

`metadata_toml` and `report_toml` write two of these files as the reference does (platform.md "Data Format").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from packhorse.base.dataclass import dataclass, field
from packhorse.base.digest import Digest
from packhorse.base.go_json import json_bytes
from packhorse.base.go_toml import RawToml, toml_bytes
from packhorse.base.target import Target
from packhorse.errors import DetectFailed
from packhorse.lifecycle.labels import Bom, LayersMetadata, bom_entries
from packhorse.spec.api import PLATFORM_COMMAND_LIST, PlatformApi
from packhorse.spec.buildpack_files import Process
from packhorse.spec.buildpack_toml import Descriptor, Group, Ref
from packhorse.spec.resolve import PlanEntry

if TYPE_CHECKING:
    from packhorse.oci.place import Image, Receipt


@dataclass(frozen=True, slots=True)
class Analyzed:
    """The base of this build, and the image of the last one.

    `run_image` is the base. `run_reference` identifies it for a later rebase: by its config digest in hex, or
    by a digest reference if the image goes to a registry.
    """

    run_image: Image
    run_reference: str
    target: Target
    previous: Image | None = None
    metadata: LayersMetadata = field(default_factory=LayersMetadata)


@dataclass(frozen=True, slots=True)
class Member:
    """A buildpack of the detected group (group.toml)."""

    descriptor: Descriptor

    @property
    def ref(self) -> Ref:
        """The id and the version."""
        return self.descriptor.ref

    @property
    def api(self) -> str:
        """The Buildpack API."""
        return str(self.descriptor.api)

    @property
    def homepage(self) -> str:
        """The address of a web page about it, or an empty text."""
        return self.descriptor.homepage


@dataclass(frozen=True, slots=True)
class Detected:
    """The buildpacks that build, in order, and the dependencies that they agreed on."""

    group: tuple[Member, ...]
    plan: tuple[PlanEntry, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of one bin/detect: `pass`, `fail` or `error`, and a line that says why.

    `status` is its exit status; -1 if it did not run or its plan could not be read.
    """

    ref: Ref
    verdict: str
    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class TriedGroup:
    """A group that detection tried, and the reasons why it does not build; none if it does."""

    group: Group
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Detection:
    """The outcome of detection, and the answers and groups in the order in which they were tried."""

    outcome: Detected | DetectFailed
    answers: tuple[Answer, ...]
    tried: tuple[TriedGroup, ...]


@dataclass(frozen=True, slots=True)
class Restored:
    """The diff IDs of the layers whose directories were restored, by their paths."""

    layers: Mapping[str, Digest]


@dataclass(frozen=True, slots=True)
class Built:
    """What the buildpacks made besides their layers (metadata.toml). Processes are sorted by type. `bom` and
    `build_bom` are the old bills of materials of launch.toml and build.toml, where the Platform API wants
    them in metadata.toml and report.toml.
    """

    group: tuple[Member, ...]
    processes: tuple[Process, ...]
    default_process: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    slices: tuple[tuple[str, ...] | None, ...] = ()
    bom: Bom = ()
    build_bom: Bom = ()


@dataclass(frozen=True, slots=True)
class ExportedLayer:
    """One layer of the image above its base, for the table at the end of a build.

    `size` is in bytes of uncompressed tar. It is None for a layer that was taken from the previous image in
    its compressed form.
    """

    name: str
    owner: str
    diff_id: Digest
    size: int | None
    is_in_previous: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Exported:
    """The finished image, the processes that it can start, the bill of materials for report.toml, and the
    receipt of the target.
    """

    image: Image
    layers: tuple[ExportedLayer, ...]
    processes: tuple[Process, ...]
    default_process: str
    build_bom: Bom
    receipt: Receipt


def metadata_toml(built: Built, api: PlatformApi) -> bytes:
    """`<layers>/config/metadata.toml`, which the launcher reads."""
    value: dict[str, object] = {}
    if built.default_process:
        value["buildpack-default-process-type"] = built.default_process
    if built.bom:
        value["bom"] = bom_entries(built.bom)
    value["buildpacks"] = [_member(member) for member in built.group]
    if built.labels:
        value["labels"] = [{"key": key, "value": text} for key, text in built.labels]
    value["processes"] = [_process(process, api) for process in built.processes]
    if built.slices:
        value["slices"] = [{} if paths is None else {"paths": list(paths)} for paths in built.slices]
    return toml_bytes(value)


def report_toml(tags: tuple[str, ...], receipt: Receipt, build_bom: Bom = ()) -> bytes:
    """report.toml (P-107, P-187): the digest for a registry, the image ID for an engine or the store.

    A layout has neither: its receipt has the size of the manifest alone.
    """
    build = {"build": {"bom": bom_entries(build_bom)}} if build_bom else {}
    image: dict[str, object] = {"tags": list(tags)}
    if receipt.manifest_digest is not None:
        image["digest"] = str(receipt.manifest_digest)
    elif not receipt.manifest_size:
        image["image-id"] = str(receipt.image_id)
    if receipt.manifest_size:
        image["manifest-size"] = receipt.manifest_size
    return toml_bytes({**build, "image": image})


def _member(member: Member) -> dict[str, object]:
    value: dict[str, object] = {"id": member.ref.id, "version": member.ref.version, "api": member.api}
    return value | ({"homepage": member.homepage} if member.homepage else {})


def _process(process: Process, api: PlatformApi) -> dict[str, object]:
    value: dict[str, object] = {"type": process.type, "command": _command(process.command, api)}
    if process.args is not None:
        value["args"] = list(process.args)
    value |= {"direct": process.direct, "buildpack-id": process.buildpack_id}
    if process.working_dir:
        value["working-dir"] = process.working_dir
    if process.exec_env:
        value["exec-env"] = list(process.exec_env)
    return value


def _command(words: Sequence[str], api: PlatformApi) -> RawToml:
    """A command as the reference writes it: a TOML array of JSON strings, with `<`, `>` and `&` escaped.
    Before Platform API 0.10 it is one such string.

    JSON leaves U+007F as it is and TOML forbids that. The reference cannot read such a file again.
    """
    strings = [json_bytes(word).decode().replace("\x7f", "\\u007f") for word in words]
    return RawToml(f"[{', '.join(strings)}]" if api.has(PLATFORM_COMMAND_LIST) else strings[0])
