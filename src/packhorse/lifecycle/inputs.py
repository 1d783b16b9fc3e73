"""The inputs of one build, as one value (platform.md "Lifecycle Interface"). Made by `build.execute`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from packhorse.base.dataclass import dataclass, field
from packhorse.spec.api import PlatformApi
from packhorse.spec.buildpack_toml import Order, Ref

EPOCH = 315532801
"""1980-01-01T00:00:01Z: the time of everything in an image unless SOURCE_DATE_EPOCH says otherwise (P-105,
P-106).
"""

EPOCH_TEXT = "1980-01-01T00:00:01Z"
"""`EPOCH` as image configs have it."""


@dataclass(frozen=True, slots=True)
class RunImageName:
    """The name of a run image and its mirrors: one `[[images]]` entry of run.toml."""

    image: str
    mirrors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LauncherInfo:
    """The source of the image's launcher, for the label io.buildpacks.build.metadata (P-191)."""

    version: str
    repository: str = ""
    commit: str = ""


SYSTEM_FILE = "/cnb/system.toml"
"""The file that names the buildpacks around every group."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of one build. Paths are those in the sandbox.

    `env` is the whole base environment of buildpacks, already filtered (P-161). `extensions` is the order of
    image extensions if the caller knows it; else `order_file` has it. Without `system` no system buildpacks
    take part. `default_process` is the specification's `-process-type`, `project` the content of
    project-metadata.toml. `created` is in seconds since the epoch. `labels` are the user's for the image.
    `launcher_sboms` is the directory of the launcher's SBOM files. `temporary` has plans. With
    `skip_restore` no layer is restored (`--clear-cache`). `parallel` is the number of bin/detect that run at
    once. `annotations` go into the image's manifest and do not affect its ID. With `has_real_parents` the
    directories above a layer get the mode and owner that the tree shows, as the reference gives them; else
    those that they have in a build with pack.
    """

    platform_api: PlatformApi
    order: Order
    launcher: LauncherInfo
    env: Mapping[str, str]
    run_image: RunImageName
    extensions: Order = ()
    app: str = "/workspace"
    layers: str = "/layers"
    platform: str = "/platform"
    buildpacks: str = "/cnb/buildpacks"
    build_config: str = "/cnb/build-config"
    order_file: str = "/cnb/order.toml"
    system: str = SYSTEM_FILE
    launcher_path: str = "/cnb/lifecycle/launcher"
    launcher_sboms: str = "/cnb/lifecycle"
    temporary: str = "/tmp"
    uid: int = 1000
    gid: int = 1000
    exec_env: str = "production"
    default_process: str = ""
    project: Mapping[str, Any] = field(default_factory=dict)
    created: int = EPOCH
    labels: Mapping[str, str] = field(default_factory=dict)
    skip_restore: bool = False
    parallel: int = 4
    annotations: Mapping[str, str] = field(default_factory=dict)
    has_real_parents: bool = False

    def buildpack_directory(self, ref: Ref) -> str:
        """Where a buildpack is: `/cnb/buildpacks/<escaped id>/<version>` (P-158)."""
        return f"{self.buildpacks}/{ref.directory_name}/{ref.version}"

    def layers_directory(self, ref: Ref) -> str:
        """Where a buildpack's layers are: `/layers/<escaped id>`."""
        return f"{self.layers}/{ref.directory_name}"
