"""④ An image on another base: its own layers and settings over the layers of the new one.

Called by `lifecycle.rebase`, which knows where the base ends and what labels say of it. Pure; the config is
the one that go-containerregistry's rebase gives the reference.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import FormatError
from packhorse.image.edit import edit_config
from packhorse.image.model import Config, History
from packhorse.image.view import Image, layer_ids

EPOCH = "1980-01-01T00:00:01Z"

BASE_ANNOTATIONS = ("org.opencontainers.image.base.name", "org.opencontainers.image.base.digest")
"""Annotations that are no longer true on another base."""


def rebase_image(app: Image, above: int, base: Image, *, labels: Mapping[str, str]) -> Image:
    """`app` with the layers of `base` in place of its lowest ones, `above` many, and other labels.

    Of what is outside the config's `config` section all but the operating system and the architecture, which
    are the new base's, is forgotten, history and author among it, as by the reference.
    """
    layers = (*base.layers, *app.layers[above:])
    diff_ids = (*layer_ids(base), *layer_ids(app)[above:])
    return Image(
        _rebase_config(app.config, base.config, diff_ids, labels), layers, annotations=_kept_annotations(app)
    )


def count_base_layers(app: Image, top: Digest, own: Collection[str] = ()) -> int:
    """How many layers the base of an image has, which ends with `top`; raises FormatError.

    Layers of a base may be equal, as empty ones are: its top is then the last that none of the image's `own`
    layers is below. (The reference takes the first, and what is above it of the old base stays.)
    """
    diff_ids = layer_ids(app)
    if top not in diff_ids:
        raise FormatError("the image does not stand on the base that it names", why=f"it has no layer {top}")
    first = diff_ids.index(top)
    places = enumerate(diff_ids)
    base = next((place for place, layer in places if layer != top and str(layer) in own), first + 1)
    return max((place for place in range(first, base) if diff_ids[place] == top), default=first) + 1


def _rebase_config(
    app: Config, base: Config, diff_ids: tuple[Digest, ...], labels: Mapping[str, str]
) -> Config:
    return edit_config(
        app,
        anew=True,
        target=Target(base.os, base.architecture),
        os_version=base.os_version,
        created=EPOCH,
        labels=labels,
        diff_ids=diff_ids,
        history=[History(created=EPOCH)] * len(diff_ids),
    )


def _kept_annotations(app: Image) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in app.annotations if name not in BASE_ANNOTATIONS)
