"""Dataclasses with slots that a program does not wait for; for buildpacks, which begin anew in every build.

See `packhorse.base.dataclass`: what these do is what the standard library's do.
"""

from packhorse.base.dataclass import dataclass, field, replace

__all__ = ["dataclass", "field", "replace"]
