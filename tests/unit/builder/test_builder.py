"""What a builder image's labels say."""

from __future__ import annotations

import json

from fakes import foreign_builder
from fakes.small_image import tar_of
from packhorse.builder.image import Builder
from packhorse.spec.buildpack_toml import Ref


def test_the_order_of_image_extensions_is_read() -> None:
    groups = [{"group": [{"id": "some/ext", "version": "1"}]}, {"group": [{"id": "other", "version": "2"}]}]
    for label, order in ((json.dumps(groups), ((Ref("some/ext", "1"),), (Ref("other", "2"),))), ("null", ())):
        image = foreign_builder.builder_image(
            tar_of({"etc/os-release": b""}),
            run="run",
            launcher=b"",
            more={"io.buildpacks.buildpack.order-extensions": label},
        )
        assert Builder.read("builder", image).extensions == order
