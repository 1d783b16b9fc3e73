"""Whether newer versions are looked for, or those that the last build found serve again.

On the arrow plan → layers; a reader. Called by `nodejs.runtime`, `nodejs.schedule`, `nodejs.modules`,
`nodejs.keeping` and `managers.tool`; settings that are switches are read by `switch` elsewhere, too.
"""

from __future__ import annotations

from collections.abc import Mapping

from packhorse import sdk
from packhorse.errors import InputError

SETTING = "BP_NODE_UPDATE"
_YES, _NO = ("1", "true", "yes"), ("0", "false", "no")


def asked(env: Mapping[str, str]) -> bool:
    """Whether the setting asks for newer versions; raises InputError for a value that says neither."""
    return switch(env, SETTING) is True


def switch(env: Mapping[str, str], name: str) -> bool | None:
    """What a setting says, None where it is not made; raises InputError for what is neither yes nor no."""
    value = env.get(name, "").strip().lower()
    if value not in ("", *_YES, *_NO):
        raise InputError(
            f"{name} is neither yes nor no: {env[name]}",
            fix=f"write {name}=1 (or true, yes), {name}=0 (or false, no), or leave it out",
        )
    return value in _YES if value else None


def last(context: sdk.BuildContext, layer: str, request: str) -> str:
    """The version that the last build found for the same request, unless a newer one is asked for."""
    remembered = context.recall(layer)
    if asked(context.env) or remembered.get("request") != request:
        return ""
    return remembered.get("version", "")
