"""npm's settings of every place in one, for managers that do not look where npm does.

On the arrow plan → layers. Called by `pnpm`, `bun` and `npmaccess`. pnpm 10 and newer do not fill variables
(`${NPM_TOKEN}`) into the settings of a project, only into a user's. Here the project is the user's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from packhorse import sdk

from ..project import Project
from ..registry import Registry


@contextmanager
def merged(context: sdk.BuildContext, project: Project) -> Iterator[dict[str, str]]:
    """The variables that name the file, which may have credentials, and the registry."""
    said = Registry(context).config("globalconfig", "userconfig", "registry")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "npmrc")
        file.touch(mode=0o600)
        file.write_text("\n".join(_texts(said, project)))
        yield {
            "npm_config_userconfig": str(file),
            "pnpm_config_npmrc_auth_file": str(file),
            "pnpm_config_registry": said["registry"],
        }


def texts(context: sdk.BuildContext, project: Project) -> list[str]:
    """What the files say, the one that counts most last."""
    return _texts(Registry(context).config("globalconfig", "userconfig"), project)


def _texts(said: Mapping[str, str], project: Project) -> list[str]:
    places = [Path(said.get(name, "")) for name in ("globalconfig", "userconfig")]
    places.append(project.directory / ".npmrc")
    return [path.read_text(errors="replace") for path in places if path.is_file()]
