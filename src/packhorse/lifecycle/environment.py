"""The environment of a buildpack executable (buildpack.md "Environment"). Called by detect and build."""

from __future__ import annotations

import os
from collections.abc import Mapping

from packhorse.base.target import Target
from packhorse.base.tree import NodeKind, TreeView, is_directory, read
from packhorse.buildpack.api import EXEC_ENV, TARGETS
from packhorse.buildpack.descriptor import Descriptor
from packhorse.buildpack.env import BUILD_ROOTS, EnvFile, with_files, with_roots, with_user
from packhorse.errors import BuildError
from packhorse.lifecycle.inputs import Inputs

BUILD_ENV_DIRECTORIES = ("env", "env.build")


def for_buildpack(
    inputs: Inputs,
    tree: TreeView,
    descriptor: Descriptor,
    *,
    env: Mapping[str, str],
    target: Target,
    phase: Mapping[str, str],
) -> dict[str, str]:
    """The whole environment of one bin/detect or bin/build.

    `env` is the base environment with the effects of earlier buildpacks' layers; `phase` the variables only
    this phase has (plan and layers paths). The user's variables come from `<platform>/env` unless `clear-env`
    (B-110, B-112), the operator's from `<build-config>/env` always (B-111).
    """
    result = dict(env)
    if not descriptor.clear_env:
        user = {file.name: file.content for file in env_files(tree, f"{inputs.platform}/env")}
        result = with_user(result, user)
    result = with_files(result, env_files(tree, f"{inputs.build_config}/env"), default_action="default")
    result |= {
        "CNB_BUILDPACK_DIR": inputs.buildpack_directory(descriptor.ref),
        "CNB_PLATFORM_DIR": inputs.platform,
    }
    result |= phase
    if descriptor.api.has(TARGETS):
        result |= _target_variables(target)
    if descriptor.api.has(EXEC_ENV):
        result["CNB_EXEC_ENV"] = inputs.exec_env
    return result


def with_layer(tree: TreeView, env: Mapping[str, str], layer: str) -> dict[str, str]:
    """What a build layer (a path) does to the environment of later buildpacks (B-104, B-116)."""
    roots = {name for name, _ in BUILD_ROOTS}
    result = with_roots(env, layer, {name for name in roots if is_directory(tree, f"{layer}/{name}")})
    for directory in BUILD_ENV_DIRECTORIES:
        result = with_files(result, env_files(tree, f"{layer}/{directory}"))
    return result


def env_files(tree: TreeView, directory: str) -> list[EnvFile]:
    """The files of an env directory; sub-directories are passed over, links to files inside the tree are
    followed. Raises BuildError for what cannot be a variable.
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
    """CNB_TARGET_* (B-103); the reference leaves out those it knows nothing for."""
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
