"""The target of an image: os, architecture, variant and distribution (buildpack.md "Targets").

The code never calls this a platform, because the specification uses that word for the program that runs the
lifecycle.
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
    """A distribution by the ID and VERSION_ID of its `/etc/os-release`."""

    name: str
    version: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """os, architecture and variant as OCI and Go write them, and the distribution if it is known."""

    os: str = "linux"
    arch: str = "amd64"
    variant: str = ""
    distro: Distro | None = None

    @classmethod
    def host(cls) -> Self:
        """Returns the target of this machine, without its distribution."""
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
