"""A builder image as a value: who builds in it, with which buildpacks, for which run images.

The labels are pack's contract, not the specification's. Called by `build.plan` and
`platform.default_builder`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Self

from packhorse.base.dataclass import dataclass, field
from packhorse.base.digest import Digest
from packhorse.buildpack.descriptor import Order, Ref
from packhorse.errors import FormatError
from packhorse.image.view import Image
from packhorse.image.wire import JsonNode
from packhorse.lifecycle.inputs import LauncherInfo, RunImageName

METADATA = "io.buildpacks.builder.metadata"
LAUNCHER = "io.packhorse.launcher"
"""Our label of a builder with a launcher and no lifecycle; its fields are those of METADATA's `lifecycle`."""
ORDER = "io.buildpacks.buildpack.order"
EXTENSIONS = "io.buildpacks.buildpack.order-extensions"
LAYERS = "io.buildpacks.buildpack.layers"


@dataclass(frozen=True, slots=True)
class Builder:
    """What a build needs to know of a builder. `env` is the image's own, in order; `name` is what people call
    it, `buildpacks` the versions it has of each id, `extensions` the order of its image extensions.
    """

    name: str
    image: Image = field(compare=False, repr=False)  # a handle to read layers by; `image_id` identifies it
    image_id: Digest
    uid: int
    gid: int
    order: Order
    run_images: tuple[RunImageName, ...]
    buildpacks: Mapping[str, tuple[str, ...]]
    platform_apis: frozenset[str]
    launcher: LauncherInfo
    extensions: Order = ()

    @classmethod
    def read(cls, name: str, image: Image) -> Self:
        """Reads the labels of a builder image; raises FormatError for an image that is none."""
        config = image.config
        label = config.labels.get(METADATA)
        if label is None:
            raise FormatError(
                f"{name} is not a builder", why=f"it has no label {METADATA}", fix="name a builder image"
            )
        metadata = JsonNode.parse(label.encode(), f"{METADATA} of {name}")
        lifecycle = metadata.node("lifecycle") or _launcher(config.labels.get(LAUNCHER), name)
        return cls(
            name=name,
            image=image,
            image_id=image.id,
            uid=_parse_user(config.variable("CNB_USER_ID"), name),
            gid=_parse_number(config.variable("CNB_GROUP_ID"), "CNB_GROUP_ID", name),
            order=_order(config.labels, ORDER, name),
            extensions=_order(config.labels, EXTENSIONS, name),
            run_images=_run_images(metadata),
            buildpacks=_buildpacks(config.labels.get(LAYERS) or "{}", name),
            platform_apis=_platform_apis(lifecycle),
            launcher=LauncherInfo(version=lifecycle.text("version")),
        )

    @property
    def env(self) -> Mapping[str, str]:
        """The image's variables."""
        return dict(entry.partition("=")[::2] for entry in self.image.config.env)


def _launcher(label: str | None, name: str) -> JsonNode:
    return JsonNode.parse((label or "{}").encode(), f"{LAUNCHER} of {name}")


def _parse_number(text: str | None, variable: str, name: str) -> int:
    if text is None or not re.fullmatch("[0-9]{1,9}", text):
        raise FormatError(
            f"{name} is not a usable builder",
            why=f"its variable {variable} is {text!r}, a number is needed",
        )
    return int(text)


def _parse_user(text: str | None, name: str) -> int:
    """The builder's user, who is not root: the reference refuses that as well."""
    uid = _parse_number(text, "CNB_USER_ID", name)
    if uid == 0:
        raise FormatError(
            f"{name} is not a usable builder",
            why="its variable CNB_USER_ID is 0: root builds nothing",
        )
    return uid


def _order(labels: Mapping[str, str], key: str, name: str) -> Order:
    groups = []
    for group in JsonNode.parse_list((labels.get(key) or "null").encode(), f"{key} of {name}"):
        refs = (
            Ref(entry.text("id"), entry.text("version"), optional=entry.flag("optional"))
            for entry in group.nodes("group")
        )
        groups.append(tuple(refs))
    return tuple(groups)


def _buildpacks(label: str, name: str) -> dict[str, tuple[str, ...]]:
    node = JsonNode.parse(label.encode(), f"{LAYERS} of {name}")
    return {
        identifier: tuple(versions) if isinstance(versions, dict) else ()
        for identifier, versions in node.fields.items()
    }


def _run_images(metadata: JsonNode) -> tuple[RunImageName, ...]:
    """`images`, or what builders had before there were several (`stack.runImage`)."""
    images = metadata.nodes("images")
    if not images:
        stack = metadata.node("stack")
        one = stack.node("runImage") if stack else None
        images = (one,) if one else ()
    named = (RunImageName(image.text("image"), tuple(image.texts("mirrors"))) for image in images)
    return tuple(image for image in named if image.image)


def _platform_apis(lifecycle: JsonNode) -> frozenset[str]:
    """Every Platform API of the builder's lifecycle; old ones name a single one."""
    apis = lifecycle.node("apis")
    platform = apis.node("platform") if apis else None
    if platform is not None:
        return frozenset((*platform.texts("supported"), *platform.texts("deprecated")))
    api = lifecycle.node("api")
    return frozenset([api.text("platform")] if api else [])
