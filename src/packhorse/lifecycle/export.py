"""③ → ④ Layers and config from what was built (buildpack.md "Phase #4: Export"; platform.md "exporter").

The order of layers, their history and the config are the reference's, so that equal inputs give equal image
IDs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime

from packhorse.base.dataclass import dataclass
from packhorse.base.digest import Digest
from packhorse.base.tree import TreeEdit, TreeView, is_directory, read
from packhorse.errors import ExportError, FormatError, InputError
from packhorse.image.edit import add_layers, edit_config, set_variables
from packhorse.image.model import Config, History
from packhorse.image.place import Place
from packhorse.image.view import Image, Layer
from packhorse.layers.pieces import Pieces
from packhorse.lifecycle import fixed_layers, labels, provenance, sbom
from packhorse.lifecycle.api import EXEC_ENV
from packhorse.lifecycle.inputs import Inputs
from packhorse.lifecycle.launchable import check_layer
from packhorse.lifecycle.layer_files import FoundLayer, find_layers, read_store
from packhorse.lifecycle.ports import AppLayerCache, LayerCache, Observer
from packhorse.lifecycle.stages import Analyzed, Built, Exported, ExportedLayer, Member

LAUNCHER_LIMIT = 64 << 20
"""The largest launcher taken, in bytes."""

LIFECYCLE = "buildpacksio/lifecycle"


@dataclass(frozen=True, slots=True)
class _AddedLayer:
    """A layer that the target has, how the image's history names it, and its row in the closing table."""

    layer: Layer
    created_by: str
    row: ExportedLayer

    @property
    def sha(self) -> str:
        """The diff ID as labels spell it."""
        return str(self.row.diff_id)


def export(
    inputs: Inputs,
    analyzed: Analyzed,
    built: Built,
    *,
    tree: TreeEdit,
    cache: LayerCache,
    target: Place,
    observer: Observer,
    app_cache: AppLayerCache | None = None,
) -> Exported:
    """Writes the image to `target`, then tells `cache` what the next build may restore.

    Raises ExportError where the build left something that cannot be an image; `target` has nothing new then.
    """
    exporter = _Exporter(inputs, analyzed, built, tree, cache, target, observer, app_cache)
    image, added = exporter.make_image()
    target.write_image(image)
    exporter.commit_cache()
    rows = tuple(one.row for one in added)
    return Exported(image, rows, built.processes, inputs.default_process or built.default_process)


class _Exporter:
    def __init__(
        self,
        inputs: Inputs,
        analyzed: Analyzed,
        built: Built,
        tree: TreeEdit,
        cache: LayerCache,
        target: Place,
        observer: Observer,
        app_cache: AppLayerCache | None,
    ) -> None:
        self._inputs = inputs
        self._analyzed = analyzed
        self._built = built
        self._tree = tree
        self._cache = cache
        self._target = target
        self._observer = observer
        self._app_cache = app_cache
        self._previous_diff_ids = (
            {layer.diff_id for layer in analyzed.previous.layers} if analyzed.previous else set()
        )
        self._found: dict[Member, list[FoundLayer]] = {}
        for member in built.group:
            with _error_context(member):
                self._found[member] = find_layers(tree, inputs.layers_directory(member.ref))
        self._captured: dict[str, tuple[Layer, bool]] = {}

    def make_image(self) -> tuple[Image, list[_AddedLayer]]:
        """The image above its base, every layer of which the target has, and the layers it adds."""
        entrypoint = self._entrypoint()
        records: list[labels.BuildpackRecord] = []
        launch: list[_AddedLayer] = []
        for member in self._built.group:
            found = [layer for layer in self._found[member] if layer.toml.types.launch]
            with _error_context(member):
                added = {layer.name: self._add_launch_layer(member, layer) for layer in found}
                launch += added.values()
                records.append(
                    self._make_record(member, found, {name: one.sha for name, one in added.items()})
                )
        with _error_context("the bill of materials"):
            bom = self._add_sbom()
        with _error_context("the application"):
            app = self._add_app()
        launcher = self._add_fixed(
            "launcher", "Buildpacks Application Launcher", fixed_layers.launcher(self._read_launcher())
        )
        with _error_context("what the launcher is to know"):
            config = self._add_fixed(
                "config", "Buildpacks Launcher Config", fixed_layers.config(self._inputs, self._tree)
            )
        processes = self._add_process_types()
        metadata = labels.LayersMetadata(
            app=tuple(one.sha for one in app),
            sbom=bom.sha,
            buildpacks=tuple(records),
            config=config.sha,
            launcher=launcher.sha,
            process_types=processes[0].sha if processes else "",
            run_image=self._run_image_record(),
        )
        added_layers = [*launch, bom, *app, launcher, config, *processes]
        base = [self._target.write_layer(layer) for layer in self._analyzed.run_image.layers]
        layers = (*base, *(one.layer for one in added_layers))
        annotations = tuple(sorted(self._inputs.annotations.items()))
        made = self._make_config(added_layers, metadata, entrypoint)
        return Image(made, layers, annotations=annotations), added_layers

    def commit_cache(self) -> None:
        """Hands every layer with `cache = true` to the cache (P-109, P-110)."""
        kept: dict[str, Digest] = {}
        records = []
        for member, layers in self._found.items():
            with _error_context(member):
                shas = {
                    layer.name: str(sha) for layer in layers if (sha := self._cached_diff_id(member, layer))
                }
                records.append(
                    self._make_record(member, (layer for layer in layers if layer.name in shas), shas)
                )
            kept |= {layer.path: Digest.parse(shas[layer.name]) for layer in layers if layer.name in shas}
        path = f"{self._inputs.layers}/sbom/cache"
        with _error_context("the bill of materials"):
            if is_directory(self._tree, path):
                kept[path] = _diff_id(self._capture(path)[0])
        bom = str(kept[path]) if path in kept else ""
        self._cache.commit(labels.LayersMetadata(sbom=bom, buildpacks=tuple(records)).encode_cache(), kept)

    def _cached_diff_id(self, member: Member, layer: FoundLayer) -> Digest | None:
        """The diff ID of a layer that is to be kept; None for any other."""
        if not layer.toml.types.cache:
            return None
        if layer.path not in self._captured and not is_directory(self._tree, layer.path):
            self._observer.say(f"{member.ref.id}:{layer.name} is to be kept and has no contents")
            return None
        return _diff_id(self._capture(layer.path)[0])

    def _add_launch_layer(self, member: Member, found: FoundLayer) -> _AddedLayer:
        """One layer of a buildpack: from its directory, or from the previous image when there is none (B-088,
        B-089).
        """
        name = f"{member.ref.id}:{found.name}"
        created_by = f"Layer: '{found.name}', Created by buildpack: {member.ref}"
        if is_directory(self._tree, found.path):
            types = [process.type for process in self._built.processes]
            for warning in check_layer(self._inputs, self._tree, found.path, types):
                self._observer.say(warning)
            layer, unchanged = self._capture(found.path)
            why = "unchanged since it was kept" if unchanged else ""
            return self._add(layer, created_by, found.name, member.ref.id, why)
        if found.toml.types.cache:
            raise ExportError(
                f"layer {name} has cache = true and no contents", why="its directory does not exist"
            )
        before = self._analyzed.metadata.buildpack(member.ref.id)
        record = before.layers.get(found.name) if before else None
        previous = self._analyzed.previous
        layers = previous.layers if previous and record else ()
        old = next((layer for layer in layers if record and str(layer.diff_id) == record.sha), None)
        if old is None:
            raise ExportError(
                f"layer {name} has no contents, and there is no previous one to take its place",
                why="the previous image does not have that layer",
            )
        return self._add(old, created_by, found.name, member.ref.id, "taken from the previous image")

    def _capture(self, path: str) -> tuple[Layer, bool]:
        if path not in self._captured:
            try:
                self._captured[path] = self._cache.capture(self._tree, path)
            except FormatError as error:
                raise ExportError(f"{path} cannot be a layer", why=str(error)) from error
        return self._captured[path]

    def _add_sbom(self) -> _AddedLayer:
        sbom.add_launcher_sboms(self._inputs, self._tree)
        return self._add_fixed(
            "launch.sbom", "Software Bill-of-Materials", fixed_layers.sbom(self._inputs, self._tree)
        )

    def _add_app(self) -> list[_AddedLayer]:
        inputs = self._inputs
        globs = [paths or () for paths in self._built.slices]
        terms = repr((inputs.app, inputs.uid, inputs.gid, globs))
        recalled = self._unchanged_slices(terms)
        if recalled:
            added = self._add_slices(recalled, "unchanged since it was exported")
        else:
            with self._open_app(terms) as (view, pieces):
                added = self._add_slices(fixed_layers.slices(inputs, view, globs, pieces))
        if self._app_cache is not None:
            self._app_cache.put(terms, [one.row.diff_id for one in added])
        return added

    def _open_app(self, terms: str) -> AbstractContextManager[tuple[TreeView, Pieces | None]]:
        if self._app_cache is None:
            return nullcontext((self._tree, None))
        return self._app_cache.open(self._tree, None if self._inputs.skip_restore else terms)

    def _add_slices(self, layers: Sequence[Layer], why: str = "") -> list[_AddedLayer]:
        if len(layers) == 1:
            return [self._add(layers[0], "Application Layer", "app", "app", why)]
        return [
            self._add(layer, f"Application Slice: {number}", f"slice {number}", "app", why)
            for number, layer in enumerate(layers, 1)
        ]

    def _unchanged_slices(self, terms: str) -> list[Layer]:
        """The last image's slices, where the application is still what they were made of."""
        if self._app_cache is None or self._inputs.skip_restore or self._analyzed.previous is None:
            return []
        previous = {layer.diff_id: layer for layer in self._analyzed.previous.layers}
        diff_ids = self._app_cache.get(terms)
        if not previous.keys() >= set(diff_ids):
            return []
        return [previous[diff_id] for diff_id in diff_ids]

    def _add_process_types(self) -> list[_AddedLayer]:
        if not self._built.processes:
            return []
        layer = fixed_layers.process_types(self._built.processes)
        return [self._add_fixed("process-types", "Buildpacks Process Types", layer)]

    def _add_fixed(self, name: str, created_by: str, layer: Layer) -> _AddedLayer:
        return self._add(layer, created_by, name, LIFECYCLE)

    def _add(self, layer: Layer, created_by: str, name: str, owner: str, why: str = "") -> _AddedLayer:
        stored = self._target.write_layer(layer)
        diff_id = _diff_id(stored)
        kept = diff_id in self._previous_diff_ids
        row = ExportedLayer(name, owner, diff_id, stored.size, kept, why or ("same content" if kept else ""))
        return _AddedLayer(stored, created_by, row)

    def _read_launcher(self) -> bytes:
        content = read(self._tree, self._inputs.launcher_path, limit=LAUNCHER_LIMIT)
        if content is None:
            raise ExportError(
                "the builder has no launcher", why=f"{self._inputs.launcher_path} does not exist in it"
            )
        return content

    def _make_record(
        self, member: Member, layers: Iterable[FoundLayer], shas: Mapping[str, str]
    ) -> labels.BuildpackRecord:
        records = {
            layer.name: labels.LayerRecord(
                shas[layer.name],
                layer.toml.metadata,
                layer.toml.types.build,
                layer.toml.types.launch,
                layer.toml.types.cache,
            )
            for layer in layers
        }
        store = read_store(self._tree, self._inputs.layers_directory(member.ref))
        return labels.BuildpackRecord(member.ref.id, member.ref.version, records, store)

    def _run_image_record(self) -> labels.RunImageRecord:
        diff_ids = self._analyzed.run_image.config.diff_ids
        name = self._inputs.run_image
        return labels.RunImageRecord(
            str(diff_ids[-1]) if diff_ids else "", self._analyzed.run_reference, name.image, name.mirrors
        )

    def _entrypoint(self) -> str:
        """P-096 to P-099."""
        types = [process.type for process in self._built.processes]
        wanted = self._inputs.default_process
        if wanted and wanted not in types:
            raise ExportError(
                f"there is no process type {wanted!r} to be the default",
                why=f"the buildpacks made {', '.join(types) or 'none'}",
            )
        chosen = wanted or self._built.default_process
        return f"{fixed_layers.PROCESSES}/{chosen}" if chosen else fixed_layers.LAUNCHER

    def _make_config(
        self, added: list[_AddedLayer], metadata: labels.LayersMetadata, entrypoint: str
    ) -> Config:
        inputs, base = self._inputs, self._analyzed.run_image.config
        created = datetime.fromtimestamp(inputs.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        history = [(one.row.diff_id, History(created_by=one.created_by)) for one in added]
        config = add_layers(base, history, created=created, keep_history=True)
        # Of two entries the reference reads the first, which is also the one that is replaced.
        before = next((entry for entry in base.env if entry.startswith("PATH=")), "")
        path = f"{fixed_layers.PROCESSES}:/cnb/lifecycle:{before.removeprefix('PATH=')}"
        variables = {
            "CNB_LAYERS_DIR": inputs.layers,
            "CNB_APP_DIR": inputs.app,
            "CNB_PLATFORM_API": str(inputs.platform_api),
            "CNB_DEPRECATION_MODE": "quiet",
            "PATH": path,
        }
        return edit_config(
            config,
            env=set_variables(base.env, variables),
            labels=dict(base.labels) | self._make_labels(metadata),
            entrypoint=[entrypoint],
            cmd=(),
            working_dir=inputs.app,
        )

    def _make_labels(self, metadata: labels.LayersMetadata) -> dict[str, str]:
        """The specification's labels, then the buildpacks' own: of two with one key the last wins (B-132,
        B-133).
        """
        group = [
            {"id": member.ref.id, "version": member.ref.version, "homepage": member.homepage}
            for member in self._built.group
        ]
        info = provenance.complete(self._inputs.launcher, self._read_launcher())
        launcher = {"version": info.version, "repository": info.repository, "commit": info.commit}
        values = {
            labels.LIFECYCLE: metadata.encode_label(),
            labels.BUILD: labels.build_label(
                group, launcher, self._built.processes, self._built.default_process
            ),
            labels.PROJECT: labels.project_label(self._inputs.project),
        }
        values |= dict(self._built.labels)
        if self._inputs.platform_api.has(EXEC_ENV):
            values[labels.EXEC_ENV] = self._inputs.exec_env
        return values


@contextmanager
def _error_context(what: Member | str) -> Iterator[None]:
    """Says of an error about something in the tree what it belongs to: the tree has seen every buildpack."""
    try:
        yield
    except (FormatError, InputError) as error:
        name = what if isinstance(what, str) else f"what {what.ref} made"
        raise ExportError(f"{name} cannot be exported", why=str(error)) from error


def _diff_id(layer: Layer) -> Digest:
    if layer.diff_id is None:
        raise ExportError("a layer came back without its digest", why="this is a defect of packhorse")
    return layer.diff_id
