"""What a user asks of a build, as one value. Made by cli; read by `build`, `verify` and `recorded`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from packhorse.base.dataclass import dataclass, field
from packhorse.base.step import Bind, Network
from packhorse.image.reference import Location, Reference
from packhorse.lifecycle.inputs import EPOCH
from packhorse.platform.network import Reach
from packhorse.platform.pull import PullPolicy


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What a user asked for. `env` reaches buildpacks as `<platform>/env`; `buildpacks` replace the builder's
    order; `volumes` are seen by buildpacks.

    `run_image` takes the place of the builder's; `created` are seconds since 1970 for all times in the image.
    `tags` are further names of the image; with `publish` all names are brought to their registries.
    `pull` is the policy for builder and run image; `docker_host` the container engine, see `base.engine`.
    `cache_image` names what is kept in a registry.
    `keep_storage` is how many bytes of layers all builds keep, 0 for any, None for `platform.kept_storage`'s
    number. Without `overlay` buildpacks have plain copies of layers and source.
    `sparse` is for outputs that are layouts, see `platform.copies`.
    `report` is the directory for report.toml; `network` is None for the best there is; `sandbox` the name or
    path of an OCI runtime, "" for bubblewrap; `limits` has the numbers that are to be other than
    `platform.limits` has them; `environ` is the user's own environment (proxies, certificates). `builder_id`
    is the image that the builder must be, and `run_reference` what a label identifies the run image by; "" is
    for whatever has the name now.
    """

    name: Reference
    path: Path
    tags: tuple[Reference, ...] = ()
    publish: bool = False
    builder: str = ""
    buildpacks: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[Bind, ...] = ()
    outputs: tuple[Location, ...] = ()
    compression: str = "gzip"
    sparse: bool = False
    pull: PullPolicy = PullPolicy.ALWAYS
    docker_host: str = ""
    default_process: str = ""
    run_image: str = ""
    exec_env: str = "production"
    created: int = EPOCH
    clear_cache: bool = False
    cache_image: Reference | None = None
    overlay: bool = True
    keep_storage: int | None = None
    report: Path | None = None
    network: Network | None = None
    sandbox: str = ""
    limits: Mapping[str, int] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    reach: Reach = field(default_factory=Reach)
    builder_id: str = ""
    run_reference: str = ""
