"""④ What in a layer keeps the launcher from starting any process of the image. Called by export.

The launcher reads the env directories and runs the exec.d programs of every launch layer before it starts a
process, and ends with an error where it cannot. So such a layer is refused while its buildpack is known.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence

from packhorse.base.tree import Node, NodeKind, TreeView, read
from packhorse.errors import InputError, TreeError
from packhorse.lifecycle.inputs import Inputs

_APPLIED = frozenset({"", "override", "default", "prepend", "append", "delim"})
"""The suffixes of env files that the launcher reads."""

_LIMIT = 16 << 20
"""The largest env file that the launcher reads, in bytes."""


def check_layer(inputs: Inputs, tree: TreeView, layer: str, types: Sequence[str]) -> Sequence[str]:
    """Raises InputError with everything in the launch layer at the path `layer` that keeps the launcher from
    starting processes: those of `types`, or all.

    Returns warnings: a file `env`, `env.launch` or `exec.d` keeps the image from starting too. It may be data
    of an image that nobody starts, and the reference exports it.
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
    """What is wrong in a directory, and in those for the process `types` below it, which may be absent."""
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
    """What is at the end of a path; None also where that cannot be told here."""
    try:
        return tree.stat(path, follow=True)
    except TreeError:
        return None


def _is_ours(inputs: Inputs, tree: TreeView, path: str) -> bool:
    """Whether a link leads to where the image has only what the build made; the run image has other files
    than the builder.
    """
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), tree.readlink(path)))
    return any(target.startswith(f"{directory}/") for directory in (inputs.layers, inputs.app))
