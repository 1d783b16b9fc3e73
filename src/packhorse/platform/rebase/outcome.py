"""What is asked of an image that is to be rebased, and what became of it. Called by the rest of `rebase`, and
by cli.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.image.place import Receipt
from packhorse.image.reference import Location


class State(StrEnum):
    """What became of an image."""

    REBASED = "rebased"
    BEHIND = "behind"
    CURRENT = "current"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class RebaseRequest:
    """What a user asked for of one image.

    `source` is rebased and written to `location`. Without `run_image` it is the one that the image names.
    Only images on `old` are taken, where that is given, and of those that are only `listed` by a registry
    such as buildpacks built. With `dry_run` nothing is written.
    """

    location: Location
    source: Location
    run_image: str = ""
    old: str = ""
    force: bool = False
    dry_run: bool = False
    listed: bool = False

    @property
    def in_place(self) -> bool:
        """Whether the image is replaced by what it becomes."""
        return self.source == self.location


@dataclass(frozen=True, slots=True)
class Rebased:
    """What became of an image, and what changed: the two references of its base, `notes` about what was
    taken although something spoke against it, or why it was skipped. `receipt` says what is there now,
    `layers` how many layers were taken from below and put there.

    Of a name that stands for several images `members` has what became of each, and the rest is of the first
    that changed; the digest of its index stands for an image ID.
    """

    state: State
    run_image: str = ""
    before: str = ""
    after: str = ""
    layers: tuple[int, int] = (0, 0)
    labels: tuple[tuple[str, str, str], ...] = ()
    notes: tuple[str, ...] = ()
    image: Digest | None = None
    receipt: Receipt | None = None
    members: tuple[tuple[Target, Rebased], ...] = ()
