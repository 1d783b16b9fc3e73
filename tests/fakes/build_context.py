"""A context as the SDK hands it to a buildpack's build, made without a lifecycle."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from packhorse import sdk
from packhorse.base.log import Log
from packhorse.base.target import Target


def build_context(
    app: Path,
    layers: Path | None = None,
    *,
    buildpack: Path | None = None,
    env: Mapping[str, str] | None = None,
    user: Mapping[str, str] | None = None,
    said: io.StringIO | None = None,
) -> sdk.BuildContext:
    """For the application in `app`, where the layers are too unless elsewhere; the log goes into `said`.

    `env` is the environment in force, `user` what of it the user has set.
    """
    said = said or io.StringIO()
    return sdk.BuildContext(
        app=app,
        buildpack=sdk.Descriptor(buildpack or app, "x", "1"),
        platform=sdk.Platform(app, user or {}),
        target=Target("linux", "amd64"),
        exec_env="production",
        env=env or {},
        log=Log(said, said),
        layers=layers or app,
    )
