"""Where packhorse keeps its things on this machine.

Called by the mains, once; one of the edges that read the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from packhorse.base.dataclass import dataclass
from packhorse.errors import UsageError


@dataclass(frozen=True, slots=True)
class Folders:
    """`store` holds images and trees, `cache` what can be fetched again, `config` what the user wrote."""

    store: Path
    cache: Path
    config: Path

    @classmethod
    def find(cls, environ: Mapping[str, str]) -> Self:
        """`PACKHORSE_HOME` moves all three below one directory; otherwise the XDG base directories rule.

        Raises UsageError for a PACKHORSE_HOME that is not absolute.
        """
        home = environ.get("PACKHORSE_HOME", "")
        if home:
            root = Path(home)
            if not root.is_absolute():
                raise UsageError(
                    f"PACKHORSE_HOME is not an absolute path: {home!r}",
                    why="it would mean another place in every directory",
                    fix="write the whole path",
                )
            return cls(root / "store", root / "cache", root / "config")
        from platformdirs import PlatformDirs

        folders = PlatformDirs("packhorse", appauthor=False)
        try:
            return cls(folders.user_data_path / "store", folders.user_cache_path, folders.user_config_path)
        except RuntimeError as error:
            raise UsageError(
                "there is no place to keep images",
                why=f"user {os.geteuid()} has no home directory",
                fix="set PACKHORSE_HOME, or HOME",
            ) from error
