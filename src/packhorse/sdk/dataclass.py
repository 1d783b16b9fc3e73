"""Dataclasses that are made quickly, for buildpacks, because every build starts them again.

They do what the standard library's do (`packhorse.base.dataclass`).
"""

from packhorse.base.dataclass import dataclass, field, replace

__all__ = ["dataclass", "field", "replace"]
