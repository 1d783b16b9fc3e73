"""The request for a build, and its outcome.

cli makes the request from its options, and `plan`, `execute`, `deliver` and `verify` read it. A new option of
`packhorse build` is a field here, an option in `cli.build`, and a line where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from packhorse.base.dataclass import dataclass, field
from packhorse.base.sandbox import Bind, Network
from packhorse.base.target import Target
from packhorse.host.locate import LOCAL_REGISTRY, PullPolicy
from packhorse.lifecycle.inputs import EPOCH
from packhorse.lifecycle.stages import Exported
from packhorse.oci.place import Receipt
from packhorse.oci.reference import Location, Reference
from packhorse.store.layer_cache import LayerCounters


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """The options of one build.

    Source: `path` is its directory, and `workspace` where buildpacks and the image have it; `descriptor` is
    read instead of its project.toml.

    Buildpacks: `buildpacks` replace the builder's order; `pre_buildpacks` and `post_buildpacks` go around
    each of its groups. Without `system_buildpacks` those of the builder's system.toml take no part. `env`
    reaches them as `<platform>/env`, and they see `volumes`. `uid` and `gid` replace the builder's user and
    group. Without `overlay` they get copies of layers and source. `network` is None for the best that works;
    `sandbox` is the name or path of an OCI runtime, "" for bubblewrap; `limits` has the numbers that differ
    from `host.limits`.

    Images: `target` is what the image is for, None for this machine. `run_image` replaces the builder's.
    `pull` is the policy for both. `launcher` is "own" for packhorse's launcher in the image, "" for the
    builder's. `builder_id` is the image that the builder must be, and `run_reference` is how a label
    identifies the run image; "" means the image that has the name now. `created` is the time in the image, in
    seconds since 1970. `labels` replace those of buildpacks.

    Results: `tags` are further names of the image; `publish` uploads all names to their registries. `sparse`
    is for `outputs` that are layouts, see `fleet.copy`. `report` is the directory for report.toml, and
    `sboms` the one for the buildpacks' SBOM files.

    Kept layers: `previous_image` is the name or ID of the image whose layers are reused, "" for the last one
    of the same name. `cache_image` names an image that keeps them in a registry, and `cache_directory` a
    directory outside the store. `cache_name` is a name for them in the store, "" for that of the image.
    `keep_storage` is how many bytes all builds keep: 0 is no limit, None is the default of `host.limits`.
    """

    name: Reference
    path: Path
    tags: tuple[Reference, ...] = ()
    publish: bool = False
    builder: str = ""
    buildpacks: tuple[str, ...] = ()
    pre_buildpacks: tuple[str, ...] = ()
    post_buildpacks: tuple[str, ...] = ()
    system_buildpacks: bool = True
    descriptor: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[Bind, ...] = ()
    outputs: tuple[Location, ...] = ()
    compression: str = "gzip"
    sparse: bool = False
    pull: PullPolicy = PullPolicy.ALWAYS
    default_process: str = ""
    target: Target | None = None
    run_image: str = ""
    launcher: str = ""
    previous_image: str = ""
    exec_env: str = "production"
    workspace: str = "/workspace"
    uid: int | None = None
    gid: int | None = None
    created: int = EPOCH
    labels: Mapping[str, str] = field(default_factory=dict)
    clear_cache: bool = False
    cache_image: Reference | None = None
    cache_name: str = ""
    cache_directory: Path | None = None
    overlay: bool = True
    keep_storage: int | None = None
    report: Path | None = None
    sboms: Path | None = None
    network: Network | None = None
    sandbox: str = ""
    limits: Mapping[str, int] = field(default_factory=dict)
    builder_id: str = ""
    run_reference: str = ""

    @property
    def kept_as(self) -> str:
        """The name under which the store keeps the layers of the build."""
        return f"{LOCAL_REGISTRY}/cache/{self.cache_name}:latest" if self.cache_name else str(self.name)

    @property
    def names(self) -> tuple[Reference, ...]:
        """All names of the image."""
        return (self.name, *self.tags)


@dataclass(frozen=True, slots=True)
class BuildOutcome:
    """The image, its copies, and what its layers cost.

    `published` is what identifies the image in the registry of its name; None if it was not published.
    """

    exported: Exported
    counters: LayerCounters
    copies: tuple[tuple[Location, Receipt], ...]
    published: Receipt | None = None
