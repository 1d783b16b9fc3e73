"""The use case behind `packhorse inspect`: an app image's labels as something to read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from packhorse.image.view import Image
from packhorse.image.wire import Node
from packhorse.lifecycle import labels

_DEFAULT = "buildpack-default-process-type"


@dataclass(frozen=True, slots=True)
class Report:
    """What an image says of itself; `build` is io.buildpacks.build.metadata, empty for an image of another
    origin.
    """

    image: Image
    metadata: labels.LayersMetadata
    build: Node

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
            "buildpacks": [node.fields for node in self.build.nodes("buildpacks")],
            "processes": [node.fields for node in self.build.nodes("processes")],
            "default_process": self.build.text(_DEFAULT),
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
        if not self.build.fields:
            yield "buildpacks  none: it was not built by buildpacks"
        if run.image or run.reference:
            yield f"run image   {run.image or '(unnamed)'}  {run.reference}"
        for buildpack in self.build.nodes("buildpacks"):
            yield f"buildpack   {buildpack.text('id')}@{buildpack.text('version')}"
        for process in self.build.nodes("processes"):
            mark = "  (default)" if process.text("type") == self.build.text(_DEFAULT) else ""
            command = " ".join((*_words(process, "command"), *process.texts("args")))
            yield f"process     {process.text('type')}{mark}: {command}"
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
    build = Node.parse((values.get(labels.BUILD) or "{}").encode(), labels.BUILD)
    report = Report(image, labels.LayersMetadata.parse(values.get(labels.LIFECYCLE, "")), build)
    for _ in report.lines():
        pass  # what is wrong is told before anything is printed
    return report


def _words(process: Node, key: str) -> tuple[str, ...]:
    """A command: one text in images of before Platform API 0.10, a list since."""
    return (process.text(key),) if isinstance(process.fields.get(key), str) else process.texts(key)
