"""The arrows of the spine: what each phase hands to the next, one frozen value each.

============  ===========================================================
Analyzed      analyzed.toml
Detected      group.toml, plan.toml
Restored      the `<layer>.toml` files and layer directories
Built         `<layers>/config/metadata.toml`
Exported      report.toml
============  ===========================================================

Their file forms are in `lifecycle.files`.
"""

from __future__ import annotations

from collections.abc import Mapping

from packhorse.base.dataclass import dataclass, field
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.buildpack.descriptor import Group, Ref
from packhorse.buildpack.launch import Process
from packhorse.errors import DetectFailed
from packhorse.image.view import Image
from packhorse.lifecycle.labels import LayersMetadata
from packhorse.plan.resolve import PlanEntry


@dataclass(frozen=True, slots=True)
class Analyzed:
    """What was built last time, and on what this time is built.

    `run_image` is the base the app's layers go on, `run_reference` what identifies it for a later rebase: the
    config digest in hex, or a digest reference when the image goes to a registry.
    """

    run_image: Image
    run_reference: str
    target: Target
    previous: Image | None = None
    metadata: LayersMetadata = field(default_factory=LayersMetadata)


@dataclass(frozen=True, slots=True)
class Member:
    """A buildpack of the detected group (group.toml)."""

    ref: Ref
    api: str
    homepage: str = ""


@dataclass(frozen=True, slots=True)
class Detected:
    """Which buildpacks build, in order, and the dependencies they agreed on."""

    group: tuple[Member, ...]
    plan: tuple[PlanEntry, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one bin/detect answered: `pass`, `fail` or `error`, its exit status (-1 when it did not run or its
    plan could not be read), and a line that says why.
    """

    ref: Ref
    verdict: str
    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class TriedGroup:
    """A group that detection tried, and why it does not build; no reason when it does."""

    group: Group
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Detection:
    """The outcome of detection, and how it came about: answers and groups in the order they were tried."""

    outcome: Detected | DetectFailed
    answers: tuple[Answer, ...]
    tried: tuple[TriedGroup, ...]


@dataclass(frozen=True, slots=True)
class Restored:
    """The layers (paths) whose directories were brought back, with their diff IDs."""

    layers: Mapping[str, Digest]


@dataclass(frozen=True, slots=True)
class Built:
    """What the buildpacks made, beside their layers: metadata.toml. Processes are sorted by type."""

    group: tuple[Member, ...]
    processes: tuple[Process, ...]
    default_process: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    slices: tuple[tuple[str, ...] | None, ...] = ()


@dataclass(frozen=True, slots=True)
class ExportedLayer:
    """One layer of the image above its base: for the closing table. `size` is in bytes of uncompressed tar,
    None for a layer of the previous image that was taken over in its compressed form.
    """

    name: str
    owner: str
    diff_id: Digest
    size: int | None
    is_in_previous: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Exported:
    """The finished image; `processes` are the types it can start."""

    image: Image
    layers: tuple[ExportedLayer, ...]
    processes: tuple[Process, ...]
    default_process: str = ""
