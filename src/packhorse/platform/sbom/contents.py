"""Lists what an image is made of, as one SBOM or as the SBOM files of its buildpacks.

Called by `cli.sbom` and `diff`. For an image that buildpacks made, it reads the layer of SBOM files and as
many layers of the base as needed; for another image all layers, from the top. `sdk.sbom` writes the SBOM.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from packhorse.base import files
from packhorse.errors import FormatError, InputError, NotFoundError
from packhorse.image.view import Image
from packhorse.image.wire import JsonNode
from packhorse.layers.listing import pick_files
from packhorse.lifecycle import labels
from packhorse.platform.owners import LayerPart, OwnedLayer, owned_layers
from packhorse.platform.sbom import parser
from packhorse.platform.sbom.base import components
from packhorse.platform.sbom.base import read as read_base
from packhorse.sdk.sbom import Bill, Component, purl

_LIMIT = 256 << 20
_FOLDER = "layers/sbom/launch/"
_LAUNCHER = f"{_FOLDER}buildpacksio_lifecycle/launcher/"


def read_files(image: Image) -> dict[str, bytes]:
    """Reads the files of the image's SBOM layer, by their paths. Raises NotFoundError without one."""
    sbom = [owned.layer for owned in _owned_layers(image) if owned.part is LayerPart.SBOM]
    if not sbom:
        raise NotFoundError(
            "the image has no SBOM files",
            why="the image does not say which of its layers has the buildpacks' SBOMs",
            fix="packhorse sbom IMAGE lists what is known without them",
        )
    return pick_files(sbom[0].tar(), lambda path: path.startswith("layers/sbom/"), limit=_LIMIT).files


def save(found: Mapping[str, bytes], directory: Path) -> None:
    """Writes files below a directory, each at its path in the image. Raises InputError."""
    for path, data in sorted(found.items()):
        target = directory / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{target.parent} cannot be made", why=error.strerror or str(error)) from error
        files.write(target, data)


def merge(image: Image, *, name: str) -> Bill:
    """Makes one SBOM of everything in the image. Its subject is the image, by `name` and ID.

    The same image has the same SBOM, wherever it is read from. Raises FormatError, and what reading a layer
    raises.
    """
    owned = _owned_layers(image)
    found = _read_launch_files(owned)
    bills = [parser.parse(data, _ending(path), f"/{path}") for path, data in found.items()]
    if not any(path.startswith(_LAUNCHER) for path in found):
        bills.append(Bill(tuple(_launcher(image, owned))))
    distro = tuple(image.config.labels.get(key, "") for key in (labels.DISTRO_NAME, labels.DISTRO_VERSION))
    below = [one.layer for one in owned if one.part in (LayerPart.BASE, LayerPart.OTHER)]
    base = read_base(below, release=not distro[0])
    bills.append(Bill(tuple(components(base, distro=(distro[0], distro[1])))))
    parts = [part for bill in bills for part in ((bill.subject,) if bill.subject else ()) + bill.components]
    roots = {part.ref for bill in bills for part in _roots(bill)}
    subject = Component(name, str(image.id), kind="container", depends_on=tuple(sorted(roots)))
    return Bill(tuple(part for part in parts if part.ref != subject.ref), subject)


def _owned_layers(image: Image) -> tuple[OwnedLayer, ...]:
    return owned_layers(image, labels.LayersMetadata.parse(image.config.labels.get(labels.LIFECYCLE, "")))


def is_sbom(path: str) -> bool:
    """Whether a path, relative to the root, is an SBOM file of what a buildpack put into the image."""
    return path.startswith(_FOLDER) and bool(_ending(path))


def versions(found: Mapping[str, bytes]) -> dict[str, str]:
    """The versions of each component, by its name; `found` has SBOM files by their paths.

    A file that is no SBOM has none; `packhorse diff` shows it as a file that differs.
    """
    known: dict[str, set[str]] = {}
    for path, data in _choose(found).items():
        with suppress(FormatError):
            for part in parser.parse(data, _ending(path), f"/{path}").components:
                known.setdefault(part.name, set()).update([part.version] if part.version else [])
    return {name: ", ".join(sorted(several)) for name, several in known.items() if several}


def _read_launch_files(owned: Sequence[OwnedLayer]) -> dict[str, bytes]:
    """Reads the SBOM files of what buildpacks put into the image."""
    found: dict[str, bytes] = {}
    for one in owned:
        if one.part is LayerPart.SBOM:
            found = pick_files(one.layer.tar(), lambda path: path.startswith(_FOLDER), limit=_LIMIT).files
    return _choose(found)


def _choose(found: Mapping[str, bytes]) -> dict[str, bytes]:
    """Drops an SBOM that is there in another format, too, which says more."""
    chosen: dict[str, str] = {}
    for path in sorted(filter(_ending, found), key=_preference):
        chosen.setdefault(posixpath.dirname(path), path)
    return {path: found[path] for path in sorted(chosen.values())}


def _preference(path: str) -> tuple[int, str]:
    return parser.ENDINGS.index(_ending(path)), path


def _ending(path: str) -> str:
    name = posixpath.basename(path)
    return next((ending for ending in parser.ENDINGS if name.endswith(f".{ending}")), "")


def _launcher(image: Image, owned: Sequence[OwnedLayer]) -> list[Component]:
    """The launcher, as the label describes it, if the image has one."""
    build = JsonNode.parse((image.config.labels.get(labels.BUILD) or "{}").encode(), labels.BUILD)
    launcher = build.node("launcher")
    if launcher is None or not any(one.part is LayerPart.LAUNCHER for one in owned):
        return []
    source = launcher.node("source")
    git = source.node("git") if source else None
    repository, commit = (git.text("repository"), git.text("commit")) if git else ("", "")
    version = launcher.text("version")
    where = {"vcs_url": f"git+https://{repository}@{commit}"} if repository and commit else {}
    return [Component("launcher", version, purl("generic", "launcher", version, **where), kind="application")]


def _roots(bill: Bill) -> list[Component]:
    """The subject of an SBOM; without one, the components that no other one needs."""
    if bill.subject:
        return [bill.subject]
    needed = {ref for part in bill.components for ref in part.depends_on if ref != part.ref}
    return [part for part in bill.components if part.ref not in needed] or list(bill.components)
