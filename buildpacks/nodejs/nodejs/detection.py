"""Decides whether a source is an application for this buildpack.

Every build asks, also for other languages. So `main.py` imports nothing else for detection.
"""

from __future__ import annotations

from packhorse import sdk

LAUNCHPOINT = "BP_LAUNCHPOINT"
STEMS = ("server", "app", "main", "index")
_SUFFIXES = (".js", ".cjs", ".mjs", ".ts", ".mts", ".cts")
ENTRIES = tuple(f"{stem}{suffix}" for stem in STEMS for suffix in _SUFFIXES)
"""Files that may be an application's entry; the first that exists is used."""

BUN_ENTRIES = (
    *(f"{stem}{suffix}" for stem in STEMS for suffix in (".tsx", ".jsx")),
    # Where its templates have it, with a script for development alone.
    *(f"src/{stem}{suffix}" for stem in ("index", "server") for suffix in (".ts", ".tsx", ".js")),
)
"""More entry files for an application that Bun runs."""

_SAID = ("package.json", *(f"{stem}.js" for stem in STEMS))


def detect(context: sdk.DetectContext) -> sdk.Pass | sdk.Fail:
    """Accepts an application with package.json or a usual entry file."""
    there = {path.name for path in context.app.iterdir()}
    if not there.intersection(("package.json", *ENTRIES)) and not context.env.get(LAUNCHPOINT):
        return sdk.Fail(f"there is no {', '.join(_SAID)}")
    return sdk.Pass(sdk.BuildPlan(provides=("node",), requires=(sdk.Require("node"),)))
