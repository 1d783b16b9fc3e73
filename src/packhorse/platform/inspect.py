"""The use case behind `packhorse inspect`: an app image's labels as something to read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from packhorse.errors import FormatError
from packhorse.image.view import Image
from packhorse.lifecycle import labels


@dataclass(frozen=True, slots=True)
class Report:
    """What an image says of itself; `build` is io.buildpacks.build.metadata, empty for an image of another
    origin.
    """

    image: Image
    metadata: labels.LayersMetadata
    build: dict[str, Any]

    def fields(self) -> dict[str, object]:
        """For programs."""
        config, run = self.image.config, self.metadata.run_image
        return {
            "id": str(self.image.id),
            "target": str(config.target),
            "created": config.created,
            "user": config.user,
            "entrypoint": list(config.entrypoint),
            "cmd": list(config.cmd),
            "working_dir": config.working_dir,
            "env": list(config.env),
            "buildpacks": self.build.get("buildpacks") or [],
            "processes": self.build.get("processes") or [],
            "default_process": self.build.get("buildpack-default-process-type", ""),
            "run_image": {
                "name": run.image,
                "reference": run.reference,
                "top_layer": run.top_layer,
                "mirrors": list(run.mirrors),
            },
            "rebasable": config.labels.get("io.buildpacks.rebasable", "true") == "true",
            "layers": [str(layer.diff_id) for layer in self.image.layers],
            "labels": dict(config.labels),
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        config, run = self.image.config, self.metadata.run_image
        yield f"image       {self.image.id}"
        yield f"target      {config.target}"
        if not self.build:
            yield "buildpacks  none: it was not built by buildpacks"
        if run.image or run.reference:
            yield f"run image   {run.image or '(unnamed)'}  {run.reference}"
        for buildpack in self.build.get("buildpacks") or []:
            yield f"buildpack   {buildpack.get('id')}@{buildpack.get('version')}"
        default = self.build.get("buildpack-default-process-type")
        for process in self.build.get("processes") or []:
            mark = "  (default)" if process.get("type") == default else ""
            command = " ".join(
                str(word) for word in [*(process.get("command") or []), *(process.get("args") or [])]
            )
            yield f"process     {process.get('type')}{mark}: {command}"
        yield f"entrypoint  {' '.join((*config.entrypoint, *config.cmd)) or '(none)'}"
        yield f"user        {config.user or 'root'}"
        for layer, owner in zip(self.image.layers, self._owners(), strict=True):
            yield f"layer       {str(layer.diff_id)[:19]}  {owner}"

    def _owners(self) -> list[str]:
        """Who made each layer: its history entry, where there is one a layer."""
        history = [entry for entry in self.image.config.history if not entry.empty_layer]
        if len(history) != len(self.image.layers):
            return [""] * len(self.image.layers)
        return [entry.created_by for entry in history]


def inspect(image: Image) -> Report:
    """Reads the labels; raises FormatError for one that is not what it should be."""
    values = image.config.labels
    try:
        build = json.loads(values.get(labels.BUILD) or "{}")
    except ValueError as error:
        raise FormatError(f"the label {labels.BUILD} is not JSON", why=str(error)) from error
    if not isinstance(build, dict):
        raise FormatError(f"the label {labels.BUILD} is not an object")
    return Report(image, labels.LayersMetadata.parse(values.get(labels.LIFECYCLE, "")), build)
