"""Reads and writes how an image was built, as an annotation of its manifest: builder, options, variables.

The image ID does not depend on annotations, so two builders can make an image with the same ID. The
annotation has the names of variables, not their values. `build.plan` makes it; `build.verify` and
`report.inspect` read it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self

from packhorse.base.dataclass import dataclass, field
from packhorse.base.go_toml import END
from packhorse.errors import FormatError
from packhorse.lifecycle.inputs import EPOCH
from packhorse.oci.place import Image
from packhorse.oci.types import JsonNode

KEY = "io.packhorse.build"
"""The annotation's name; its value is a JSON object."""

_PRODUCTION = "production"
_WORKSPACE = "/workspace"


@dataclass(frozen=True, slots=True)
class BuildProvenance:
    """The builder and options of a build.

    `env` has the names of variables, and `volumes` their paths in the sandbox. `buildpacks` are those that
    the user named instead of the builder's order, `pre_buildpacks` and `post_buildpacks` those around its
    groups. Each is `id@version`, a locator with the digest of an image, or "from=builder" for the builder's
    order. `directories` are those of them, by `id@version`, that only the machine of the build has. `labels`
    are those that the user set. `launcher` is "own" for packhorse's launcher, "" for the builder's.
    `descriptor` is the name of the file that the build read instead of project.toml. `created`
    is in seconds since the epoch.
    """

    builder: str
    builder_id: str
    version: str = ""
    buildpacks: tuple[str, ...] = ()
    pre_buildpacks: tuple[str, ...] = ()
    post_buildpacks: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    default_process: str = ""
    run_image: str = ""
    launcher: str = ""
    descriptor: str = ""
    exec_env: str = _PRODUCTION
    workspace: str = _WORKSPACE
    system_buildpacks: bool = True
    uid: int | None = None
    gid: int | None = None
    created: int = EPOCH
    network: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, image: Image) -> Self | None:
        """Reads an image's annotation; returns None if it has none. Raises FormatError if it is not valid."""
        text = dict(image.annotations).get(KEY)
        if text is None:
            return None
        node = JsonNode.parse(text.encode(), f"the annotation {KEY}")
        builder = node.node("builder")
        if builder is None or not builder.text("image"):
            raise FormatError(f"the annotation {KEY} cannot be used", why="it names no builder")
        if not 0 <= node.number("created") < END:
            node.fail("created", "it is not a time from 1970 to 9999")
        if "/" in node.text("exec-env"):
            node.fail("exec-env", "the name of an execution environment has no slash")
        return cls(
            builder=builder.text("image"),
            builder_id=str(builder.digest("id")),
            version=node.text("packhorse"),
            buildpacks=node.texts("buildpacks"),
            pre_buildpacks=node.texts("pre-buildpacks"),
            post_buildpacks=node.texts("post-buildpacks"),
            directories=node.texts("directories"),
            env=node.texts("env"),
            volumes=node.texts("volumes"),
            default_process=node.text("default-process"),
            run_image=node.text("run-image"),
            launcher=node.text("launcher"),
            descriptor=node.text("descriptor"),
            exec_env=node.text("exec-env") or _PRODUCTION,
            workspace=node.text("workspace") or _WORKSPACE,
            system_buildpacks=not node.flag("no-system-buildpacks"),
            uid=node.number("uid") if "uid" in node.fields else None,
            gid=node.number("gid") if "gid" in node.fields else None,
            created=node.number("created") if "created" in node.fields else EPOCH,
            network=node.text("network"),
            labels=_read_labels(node),
        )

    def annotations(self) -> dict[str, str]:
        """Returns the annotation by its name. The same build gives the same value."""
        return {KEY: json.dumps(self.fields(), sort_keys=True, separators=(",", ":"))}

    def fields(self) -> dict[str, Any]:
        """Returns the JSON object, without default values."""
        fields: dict[str, Any] = {
            "builder": {"id": self.builder_id, "image": self.builder},
            "buildpacks": list(self.buildpacks),
            "default-process": self.default_process,
            "descriptor": self.descriptor,
            "directories": list(self.directories),
            "env": list(self.env),
            "exec-env": self.exec_env if self.exec_env != _PRODUCTION else "",
            "labels": dict(self.labels),
            "launcher": self.launcher,
            "network": self.network,
            "no-system-buildpacks": not self.system_buildpacks,
            "packhorse": self.version,
            "post-buildpacks": list(self.post_buildpacks),
            "pre-buildpacks": list(self.pre_buildpacks),
            "run-image": self.run_image,
            "volumes": list(self.volumes),
            "workspace": self.workspace if self.workspace != _WORKSPACE else "",
        }
        kept = {key: value for key, value in fields.items() if value}
        kept |= {key: value for key, value in (("uid", self.uid), ("gid", self.gid)) if value is not None}
        if self.created != EPOCH:
            kept["created"] = self.created
        return kept


def _read_labels(node: JsonNode) -> dict[str, str]:
    labels = node.node("labels")
    return {name: labels.text(name) for name in labels.fields} if labels else {}
