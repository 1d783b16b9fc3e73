"""Regular expressions that are compiled when they are first used; for buildpacks, begun anew in every build.

See `packhorse.base.regex`.
"""

from packhorse.base.regex import regex

__all__ = ["regex"]
