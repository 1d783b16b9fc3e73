"""When a run image of another name is a newer version of the one that an image has. Called by `one`.

The specification knows run images by their names alone, tags among them, so that each newer patch tag has to
be forced. These are taken as they are meant; anything else still has to be forced.
"""

from __future__ import annotations

import re

from packhorse.errors import InputError
from packhorse.image.model import Config
from packhorse.image.reference import Reference
from packhorse.lifecycle import labels
from packhorse.lifecycle.base_label import BaseLabel
from packhorse.lifecycle.rebase import RunImage

_SAME = (labels.BASE_ID, labels.STACK_ID, labels.DISTRO_NAME, labels.DISTRO_VERSION)
_NUMBER = re.compile(r"([0-9]{1,18})")


def is_newer(new: RunImage, app: Config, label: BaseLabel) -> bool:
    """Whether `new` is of the same repository, base id and distribution as the image's base, and newer.

    Both must say what they are based on: a base id, or a stack, and where it is known the distribution.
    """
    base = new.image.config
    if any(app.labels.get(name, "") != base.labels.get(name, "") for name in _SAME):
        return False
    if not (app.labels.get(labels.BASE_ID) or app.labels.get(labels.STACK_ID)):
        return False
    return any(_is_later(new.name, name) for name in label.sources)


def _is_later(new: str, old: str) -> bool:
    try:
        ours, theirs = Reference.parse(old), Reference.parse(new)
    except InputError:
        return False
    if ours.name != theirs.name or not ours.tag or not theirs.tag:
        return False
    return is_later_tag(theirs.tag, ours.tag)


def is_later_tag(new: str, old: str) -> bool:
    """Whether two tags differ in their numbers alone, and the new one's are higher.

    Of several numbers the first, which is the major version, must be the same.
    """
    before, after = _NUMBER.split(old), _NUMBER.split(new)
    if before[::2] != after[::2]:
        return False
    numbers, later = [list(map(int, parts[1::2])) for parts in (before, after)]
    return later > numbers and (len(numbers) == 1 or numbers[0] == later[0])
