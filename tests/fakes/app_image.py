"""App images as a lifecycle would have made them, with all labels, from layers in memory, without a build."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fakes.small_image import stored_image, tar_of
from packhorse.base.digest import Digest
from packhorse.oci.place import Image

LIFECYCLE, BUILD = "io.buildpacks.lifecycle.metadata", "io.buildpacks.build.metadata"
BASE = (tar_of({"etc/os-release": b"ID=debian\n"}), tar_of({"etc/motd": b"hello\n"}))
LAUNCHER, CONFIG = (
    tar_of({"cnb/lifecycle/launcher": b"\x7fELF"}),
    tar_of({"layers/config/metadata.toml": b""}),
)


@dataclass(frozen=True)
class App:
    """What is in an app image: tars of the base, of the buildpacks' layers (`id:name`), of the application's
    slices and of the bills of materials. `changes` go into the two labels, `labels` beside them.
    """

    base: Sequence[bytes] = BASE
    layers: Mapping[str, bytes] = field(default_factory=dict)
    app: Sequence[bytes] = (tar_of({"workspace/server.js": b"serve()\n"}),)
    sbom: bytes = b""
    build: Mapping[str, Any] = field(default_factory=dict)
    lifecycle: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    def image(self) -> Image:
        """The image, its layers gzip as in a registry."""
        tars = [*self.base, *self.layers.values(), *([self.sbom] if self.sbom else []), *self.app]
        tars += [LAUNCHER, CONFIG]
        labels = {
            LIFECYCLE: json.dumps(self._lifecycle() | dict(self.lifecycle)),
            BUILD: json.dumps(self._build() | dict(self.build)),
        }
        config: dict[str, Any] = {
            "env": ["CNB_PLATFORM_API=0.15"],
            "entrypoint": ["/cnb/process/web"],
            "working_dir": "/workspace",
        }
        return stored_image(*tars, labels=labels | dict(self.labels), **(config | dict(self.config)))

    def _lifecycle(self) -> dict[str, Any]:
        buildpacks: dict[str, dict[str, Any]] = {}
        for title, tar in self.layers.items():
            owner, _, name = title.partition(":")
            buildpacks.setdefault(owner, {})[name] = {"sha": _sha(tar), "data": None, "launch": True}
        return {
            "app": [{"sha": _sha(tar)} for tar in self.app],
            "sbom": {"sha": _sha(self.sbom) if self.sbom else ""},
            "buildpacks": [
                {"key": owner, "version": "1.2", "layers": layers} for owner, layers in buildpacks.items()
            ],
            "config": {"sha": _sha(CONFIG)},
            "launcher": {"sha": _sha(LAUNCHER)},
            "process-types": {"sha": ""},
            "runImage": {
                "topLayer": _sha(self.base[-1]),
                "reference": "abc",
                "image": "acme/run",
                "mirrors": ["mirror.example/run"],
            },
        }

    def _build(self) -> dict[str, Any]:
        owners = dict.fromkeys(title.partition(":")[0] for title in self.layers)
        web = {"type": "web", "command": ["node", "server.js"], "args": ["now"], "direct": True}
        task = {"type": "task", "command": ["tidy"], "args": None, "direct": True, "working-dir": "/w"}
        return {
            "buildpacks": [
                {"id": owner, "version": "1.2", "homepage": "https://x.example"} for owner in owners
            ],
            "launcher": {"version": "0.21.0", "source": {"git": {"repository": "r", "commit": "c"}}},
            "processes": [task, web],
            "buildpack-default-process-type": "web",
        }


def _sha(tar: bytes) -> str:
    return str(Digest.of(tar))
