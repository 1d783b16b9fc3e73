"""④ → ④ Puts an app image on another run image, by the specification's rules (platform.md "rebaser").

`fleet.rebase` finds the two images and writes the new one. This module reads and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from packhorse.base.dataclass import dataclass
from packhorse.base.digest import Digest
from packhorse.base.go_json import loads
from packhorse.errors import FormatError, PlatformApiError, RebaseError, UnknownRunImage
from packhorse.lifecycle import labels
from packhorse.lifecycle.labels import BaseLabel
from packhorse.oci.mutate import count_base_layers, rebase_image
from packhorse.oci.place import Image
from packhorse.oci.types import Config
from packhorse.spec.api import PLATFORM_TARGETS, PlatformApi

_PLATFORM_API = "CNB_PLATFORM_API"
_FORCE = "--force puts it there all the same"

OF_THE_BASE = ("io.buildpacks.stack.", "io.buildpacks.base.")
"""The prefixes of the labels that an image inherits from its base."""


@dataclass(frozen=True, slots=True)
class RunImage:
    """The new base: its image, and the `name` by which the user or the app image names it.

    `reference` identifies it for a later rebase: a digest reference, or the config's digest in hex if no
    registry has the image.
    """

    image: Image
    name: str
    reference: str


def rebase(app: Image, new: RunImage, *, force: bool = False, say: Callable[[str], None]) -> Image:
    """Puts `app` on the layers of `new`.

    Raises RebaseError if that is not allowed, and UnknownRunImage if only the name of the new base is wrong.
    Raises FormatError if the image's labels cannot be read or contradict its layers. With `force` the rebase
    is done anyway, and `say` gets the problems; stacks and mixins still have to match.
    """
    label = read_base_label(app.config)
    if _has_stack(app.config):
        _require_stack(app.config, new.image.config)
    else:
        _require_target(app.config, new.image.config, force=force, say=say)
    if not new.image.layers:
        raise FormatError(f"{new.name} cannot be a run image", why="it has no layers")
    # If the image's base is unknown, that error is more important than the run image's name.
    above = count_labelled_base_layers(app, label)
    label = label.with_base(str(new.image.config.diff_ids[-1]), new.reference)
    if not label.knows(new.name):
        known = ", ".join(label.sources) or "no run image at all"
        if not force:
            raise UnknownRunImage(
                f"{new.name} is another run image", why=f"the image names {known}", fix=_FORCE
            )
        say(f"{new.name} is another run image: the image named {known}")
        label = label.with_name(new.name)
    return rebase_image(
        app, above, new.image, labels=_labels(app.config.labels, new.image.config.labels, label)
    )


def read_base_label(config: Config) -> BaseLabel:
    """Reads what an app image says of its base; FormatError if buildpacks did not build the image."""
    if not is_app(config):
        raise FormatError("the image was not built by buildpacks", why=f"it has no label {labels.LIFECYCLE}")
    return BaseLabel.parse(config.labels[labels.LIFECYCLE])


def count_labelled_base_layers(app: Image, label: BaseLabel) -> int:
    """The number of layers that belong to an image's base, by its label; FormatError if that is unknown."""
    return count_base_layers(app, _top(label), label.own_layers)


def is_app(config: Config) -> bool:
    """Whether buildpacks built the image."""
    return bool(config.labels.get(labels.LIFECYCLE))


def is_rebasable(config: Config) -> bool:
    """Whether the image may be rebased without `force`."""
    return config.labels.get(labels.REBASABLE, "") != "false"


def _top(label: BaseLabel) -> Digest:
    try:
        return Digest.parse(label.run.top_layer)
    except FormatError as error:
        why = f"its label says {label.run.top_layer!r}" if label.run.top_layer else "its label does not say"
        raise FormatError("nobody knows where the base of the image ends", why=why) from error


def _labels(app: Mapping[str, str], base: Mapping[str, str], label: BaseLabel) -> dict[str, str]:
    kept = {key: value for key, value in app.items() if not key.startswith(OF_THE_BASE)}
    kept[labels.LIFECYCLE] = label.text()
    return kept | {key: value for key, value in base.items() if key.startswith(OF_THE_BASE)}


def _has_stack(app: Config) -> bool:
    """Whether the image was built with a Platform API that has stacks instead of targets."""
    for entry in app.env:
        name, _, value = entry.partition("=")
        if name == _PLATFORM_API and "=" not in value:
            try:
                return not (value and PlatformApi.parse_any(value).has(PLATFORM_TARGETS))
            except PlatformApiError as error:
                raise RebaseError(f"{_PLATFORM_API} of the image cannot be read", why=str(error)) from error
    return True


def _require_stack(app: Config, base: Config) -> None:
    ours, new = app.labels.get(labels.STACK_ID, ""), base.labels.get(labels.STACK_ID, "")
    if not ours or not new:
        raise RebaseError(
            "nobody knows whether the run image suits the image",
            why=f"{'the run image' if ours else 'the image'} has no label {labels.STACK_ID}, "
            "which images of Platform API 0.11 and older need",
            fix="build the image anew",
        )
    if ours != new:
        raise RebaseError(
            "the run image is of another stack",
            why=f"its stack is {new}, the image's {ours}",
            fix="name another",
        )
    missing = sorted(_mixins(app, "the image") - _mixins(base, "the run image"))
    if missing:
        raise RebaseError(
            "the run image lacks what the image needs", why=f"missing mixins: {', '.join(missing)}"
        )


def _mixins(config: Config, what: str) -> set[str]:
    """The mixins of a stack image, without the prefix of those that are for one stage."""
    try:
        found = loads(config.labels.get(labels.MIXINS) or "null") or []
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the label {labels.MIXINS} of {what} is not JSON", why=str(error)) from error
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise FormatError(f"the label {labels.MIXINS} of {what} cannot be used", why="it is no list of names")
    return {name.partition(":")[2] if ":" in name else name for name in found}


def _require_target(app: Config, base: Config, *, force: bool, say: Callable[[str], None]) -> None:
    problems = []
    if not is_rebasable(app):
        problems.append(("the image is not to be rebased", f"its label {labels.REBASABLE} is false"))
    differences = _differences(app, base)
    if differences:
        problems.append(("the run image is made for something else", "\n".join(differences)))
    for what, why in problems:
        if not force:
            raise RebaseError(what, why=why, fix=_FORCE)
        say(f"{what}: {'; '.join(why.splitlines())}")


def _differences(app: Config, base: Config) -> list[str]:
    """How the two differ in machine and distribution. A value that the new base does not state matches."""
    pairs = [
        ("os", base.os, app.os),
        ("architecture", base.architecture, app.architecture),
    ]
    if base.variant and app.variant:
        pairs.append(("variant", base.variant, app.variant))
    distro = (labels.DISTRO_NAME, labels.DISTRO_VERSION)
    pairs += [(name, base.labels[name], app.labels.get(name, "")) for name in distro if base.labels.get(name)]
    found = [f"{name}: {new}, the image's is {old or 'unknown'}" for name, new, old in pairs if new != old]
    if (
        not found
        and any(name in base.labels for name in distro)
        and not any(name in app.labels for name in distro)
    ):
        found.append("it says its distribution, and the image says none")
    return found
