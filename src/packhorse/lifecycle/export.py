"""③ → ④ Makes the app image of the build's files (buildpack.md "Phase #4: Export"; platform.md "exporter").

The order of the layers, their history and the config are those of the reference, so that equal inputs give
equal image IDs. Directories above a layer are not read from a file system. As after a build with the
reference, `/layers` and `/layers/<id>` have mode 0755, the app directory has 0777, and all belong to the CNB
user.

`check_layer` refuses a launch layer with which the launcher cannot start a process, because here its
buildpack is known. The launcher reads the env directories and runs the exec.d programs of all launch layers
first.

`complete` finds the commit of the launcher for the label io.buildpacks.build.metadata (P-191). A builder's
labels have only the version of its lifecycle. The reference's Makefile sets both as linker flags, which Go
keeps in the build information of the program. With -trimpath Go does not keep them. Then the commit is in the
lifecycle's own program alone, as text without a name, where nothing can find it.
"""

from __future__ import annotations

import io
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial

from packhorse.base.dataclass import dataclass, replace
from packhorse.base.digest import Digest
from packhorse.base.tree import Node, NodeKind, TreeEdit, TreeView, is_directory, read
from packhorse.errors import ExportError, FormatError, InputError, TreeError
from packhorse.lifecycle import labels, sbom
from packhorse.lifecycle.buildpacks import FoundLayer, find_layers, read_store
from packhorse.lifecycle.inputs import EPOCH, Inputs, LauncherInfo
from packhorse.lifecycle.ports import AppLayerCache, LayerCache, Observer
from packhorse.lifecycle.stages import Analyzed, Built, Exported, ExportedLayer, Member
from packhorse.oci.mutate import add_layers, edit_config, set_variables
from packhorse.oci.place import Image, Layer, Place
from packhorse.oci.types import Config, History
from packhorse.spec.api import CREATED, HISTORY, LAUNCHER_SBOM, PLATFORM_EXEC_ENV, RUN_IMAGE_NAMES
from packhorse.spec.buildpack_files import Process
from packhorse.tar.slices import Pieces, divide
from packhorse.tar.writer import (
    Found,
    PackedTree,
    Position,
    TarEntry,
    digest,
    directory_entries,
    selected_entries,
    stream,
)

_APPLIED = frozenset({"", "override", "default", "prepend", "append", "delim"})
"""Suffixes of the env files that the launcher reads."""

_LIMIT = 16 << 20
"""The largest env file that the launcher reads, in bytes."""


def check_layer(inputs: Inputs, tree: TreeView, layer: str, types: Sequence[str]) -> Sequence[str]:
    """Checks that the launcher can start processes with the launch layer at the path `layer`.

    Raises InputError with all issues, for all processes or for those of `types`. Returns warnings: with a
    file `env`, `env.launch` or `exec.d` the launcher cannot start a process either. But the reference exports
    it, and it may be data of an image that nobody starts.
    """
    issues = [
        *_issues(inputs, tree, f"{layer}/env", ()),
        *_issues(inputs, tree, f"{layer}/env.launch", types),
        *_issues(inputs, tree, f"{layer}/exec.d", types, programs=True),
    ]
    if issues:
        raise InputError(f"an image with {layer} could not start", issues=issues)
    paths = (f"{layer}/{name}" for name in ("env", "env.launch", "exec.d"))
    return [
        f"{path} is not a directory, so the launcher cannot start the image"
        for path in paths
        if (node := _follow(tree, path)) is not None and node.kind is not NodeKind.DIRECTORY
    ]


def _issues(
    inputs: Inputs, tree: TreeView, directory: str, types: Sequence[str], *, programs: bool = False
) -> Iterator[str]:
    """Yields the issues of a directory, and of those for the process `types` below it. All may be missing."""
    top = _follow(tree, directory)
    if top is None:
        return
    if top.kind is not NodeKind.DIRECTORY:
        return
    for node in tree.list(directory):
        path = f"{directory}/{node.name}"
        is_link = node.kind is NodeKind.LINK
        found = _follow(tree, path) if is_link else node
        if found is None:
            if is_link and _is_ours(inputs, tree, path):
                yield f"{path} is a link that leads nowhere"
        elif programs:
            yield from _program_issues(path, found, is_link=is_link)
        else:
            yield from _variable_issues(tree, path, found)
    for kind in types:
        path = f"{directory}/{kind}"
        found = _follow(tree, path)
        if found is not None and found.kind is not NodeKind.DIRECTORY:
            yield f"{path} is not a directory, as that of a process is"
        yield from _issues(inputs, tree, path, (), programs=programs)


def _variable_issues(tree: TreeView, path: str, node: Node) -> Iterator[str]:
    suffix = posixpath.basename(path).partition(".")[2]
    if node.kind is NodeKind.DIRECTORY:
        return
    if node.kind is not NodeKind.FILE:
        yield f"{path} is not a file"
    elif node.size > _LIMIT:
        yield f"{path} is larger than {_LIMIT} bytes"
    elif suffix in _APPLIED and b"\0" in (read(tree, path, limit=_LIMIT) or b""):
        yield f"{path} has a NUL byte, which no variable can have"


def _program_issues(path: str, node: Node, *, is_link: bool) -> Iterator[str]:
    if node.kind is NodeKind.DIRECTORY and not is_link:
        return
    if node.kind is not NodeKind.FILE or not node.mode & 0o111:
        yield f"{path} is not an executable file"


def _follow(tree: TreeView, path: str) -> Node | None:
    """Returns the entry at the end of a path. None if it is missing, or cannot be known here."""
    try:
        return tree.stat(path, follow=True)
    except TreeError:
        return None


def _is_ours(inputs: Inputs, tree: TreeView, path: str) -> bool:
    """Whether a link leads to files of the build, which the image has too.

    Elsewhere the run image has other files than the builder.
    """
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), tree.readlink(path)))
    return any(target.startswith(f"{directory}/") for directory in (inputs.layers, inputs.app))


LAUNCHER = "/cnb/lifecycle/launcher"
PROCESSES = "/cnb/process"


def sbom_layer(inputs: Inputs, view: TreeView) -> Layer:
    """Returns the layer of `<layers>/sbom/launch` (P-089)."""
    return directory_layer(inputs, view, f"{inputs.layers}/sbom/launch")


def config_layer(inputs: Inputs, view: TreeView) -> Layer:
    """Returns the layer of `<layers>/config`, with metadata.toml (P-095)."""
    return directory_layer(inputs, view, f"{inputs.layers}/config")


def launcher_layer(content: bytes) -> Layer:
    """Returns the layer of the launcher. It belongs to root (P-093).

    The layer has its diff ID, so that no build stores it again.
    """
    file = TarEntry.file(LAUNCHER, len(content), lambda: io.BytesIO(content))
    layer = _packed_layer(lambda: [TarEntry.directory("/cnb"), TarEntry.directory("/cnb/lifecycle"), file])
    diff_id, size = digest(layer.tar())
    return replace(layer, diff_id=diff_id, size=size)


def process_types_layer(processes: Sequence[Process]) -> Layer:
    """Returns the layer with a link to the launcher for each process type (P-094)."""
    links = [TarEntry.symlink(f"{PROCESSES}/{process.type}", LAUNCHER) for process in processes]
    return _packed_layer(lambda: [TarEntry.directory("/cnb"), TarEntry.directory(PROCESSES), *links])


def slice_layers(
    inputs: Inputs, view: TreeView, globs: Sequence[Sequence[str]], pieces: Pieces | None = None
) -> list[Layer]:
    """Returns the app's layers: one for each slice, and one for the rest (P-092, B-086).

    `pieces` are parts of the last build's tars that are used again.
    """

    node = view.stat(inputs.app, follow=True) if inputs.has_real_parents else None
    mode = 0o777 if node is None else node.mode
    above = list(_parent_entries(inputs, view, inputs.app)) if inputs.has_real_parents else []
    above.append(TarEntry.directory(inputs.app, mode=mode, uid=inputs.uid, gid=inputs.gid))

    def entries(found: Iterable[Found | PackedTree]) -> Iterator[TarEntry | PackedTree]:
        parents = above if any(path == "" for path, _ in found) else []
        return selected_entries(view, inputs.app, found, uid=inputs.uid, gid=inputs.gid, parents=parents)

    divided = divide(view, inputs.app, globs, pieces)
    return [_packed_layer(partial(entries, part.entries), part.position) for part in divided]


def directory_layer(inputs: Inputs, view: TreeView, path: str) -> Layer:
    """Returns the layer of a directory, whose files belong to the CNB user. Its diff ID is not known yet."""
    parents = list(_parent_entries(inputs, view, path))
    return _packed_layer(
        partial(directory_entries, view, path, uid=inputs.uid, gid=inputs.gid, parents=parents)
    )


def _parent_entries(inputs: Inputs, view: TreeView, path: str) -> Iterator[TarEntry]:
    """Yields an entry for each directory above `path`, the top one first."""
    for parent in _parents(path):
        node = view.stat(parent, follow=True) if inputs.has_real_parents else None
        if node is None:
            yield TarEntry.directory(parent, uid=inputs.uid, gid=inputs.gid)
        else:
            yield TarEntry.directory(parent, mode=node.mode, uid=node.uid, gid=node.gid)


def _parents(path: str) -> Iterator[str]:
    parts = path.split("/")[1:]
    for count in range(1, len(parts)):
        yield "/" + "/".join(parts[:count])


def _packed_layer(
    entries: Callable[[], Iterable[TarEntry | PackedTree]], position: Position | None = None
) -> Layer:
    return Layer(tar=lambda: stream(entries(), position))


_FLAG = re.compile(
    rb"-X[ =]'?github\.com/buildpacks/lifecycle/cmd\.(Version|SCMRepository|SCMCommit)="
    rb"([!#-&(-\[\]-~]{1,200})"  # up to a space, a quote or a backslash
)
_NO_FLAGS = (b"path\tgithub.com/buildpacks/lifecycle/cmd/launcher\n", b"build\t-trimpath=true\n")
"""Lines in the build information of a launcher of the reference whose linker flags are not in it."""

_FIELDS = {b"Version": "version", b"SCMRepository": "repository", b"SCMCommit": "commit"}


def complete(known: LauncherInfo, launcher: bytes) -> LauncherInfo:
    """Returns `known`, its empty fields filled from the build information of the Go program `launcher`."""
    said = {_FIELDS[match[1]]: match[2].decode("ascii") for match in _FLAG.finditer(launcher)}
    missing = {field: value for field, value in said.items() if not getattr(known, field)}
    return replace(known, **missing)


LAUNCHER_LIMIT = 64 << 20
"""The largest size of a launcher, in bytes."""

LIFECYCLE = "buildpacksio/lifecycle"


@dataclass(frozen=True, slots=True)
class _AddedLayer:
    """A layer in the target, its name in the image's history, and its row in the final table."""

    layer: Layer
    created_by: str
    row: ExportedLayer

    @property
    def sha(self) -> str:
        """The diff ID as text, for labels."""
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
    """Writes the image to `target`, then gives `cache` the layers that the next build may restore.

    Raises ExportError if files of the build cannot be in an image. Then `target` has no new image.
    """
    exporter = _Exporter(inputs, analyzed, built, tree, cache, target, observer, app_cache)
    image, added = exporter.make_image()
    receipt = target.write_image(image)
    exporter.commit_cache()
    rows = tuple(one.row for one in added)
    default = inputs.default_process or built.default_process
    return Exported(image, rows, built.processes, default, built.build_bom, receipt)


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
        """Writes all layers to the target. Returns the image, and the layers above its base."""
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
            boms = self._add_sbom()
        with _error_context("the application"):
            app = self._add_app()
        launcher = self._add_fixed(
            "launcher", "Buildpacks Application Launcher", launcher_layer(self._read_launcher())
        )
        with _error_context("what the launcher is to know"):
            config = self._add_fixed(
                "config", "Buildpacks Launcher Config", config_layer(self._inputs, self._tree)
            )
        processes = self._add_process_types()
        metadata = labels.LayersMetadata(
            app=tuple(one.sha for one in app),
            sbom=boms[0].sha if boms else "",
            buildpacks=tuple(records),
            config=config.sha,
            launcher=launcher.sha,
            process_types=processes[0].sha if processes else "",
            run_image=self._run_image_record(),
        )
        added_layers = [*launch, *boms, *app, launcher, config, *processes]
        base = [self._target.write_layer(layer) for layer in self._analyzed.run_image.layers]
        layers = (*base, *(one.layer for one in added_layers))
        annotations = tuple(sorted(self._inputs.annotations.items()))
        made = self._make_config(added_layers, metadata, entrypoint)
        return Image(made, layers, annotations=annotations), added_layers

    def commit_cache(self) -> None:
        """Gives each layer with `cache = true` to the cache (P-109, P-110)."""
        kept: dict[str, Digest] = {}
        records = []
        for member, layers in self._found.items():
            with _error_context(member):
                shas = {
                    layer.name: str(sha) for layer in layers if (sha := self._cached_diff_id(member, layer))
                }
                cached = self._layer_records((layer for layer in layers if layer.name in shas), shas)
                # Without store.toml: the image's label has it, and a restore takes it from there (P-115).
                records.append(labels.BuildpackRecord(member.ref.id, member.ref.version, cached))
            kept |= {layer.path: Digest.parse(shas[layer.name]) for layer in layers if layer.name in shas}
        path = f"{self._inputs.layers}/sbom/cache"
        with _error_context("the bill of materials"):
            if is_directory(self._tree, path):
                kept[path] = _diff_id(self._capture(path)[0])
        bom = str(kept[path]) if path in kept else ""
        self._cache.commit(labels.LayersMetadata(sbom=bom, buildpacks=tuple(records)).encode_cache(), kept)

    def _cached_diff_id(self, member: Member, layer: FoundLayer) -> Digest | None:
        """Returns the diff ID of a layer that the cache keeps, None for another layer."""
        if not layer.toml.types.cache:
            return None
        if layer.path not in self._captured and not is_directory(self._tree, layer.path):
            self._observer.say(f"{member.ref.id}:{layer.name} is to be kept and has no contents")
            return None
        return _diff_id(self._capture(layer.path)[0])

    def _add_launch_layer(self, member: Member, found: FoundLayer) -> _AddedLayer:
        """Adds a launch layer: its directory, or else the previous image's layer (B-088, B-089)."""
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
                f"layer {found.name} of {member.ref} has no contents, and no previous one takes its place",
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

    def _add_sbom(self) -> list[_AddedLayer]:
        """Adds the layer of SBOM files. With older Platform APIs it may be missing."""
        inputs, tree = self._inputs, self._tree
        if inputs.platform_api.has(LAUNCHER_SBOM):
            sbom.add_launcher_sboms(inputs, tree)
        if tree.stat(f"{inputs.layers}/sbom/launch") is None:
            return []
        return [self._add_fixed("launch.sbom", "Software Bill-of-Materials", sbom_layer(inputs, tree))]

    def _add_app(self) -> list[_AddedLayer]:
        inputs = self._inputs
        globs = [paths or () for paths in self._built.slices]
        terms = repr((inputs.app, inputs.uid, inputs.gid, globs))
        recalled = self._unchanged_slices(terms)
        if recalled:
            added = self._add_slices(recalled, "unchanged since it was exported")
        else:
            with self._open_app(terms) as (view, pieces):
                added = self._add_slices(slice_layers(inputs, view, globs, pieces))
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
        """Returns the slices of the last image if the application has not changed since."""
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
        layer = process_types_layer(self._built.processes)
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
                "the builder has no launcher",
                why=f"{self._inputs.launcher_path} does not exist in it",
                fix="use packhorse's own: --launcher own",
            )
        return content

    def _make_record(
        self, member: Member, layers: Iterable[FoundLayer], shas: Mapping[str, str]
    ) -> labels.BuildpackRecord:
        store = read_store(self._tree, self._inputs.layers_directory(member.ref))
        records = self._layer_records(layers, shas)
        return labels.BuildpackRecord(member.ref.id, member.ref.version, records, store)

    @staticmethod
    def _layer_records(
        layers: Iterable[FoundLayer], shas: Mapping[str, str]
    ) -> dict[str, labels.LayerRecord]:
        return {
            layer.name: labels.LayerRecord(
                shas[layer.name],
                layer.toml.metadata,
                layer.toml.types.build,
                layer.toml.types.launch,
                layer.toml.types.cache,
            )
            for layer in layers
        }

    def _run_image_record(self) -> labels.RunImageRecord:
        diff_ids = self._analyzed.run_image.config.diff_ids
        name = self._inputs.run_image
        return labels.RunImageRecord(
            str(diff_ids[-1]) if diff_ids else "", self._analyzed.run_reference, name.image, name.mirrors
        )

    def _entrypoint(self) -> str:
        """Returns the entrypoint (P-096 to P-099)."""
        types = [process.type for process in self._built.processes]
        wanted = self._inputs.default_process
        if wanted and wanted not in types:
            raise ExportError(
                f"there is no process type {wanted!r} to be the default",
                why=f"the buildpacks made {', '.join(types) or 'none'}",
            )
        chosen = wanted or self._built.default_process
        return f"{PROCESSES}/{chosen}" if chosen else LAUNCHER

    def _make_config(
        self, added: list[_AddedLayer], metadata: labels.LayersMetadata, entrypoint: str
    ) -> Config:
        inputs, base = self._inputs, self._analyzed.run_image.config
        seconds = inputs.created
        if seconds != EPOCH and not inputs.platform_api.has(CREATED):
            self._observer.say("the builder's Platform API is older than SOURCE_DATE_EPOCH, which is ignored")
            seconds = EPOCH
        created = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        history = [(one.row.diff_id, History(created_by=one.created_by)) for one in added]
        config = add_layers(base, history, created=created, keep_history=inputs.platform_api.has(HISTORY))
        # Of two entries, the reference reads and replaces the first.
        before = next((entry for entry in base.env if entry.startswith("PATH=")), "")
        path = f"{PROCESSES}:/cnb/lifecycle:{before.removeprefix('PATH=')}"
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
        """Returns the specification's labels, then those of buildpacks and the user's.

        Of two labels with one key, the last stays (B-132, B-133).
        """
        group = [
            {"id": member.ref.id, "version": member.ref.version, "homepage": member.homepage}
            for member in self._built.group
        ]
        program = self._read_launcher()
        info = complete(self._inputs.launcher, program)
        if not info.commit and all(line in program for line in _NO_FLAGS):
            self._observer.say(
                f"{self._inputs.launcher_path} was built with -trimpath and does not tell its commit: label "
                f"{labels.BUILD} is without it, so the builder's own lifecycle makes an image with another ID"
            )
        launcher = {"version": info.version, "repository": info.repository, "commit": info.commit}
        api, built = self._inputs.platform_api, self._built
        values = {
            labels.LIFECYCLE: metadata.encode_label(has_run_image_names=api.has(RUN_IMAGE_NAMES)),
            labels.BUILD: labels.build_label(
                group, launcher, built.processes, built.default_process, api=api, bom=built.bom
            ),
            labels.PROJECT: labels.project_label(self._inputs.project),
        }
        values |= {**dict(self._built.labels), **self._inputs.labels}
        if api.has(PLATFORM_EXEC_ENV):
            values[labels.EXEC_ENV] = self._inputs.exec_env
        return values


@contextmanager
def _error_context(what: Member | str) -> Iterator[None]:
    """Adds to an error about a file of the tree to which buildpack or part the file belongs."""
    try:
        yield
    except (FormatError, InputError) as error:
        name = what if isinstance(what, str) else f"what {what.ref} made"
        raise ExportError(f"{name} cannot be exported", why=str(error)) from error


def _diff_id(layer: Layer) -> Digest:
    if layer.diff_id is None:
        raise ExportError("a layer came back without its digest", why="this is a defect of packhorse")
    return layer.diff_id
