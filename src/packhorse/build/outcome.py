"""What a build made: the image, where else it was written, and what its layers cost."""

from __future__ import annotations

from packhorse.base.dataclass import dataclass
from packhorse.image.place import Receipt
from packhorse.image.reference import Location
from packhorse.lifecycle.stages import Exported
from packhorse.store.harvest import LayerCounters


@dataclass(frozen=True, slots=True)
class BuildOutcome:
    """The image, its copies, and what its layers cost.

    `published` is what the registry of its name identifies it by, when it was published.
    """

    exported: Exported
    counters: LayerCounters
    copies: tuple[tuple[Location, Receipt], ...]
    published: Receipt | None = None
