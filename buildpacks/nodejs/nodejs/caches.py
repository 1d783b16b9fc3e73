"""What frameworks keep from one build for the next: in a layer of its own, and never in the image.

On the arrow plan → layers. Called by `nodejs.modules` around the build scripts. A folder that the last build
left is a link to the layer while the scripts run; one that they make is moved there afterwards. So nothing is
copied but the first time, and an application that has none of these folders has no such layer.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from packhorse import sdk
from packhorse.sdk.dataclass import dataclass

FOLDERS = {
    "node_modules/.cache": "webpack, Babel, Terser, Docusaurus, Nuxt 3 and others",
    "node_modules/.vite": "Vite",
    "node_modules/.vite-temp": "Vite",
    "node_modules/.tmp": "TypeScript, as Vite's templates set it up",
    "node_modules/.astro": "Astro",
    ".next/cache": "Next.js",
    ".angular/cache": "Angular",
    ".parcel-cache": "Parcel",
    ".turbo": "Turborepo",
    ".nx": "nx",
    ".swc": "SWC",
}
"""The folders, and whose they are. Not here: `.nuxt`, `.cache` of Gatsby, `.svelte-kit`, `.docusaurus`, which
programs need at launch, or which are right only together with the output of the same build."""

EMITTED = ".tsbuildinfo"
"""How the files end in which TypeScript notes what it wrote. They are never brought back: by them it writes
nothing to an output folder, which is not kept."""

_LAYER = "build-cache"


@dataclass(slots=True)
class Caches:
    """The folders of one build, of the projects at `places` below `root`; `key` is what they depend on."""

    context: sdk.BuildContext
    root: Path
    places: tuple[str, ...]
    key: dict[str, str]
    _layer: sdk.Layer | None = None

    def bring(self) -> None:
        """Links what the last build left into the application."""
        if not (self.context.layers / f"{_LAYER}.toml").is_file():
            return
        self._take()
        for folder in self._folders():
            kept, here = self._kept(folder), self.root / folder
            if _leads(here, kept):
                kept.mkdir(parents=True, exist_ok=True)
            elif kept.is_dir() and not here.exists():
                here.parent.mkdir(parents=True, exist_ok=True)
                here.symlink_to(kept)

    def keep(self) -> None:
        """Takes the folders out of the application again, those that are new into the layer."""
        for folder in self._folders():
            kept, here = self._kept(folder), self.root / folder
            # Modules for the build are in a layer that stays as it is: it keeps the link.
            is_elsewhere = here.parent.is_symlink()
            if _leads(here, kept) and not is_elsewhere:
                here.unlink()
            elif here.is_dir() and not here.is_symlink():
                self._take()
                shutil.rmtree(kept, ignore_errors=True)
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(here, kept)
                if is_elsewhere:
                    here.symlink_to(kept)
            if "/" in folder and here.parent.is_dir() and not is_elsewhere:
                _remove_if_empty(here.parent)
            for record in kept.rglob(f"*{EMITTED}"):
                record.unlink()

    def _take(self) -> None:
        if self._layer is None:
            self._layer = self.context.layer(_LAYER, key=self.key, cache=True)

    def _kept(self, folder: str) -> Path:
        return self.context.layers / _LAYER / folder

    def _folders(self) -> Iterator[str]:
        for place in self.places:
            yield from (f"{place}/{folder}" if place else folder for folder in FOLDERS)


def of(context: sdk.BuildContext, root: Path, members: Iterable[str], version: str) -> Caches:
    """The caches of a source and of the `members` of its workspace, under one line of Node.js."""
    key = {"Node.js line": version.partition(".")[0], "architecture": context.target.arch}
    return Caches(context, root, ("", *members), key)


def _leads(link: Path, target: Path) -> bool:
    return link.is_symlink() and link.readlink() == target


def _remove_if_empty(folder: Path) -> None:
    """Removes a folder that was only there for a link."""
    if not any(folder.iterdir()):
        folder.rmdir()
