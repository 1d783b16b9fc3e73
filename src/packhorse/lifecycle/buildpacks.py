"""Finds buildpacks in a tree, makes the environment of their executables, and finds the layers they made.

`Descriptors` reads the buildpacks below `/cnb/buildpacks` (P-158). `for_buildpack` makes the environment
(buildpack.md "Environment"). `find_layers` lists a layers directory. The phases `detect`, `build` and
`export`, and `sbom`, call them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from packhorse.base.dataclass import dataclass, replace
from packhorse.base.target import Distro, Target
from packhorse.base.toml import Warn
from packhorse.base.tree import NodeKind, TreeView, is_directory, read
from packhorse.errors import BuildError, NotFoundError
from packhorse.lifecycle.inputs import Inputs
from packhorse.spec.api import EXEC_ENV, PATH_VARIABLES, PLATFORM_TARGETS, TARGETS
from packhorse.spec.buildpack_files import RESERVED, LayerToml, StoreToml
from packhorse.spec.buildpack_toml import Descriptor, Ref, escape_id
from packhorse.spec.env import BUILD_ROOTS, EnvFile, with_files, with_roots, with_user


class Descriptors:
    """Reads each buildpack.toml once. It may be used longer than the tree.

    `warn` receives a warning for each unknown key.
    """

    def __init__(self, inputs: Inputs, tree: TreeView, warn: Warn | None = None) -> None:
        self._inputs = inputs
        self._tree = tree
        self._warn = warn
        self._known: dict[Ref, Descriptor] = {}

    def find(self, ref: Ref) -> Descriptor:
        """Returns the buildpack that an order or a group names. Without a version it must be the only one.

        Raises NotFoundError, which lists the existing ones, InputError for a broken buildpack.toml, and
        BuildpackApiError.
        """
        key = Ref(ref.id, ref.version)
        if key not in self._known:
            self._known[key] = self._read(key)
        return self._known[key]

    def _read(self, ref: Ref) -> Descriptor:
        ref = ref if ref.version else Ref(ref.id, self._only_version(ref))
        path = f"{self._inputs.buildpack_directory(ref)}/buildpack.toml"
        data = read(self._tree, path)
        if data is None:
            versions = self._versions(ref.id)
            raise NotFoundError(
                f"the builder has no buildpack {ref}",
                why=f"it has {ref.id} {', '.join(versions)}" if versions else f"{path} does not exist in it",
            )
        descriptor = Descriptor.parse(data, path, warn=self._warn)
        if (descriptor.id, descriptor.version) != (ref.id, ref.version):
            raise BuildError(
                f"buildpack {ref} is not what its place says",
                why=f"its buildpack.toml names {descriptor.id}@{descriptor.version}",
            )
        return descriptor

    def _only_version(self, ref: Ref) -> str:
        versions = self._versions(ref.id)
        if len(versions) != 1:
            raise NotFoundError(
                f"the order names buildpack {ref.id} without a version",
                why=f"the builder has {', '.join(versions) or 'no such buildpack'}",
            )
        return versions[0]

    def _versions(self, identifier: str) -> list[str]:
        directory = f"{self._inputs.buildpacks}/{escape_id(identifier)}"
        if self._tree.stat(directory) is None:
            return []
        return [node.name for node in self._tree.list(directory) if node.kind is NodeKind.DIRECTORY]


_OS_RELEASE = "/etc/os-release"


def complete_target(inputs: Inputs, target: Target, tree: TreeView) -> Target:
    """Returns the target for buildpacks (P-039).

    If the run image names no distribution, that of the builder's os-release in `tree` is taken (P-179).
    Before Platform API 0.12 it is the builder's target.
    """
    if not inputs.platform_api.has(PLATFORM_TARGETS):
        target = Target(arch=target.arch)
    node = tree.stat(_OS_RELEASE, follow=True) if target.distro is None else None
    if node is None or node.kind is not NodeKind.FILE:
        return target
    lines = (read(tree, _OS_RELEASE) or b"").decode(errors="replace").split("\n")
    # As in the reference, a line with a second '=' is ignored.
    fields = dict(line.split("=") for line in lines if line.count("=") == 1)
    name, version = (fields.get(key, "").strip('" ') for key in ("ID", "VERSION_ID"))
    return replace(target, distro=Distro(name, version)) if name or version else target


BUILD_ENV_DIRECTORIES = ("env", "env.build")


class EnvDirectories:
    """Reads each env directory of a tree once, because all buildpacks of a phase get the same files."""

    def __init__(self, tree: TreeView) -> None:
        self._tree = tree
        self._known: dict[str, list[EnvFile]] = {}

    def files(self, directory: str) -> list[EnvFile]:
        """Returns the files of the directory as `env_files` does, and raises the same."""
        if directory not in self._known:
            self._known[directory] = env_files(self._tree, directory)
        return self._known[directory]


def for_buildpack(
    inputs: Inputs,
    directories: EnvDirectories,
    descriptor: Descriptor,
    *,
    env: Mapping[str, str],
    target: Target,
    phase: Mapping[str, str],
) -> dict[str, str]:
    """Returns the whole environment of one bin/detect or bin/build.

    `env` is the base environment with the changes of earlier buildpacks' layers. `phase` has the variables of
    this phase: the paths of the plan and the layers, which an older buildpack gets only as arguments. The
    user's variables come from `<platform>/env`, without `clear-env` (B-110, B-112), and the operator's from
    `<build-config>/env` (B-111).
    """
    result = dict(env)
    if not descriptor.clear_env:
        user = {file.name: file.content for file in directories.files(f"{inputs.platform}/env")}
        result = with_user(result, user)
    result = with_files(result, directories.files(f"{inputs.build_config}/env"), default_action="default")
    result["CNB_BUILDPACK_DIR"] = inputs.buildpack_directory(descriptor.ref)
    if descriptor.api.has(PATH_VARIABLES):
        result |= {"CNB_PLATFORM_DIR": inputs.platform, **phase}
    if descriptor.api.has(TARGETS):
        result |= _target_variables(target)
    if descriptor.api.has(EXEC_ENV):
        result["CNB_EXEC_ENV"] = inputs.exec_env
    return result


def with_layer(tree: TreeView, env: Mapping[str, str], layer: str) -> dict[str, str]:
    """Returns the environment of later buildpacks, with the changes of a build layer (B-104, B-116)."""
    roots = {name for name, _ in BUILD_ROOTS}
    result = with_roots(env, layer, {name for name in roots if is_directory(tree, f"{layer}/{name}")})
    for directory in BUILD_ENV_DIRECTORIES:
        result = with_files(result, env_files(tree, f"{layer}/{directory}"))
    return result


def env_files(tree: TreeView, directory: str) -> list[EnvFile]:
    """Returns the files of an env directory, without subdirectories. Follows links to files inside the tree.

    Raises BuildError for a file that cannot be a variable.
    """
    if not is_directory(tree, directory):
        return []
    files = []
    for node in tree.list(directory):
        path = f"{directory}/{node.name}"
        target = tree.stat(path, follow=True) if node.kind is NodeKind.LINK else node
        if target is not None and target.kind is NodeKind.FILE:
            content = read(tree, path) or b""
            if b"\0" in content or "=" in node.name:
                raise BuildError(
                    f"{path} cannot be an environment variable",
                    why="its content has a NUL byte" if b"\0" in content else "its name has a '='",
                )
            files.append(EnvFile(node.name, os.fsdecode(content)))
    return files


def _target_variables(target: Target) -> dict[str, str]:
    """Returns CNB_TARGET_* (B-103). As in the reference, unknown ones are missing."""
    distro = target.distro
    variables = {
        "CNB_TARGET_OS": target.os,
        "CNB_TARGET_ARCH": target.arch,
        "CNB_TARGET_ARCH_VARIANT": target.variant,
        "CNB_TARGET_DISTRO_NAME": distro.name if distro else "",
        "CNB_TARGET_DISTRO_VERSION": distro.version if distro else "",
    }
    return {
        name: value
        for name, value in variables.items()
        if value or name in ("CNB_TARGET_OS", "CNB_TARGET_ARCH")
    }


@dataclass(frozen=True, slots=True)
class FoundLayer:
    """A `<layer>.toml`, and the path of its directory, which may be missing."""

    name: str
    path: str
    toml: LayerToml


def find_layers(tree: TreeView, layers: str, *, warn: Warn | None = None) -> list[FoundLayer]:
    """Returns the layers that have a TOML file in `layers` (`/layers/<id>`), in byte order of their names.

    `warn` receives a warning for each unknown key. Raises InputError for a TOML file that cannot be read, and
    BuildError for a name that the specification reserves (B-065).
    """
    if tree.stat(layers) is None:
        return []
    found = []
    nodes = {node.name: node for node in tree.list(layers)}
    for file_name, node in nodes.items():
        name = file_name.removesuffix(".toml")
        if name in ("", file_name) or name in RESERVED or node.kind is NodeKind.DIRECTORY:
            continue
        path = f"{layers}/{name}"
        data = read(tree, f"{path}.toml")
        if data is not None:
            found.append(FoundLayer(name, path, LayerToml.parse(data, f"{path}.toml", warn=warn)))
    for name in sorted(RESERVED):
        if name in nodes and nodes[name].kind is NodeKind.DIRECTORY and f"{name}.toml" in nodes:
            raise BuildError(
                f"{layers} has a layer named {name!r}",
                why=f"{name}.toml is not a layer's file, so no layer can have that name",
            )
    return sorted(found, key=lambda layer: layer.name.encode(errors="surrogateescape"))


def read_store(tree: TreeView, layers: str, *, warn: Warn | None = None) -> StoreToml | None:
    """Reads a buildpack's store.toml. Returns None if it has none (B-091)."""
    data = read(tree, f"{layers}/store.toml")
    return None if data is None else StoreToml.parse(data, f"{layers}/store.toml", warn=warn)
