"""What an image is made for: os, architecture, variant and distribution (buildpack.md "Targets").

Called by buildpack, plan, image and lifecycle. Never called a platform: that word is the specification's for
whoever drives the lifecycle.
"""

from __future__ import annotations

import os
import re

from packhorse.base.dataclass import dataclass
from packhorse.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_WORD = re.compile(r"[a-z0-9]{1,32}")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Distro:
    """A distribution as `/etc/os-release` names it: ID and VERSION_ID."""

    name: str
    version: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """os, architecture and variant as OCI (and Go) spell them, and the distribution where it is known."""

    os: str = "linux"
    arch: str = "amd64"
    variant: str = ""
    distro: Distro | None = None

    @classmethod
    def host(cls) -> Self:
        """The machine this process runs on, without its distribution."""
        machine = os.uname().machine
        return cls(arch=_ARCHITECTURES.get(machine, machine))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `OS/ARCH[/VARIANT]`; raises InputError."""
        parts = text.split("/")
        if not 2 <= len(parts) <= 3 or not all(map(_WORD.fullmatch, parts)):
            raise InputError(
                f"not a target: {text[:100]!r}", fix="write OS/ARCH or OS/ARCH/VARIANT, as in linux/arm64"
            )
        return cls(parts[0], parts[1], parts[2] if len(parts) > 2 else "")

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.arch, self.variant) if part)
