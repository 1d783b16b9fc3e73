"""① Finds out what the last build made, and on which base this one builds (platform.md "analyzer", P-022 to
P-032).
"""

from __future__ import annotations

from packhorse.base.target import Distro, Target
from packhorse.errors import AnalyzeError, FormatError, NotFoundError
from packhorse.lifecycle import labels
from packhorse.lifecycle.stages import Analyzed
from packhorse.oci.place import Image, Place


def analyze(run_image: Image, run_reference: str, previous: Place | None) -> Analyzed:
    """Reads the run image's target and the previous image's metadata.

    `run_reference` identifies the run image for a later rebase (P-193). A previous image is ignored if it
    does not exist, cannot be read, or was not made by a lifecycle (B-041, P-027). Raises AnalyzeError if the
    run image names no operating system.
    """
    config = run_image.config
    if not config.os:
        raise AnalyzeError("the run image's config names no operating system", fix="use another run image")
    name, version = config.labels.get(labels.DISTRO_NAME), config.labels.get(labels.DISTRO_VERSION)
    distro = Distro(name or "", version or "") if name or version else None
    target = Target(config.os, config.architecture, config.variant, distro)
    image = _previous(previous)
    if image is None:
        return Analyzed(run_image, run_reference, target)
    metadata = labels.LayersMetadata.parse(image.config.labels.get(labels.LIFECYCLE, ""))
    return Analyzed(run_image, run_reference, target, image, metadata)


def _previous(place: Place | None) -> Image | None:
    if place is None:
        return None
    try:
        return place.read()
    except (NotFoundError, FormatError):
        return None
