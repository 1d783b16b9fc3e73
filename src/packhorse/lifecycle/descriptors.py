"""Finds buildpacks below `/cnb/buildpacks` of a tree (P-158). Called by detect and build."""

from __future__ import annotations

from packhorse.base.toml import Warn
from packhorse.base.tree import NodeKind, TreeView, read
from packhorse.buildpack.descriptor import Descriptor, Ref, escape_id
from packhorse.errors import BuildError, NotFoundError
from packhorse.lifecycle.inputs import Inputs


class Descriptors:
    """Every buildpack.toml that was asked for, read once. The object may outlive the tree it was read
    from. `warn` is told of unknown keys.
    """

    def __init__(self, inputs: Inputs, tree: TreeView, warn: Warn | None = None) -> None:
        self._inputs = inputs
        self._tree = tree
        self._warn = warn
        self._known: dict[Ref, Descriptor] = {}

    def find(self, ref: Ref) -> Descriptor:
        """The buildpack that an order or group names; without a version there must be only one.

        Raises NotFoundError (with what there is), InputError for a broken buildpack.toml, BuildpackApiError.
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
