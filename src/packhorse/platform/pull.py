"""When images come from their registries. Called by `platform.locate`, and by cli, which spells it."""

from __future__ import annotations

from enum import StrEnum


class PullPolicy(StrEnum):
    """The pull policies, as pack has them."""

    ALWAYS = "always"
    IF_NOT_PRESENT = "if-not-present"
    NEVER = "never"
