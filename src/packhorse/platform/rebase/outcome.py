"""What is asked of an image that is to be rebased, and what became of it. Called by the rest of `rebase`, and
by cli.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Self

from packhorse.base.dataclass import dataclass
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import UsageError
from packhorse.image.place import Receipt
from packhorse.image.reference import Location


class RebaseState(StrEnum):
    """What became of an image."""

    REBASED = "rebased"
    BEHIND = "behind"
    CURRENT = "current"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class WantedLabel:
    """A label that images have to have to be taken, with one value, or with any where that is None."""

    key: str
    value: str | None = None

    @classmethod
    def parse_all(cls, texts: Iterable[str]) -> tuple[Self, ...]:
        """What `KEY` and `KEY=VALUE` ask for; UsageError for what no image can have."""
        wanted: dict[str, Self] = {}
        for text in texts:
            key, given, value = text.partition("=")
            if not key.strip():
                raise UsageError(
                    f"--label {text!r} names no label", fix="write --label KEY, or --label KEY=VALUE"
                )
            new = cls(key, value if given else None)
            old = wanted.get(key, new)
            if None not in (old.value, new.value) and old != new:
                raise UsageError(
                    f"no image has {old} and {new} at once",
                    why="a label has one value, and all that are asked for have to be there",
                    fix="ask for one of them, and for the other with another command",
                )
            wanted[key] = new if old.value is None else old
        return tuple(wanted.values())

    def __str__(self) -> str:
        return self.key if self.value is None else f"{self.key}={self.value}"

    def is_among(self, labels: Mapping[str, str]) -> bool:
        """Whether an image of these labels has it."""
        return self.key in labels and self.value in (None, labels[self.key])


@dataclass(frozen=True, slots=True)
class RebaseRequest:
    """What a user asked for of one image.

    `source` is rebased and written to `location`. Without `run_image` it is the one that the image names.
    Only images on `old_run_image` are taken, where that is given, and such as have all `labels`, and of those
    that are only listed (`is_listed`) by a registry such as buildpacks built. With `dry_run` nothing is
    written.
    """

    location: Location
    source: Location
    run_image: str = ""
    old_run_image: str = ""
    force: bool = False
    dry_run: bool = False
    is_listed: bool = False
    labels: tuple[WantedLabel, ...] = ()

    @property
    def is_in_place(self) -> bool:
        """Whether the image is replaced by what it becomes."""
        return self.source == self.location


@dataclass(frozen=True, slots=True)
class RebaseResult:
    """What became of an image, and what changed: the two references of its base, `notes` about what was
    taken although something spoke against it, or why it was skipped. `receipt` says what is there now,
    `layers` how many layers were taken from below and put there.

    Of a name that stands for several images `members` has what became of each, and the rest is of the first
    that changed; the digest of its index stands for an image ID.
    """

    state: RebaseState
    run_image: str = ""
    before: str = ""
    after: str = ""
    layers: tuple[int, int] = (0, 0)
    labels: tuple[tuple[str, str, str], ...] = ()
    notes: tuple[str, ...] = ()
    image: Digest | None = None
    receipt: Receipt | None = None
    members: tuple[tuple[Target, RebaseResult], ...] = ()
