"""② → ③ Runs bin/build of each buildpack in the group, and collects the results (buildpack.md "Phase #3:
Build").

`CrossDeviceDetector` recognizes a program that fails because of an overlay. On an overlay, rename(2) fails
with EXDEV for a directory that a cached layer or the source already had. Most programs then copy. A program
that fails instead prints the error of the system, and `build.execute` builds again with copies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from packhorse.base.dataclass import dataclass
from packhorse.base.sandbox import Command, Result, Sandbox
from packhorse.base.target import Target
from packhorse.base.tree import TreeEdit, is_directory, read
from packhorse.errors import BuildError, BuildpackFailed, FormatError, InputError, RunError
from packhorse.lifecycle import sbom
from packhorse.lifecycle.buildpacks import (
    EnvDirectories,
    complete_target,
    find_layers,
    for_buildpack,
    read_store,
    with_layer,
)
from packhorse.lifecycle.inputs import Inputs
from packhorse.lifecycle.labels import Bom
from packhorse.lifecycle.ports import ALLOW, Observer, Runner
from packhorse.lifecycle.stages import Built, Detected, Member, Restored, metadata_toml
from packhorse.spec.api import LEGACY_BOM_FILE, PLATFORM_COMMAND_LIST
from packhorse.spec.buildpack_files import BuildpackPlan, BuildToml, LaunchToml, Process, Require
from packhorse.spec.buildpack_toml import Descriptor
from packhorse.spec.resolve import PlanEntry
from packhorse.tar.slices import check_globs

_WORDS = re.compile(
    rb"cross-device link"  # the C library, and with it Go, Python, Rust, Ruby, Java, npm
    rb"|\bEXDEV\b"  # Node.js, and what prints the name of an error
    rb"|crosses devices",  # Rust's own name of the kind
    re.IGNORECASE,
)
_LONGEST = 32


class CrossDeviceDetector:
    """Looks for the system's error message in a program's output, which arrives in pieces."""

    def __init__(self) -> None:
        self.found = False
        self._tail = b""

    def feed(self, data: bytes) -> None:
        """Reads the next piece."""
        heard = self._tail + data
        self.found = self.found or _WORDS.search(heard) is not None
        self._tail = heard[-_LONGEST:]


_SIGNALS = 64


@dataclass(frozen=True, slots=True)
class _Progress:
    """The results of the buildpacks so far: the environment for the next one, and the rest of the plan."""

    env: Mapping[str, str]
    plan: tuple[PlanEntry, ...]
    launches: tuple[LaunchToml, ...] = ()
    launch_bom: Bom = ()
    build_bom: Bom = ()


def build(
    inputs: Inputs,
    base: Target,
    detected: Detected,
    restored: Restored,
    *,
    runner: Runner,
    sandbox: Sandbox,
    observer: Observer,
) -> Built:
    """Runs the group in its order. A buildpack sees the layers of those before it, and its `restored` ones.

    `base` is the run image's target.
    Raises BuildpackFailed if a bin/build ends with another status than 0, BuildError if its files break the
    specification, and ExportError if that is so of the types of its processes alone.
    """
    progress = _Progress(inputs.env, detected.plan)
    with runner.builder_files() as tree:
        target = complete_target(inputs, base, tree)
        directories = EnvDirectories(tree)
        for member in detected.group:
            observer.detail(
                f"{member.ref} finds {_count(restored, inputs.layers_directory(member.ref))} kept layers"
            )
            turn = _BuildpackRun(inputs, target, member, restored, directories, sandbox, observer)
            progress = turn.run(progress)
    processes, default = _merge_processes(progress.launches, observer)
    api = inputs.platform_api
    if not api.has(PLATFORM_COMMAND_LIST):
        processes = tuple(process.with_one_word() for process in processes)
    built = Built(
        group=detected.group,
        processes=processes,
        default_process=default,
        labels=tuple(label for launch in progress.launches for label in launch.labels),
        slices=tuple(paths for launch in progress.launches for paths in launch.slices),
        bom=() if api.has(LEGACY_BOM_FILE) else progress.launch_bom,
        build_bom=() if api.has(LEGACY_BOM_FILE) else progress.build_bom,
    )
    tree = runner.result_tree()
    try:
        boms = {"launch": progress.launch_bom, "build": progress.build_bom}
        sbom.collect(inputs, detected.group, tree, **boms)
        # No buildpack may be called config, so any file there is in the way (B-143).
        tree.remove(f"{inputs.layers}/config")
        tree.write(f"{inputs.layers}/config/metadata.toml", metadata_toml(built, api))
    except FormatError as error:
        raise BuildError("what the buildpacks made cannot be collected", why=str(error)) from error
    return built


@dataclass(frozen=True, slots=True)
class _BuildpackRun:
    """Runs one buildpack's bin/build: makes its directories, runs it, and reads its files."""

    inputs: Inputs
    target: Target
    member: Member
    restored: Restored
    directories: EnvDirectories
    sandbox: Sandbox
    observer: Observer

    @property
    def _plan(self) -> str:
        return f"{self.inputs.temporary}/cnb-buildpack-plan.toml"

    def run(self, progress: _Progress) -> _Progress:
        """Runs it, and adds its results to the progress."""
        ref, inputs = self.member.ref, self.inputs
        layers = inputs.layers_directory(ref)
        descriptor = self.member.descriptor
        phase = {"CNB_BP_PLAN_PATH": self._plan, "CNB_LAYERS_DIR": layers}
        env = for_buildpack(
            inputs, self.directories, descriptor, env=progress.env, target=self.target, phase=phase
        )
        argv = (f"{inputs.buildpack_directory(ref)}/bin/build", layers, inputs.platform, self._plan)
        asked = tuple(require for entry in self._own_entries(progress.plan) for require in entry.requires)
        tree = self.sandbox.tree
        self._prepare(tree, layers, asked)
        crossing = CrossDeviceDetector()

        def take(data: bytes) -> None:
            crossing.feed(data)
            self.observer.output(ref.id, data)

        try:
            with self.observer.activity(str(ref)):
                result = self.sandbox.run(take, Command(argv, env, inputs.app))
        except RunError as error:
            raise BuildpackFailed(f"{ref} cannot be run", why=f"{error.what}: {error.why}") from error
        if result.status != 0:
            raise self._failure(result, crossed_device=crossing.found)
        try:
            return self._collect(tree, descriptor, layers, progress)
        except (InputError, FormatError) as error:
            raise BuildError(f"{ref} made something that cannot be used", why=str(error)) from error

    def _prepare(self, tree: TreeEdit, layers: str, asked: tuple[Require, ...]) -> None:
        """Makes the layers directory and the plan. Removes what another buildpack left there."""
        try:
            tree.mkdir(layers)
            tree.remove(self._plan)
            tree.write(self._plan, BuildpackPlan(asked).dump())
        except FormatError as error:
            raise BuildError(f"nothing can be made ready for {self.member.ref}", why=str(error)) from error

    def _own_entries(self, plan: Sequence[PlanEntry]) -> list[PlanEntry]:
        """The plan entries that this buildpack provides (B-062)."""
        return [
            entry for entry in plan if any(provider.id == self.member.ref.id for provider in entry.providers)
        ]

    def _collect(self, tree: TreeEdit, descriptor: Descriptor, layers: str, progress: _Progress) -> _Progress:
        warn = self.observer.say
        found = find_layers(tree, layers, warn=warn)
        for layer in found:
            if not layer.toml.types and is_directory(tree, layer.path):
                self._set_aside(tree, layer.path)
        env = dict(progress.env)
        for layer in found:
            if layer.toml.types.build:
                env = with_layer(tree, env, layer.path)
        sbom.check(descriptor, layers, tree)
        read_store(
            tree, layers, warn=warn
        )  # export needs it; a broken one is told here, while its buildpack is known
        launch = LaunchToml.parse(
            read(tree, f"{layers}/launch.toml") or b"",
            f"{layers}/launch.toml",
            api=descriptor.api,
            owner=self.member.ref,
            check_paths=check_globs,
            warn=warn,
        )
        path = f"{layers}/build.toml"
        build = BuildToml.parse(read(tree, path) or b"", path, warn=warn)
        ref = self.member.ref
        return _Progress(
            env=env,
            plan=self._remaining_plan(progress.plan, set(build.unmet)),
            launches=(*progress.launches, launch),
            launch_bom=(*progress.launch_bom, *((ref, entry) for entry in launch.bom)),
            build_bom=(*progress.build_bom, *((ref, entry) for entry in build.bom)),
        )

    def _remaining_plan(self, plan: tuple[PlanEntry, ...], unmet: set[str]) -> tuple[PlanEntry, ...]:
        """The plan entries that later buildpacks have to meet (B-070, B-072, B-073)."""
        mine = {entry.name for entry in self._own_entries(plan)}
        if stray := sorted(unmet - mine):
            raise BuildError(
                f"{self.member.ref} calls unmet what it was not asked for: {', '.join(stray)}",
                why=f"the entries of its plan are {', '.join(sorted(mine)) or 'none'} (build.toml)",
            )
        return tuple(entry for entry in plan if entry.name not in mine - unmet)

    def _set_aside(self, tree: TreeEdit, path: str) -> None:
        """Renames a layer without types to `<layer>.ignore` (B-067).

        A restored layer is removed instead: on an overlay, renaming it would copy it, and nobody may use it.
        """
        if path in self.restored.layers:
            tree.remove(path)
        else:
            tree.remove(f"{path}.ignore")
            tree.rename(path, f"{path}.ignore")

    def _failure(self, result: Result, *, crossed_device: bool) -> BuildpackFailed:
        how = f"exit status {result.status}"
        if 128 < result.status <= 128 + _SIGNALS:
            how = f"ended by signal {result.status - 128}"
        if result.exceeded:
            # No line to repeat it: the files of such a step could fill the disk.
            return BuildpackFailed(f"{self.member.ref} failed ({how})", why=result.exceeded, fix=ALLOW)
        return BuildpackFailed(
            f"{self.member.ref} failed ({how})",
            why="what it said stands above",
            command=result.command,
            buildpack=str(self.member.ref),
            crossed_device=crossed_device,
        )


def _count(restored: Restored, layers: str) -> int:
    return sum(path.startswith(f"{layers}/") for path in restored.layers)


def _merge_processes(launches: Sequence[LaunchToml], observer: Observer) -> tuple[tuple[Process, ...], str]:
    """Returns the processes and the default type. A later buildpack replaces a type (B-094, B-139)."""
    processes: dict[str, Process] = {}
    default = ""
    for launch in launches:
        for process in launch.processes:
            if process.default:
                default = process.type
            elif process.type == default:
                observer.say(
                    f"{process.buildpack_id} redefines the default {default!r}, so there is none now"
                )
                default = ""
            processes[process.type] = process
    return tuple(processes[kind] for kind in sorted(processes)), default
