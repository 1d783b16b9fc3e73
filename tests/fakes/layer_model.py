"""What a layer makes of a file tree, in dictionaries: the plain reading of the OCI image specification.

(image-spec layer.md, "Whiteouts" and "Applying Changesets"; what it leaves open is as docker and containerd
have it.) A model for property tests: slow, and without a file system.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

Entry = tuple[str, str, str]
"""A kind ("file", "dir", "link", "hard", "fifo", "device"), a name, and content or target.

Whiteouts are files. Devices are not made: no user namespace may have them.
"""


_LONGEST = 255
"""Bytes of a name, as Linux has it."""


class Refused(Exception):
    """The model's word for what is no layer."""


@dataclass(eq=False, slots=True)
class Node:
    """One entry. `own` says that the layer being applied has made it, `passed` that it has no entry."""

    kind: str
    text: str = ""
    mode: int = 0o755
    children: dict[str, Node] = field(default_factory=dict)
    own: bool = True
    passed: bool = False


Tree = Node


def empty() -> Tree:
    """A file tree with nothing in it."""
    return Node("dir", own=False)


def apply(root: Tree, entries: Iterable[Entry], *, mode: int = 0o755) -> None:
    """Applies the entries of a layer to the tree of those below it, one after the other."""
    for node in everything(root):
        node.own = False
    for entry in entries:
        _place(root, entry, mode)


def _place(root: Tree, entry: Entry, mode: int) -> None:
    kind, name, text = entry
    parts = _parts(name)
    if not parts:
        if kind != "dir":
            raise Refused
        root.mode = mode
        return
    last = parts.pop()
    if last.startswith(".wh."):
        _hide(_directory(root, parts, make=False), last)
        return
    above = _directory(root, parts)
    if kind == "dir":
        node = above.children.get(last)
        if node is None or node.kind != "dir":
            node = above.children[last] = Node("dir")
        node.mode, node.passed, node.own = mode, False, True
    elif kind == "hard":
        *source, first = _parts(text) or [""]
        beside = _directory(root, source)
        if (beside, first) == (above, last):
            return
        above_all = _contains(above.children.get(last), beside)
        linked = beside.children.get(first)
        if linked is None or not linked.own or linked.kind == "dir" or above_all:
            raise Refused
        above.children[last] = linked
    elif kind == "link" and not text:
        raise Refused
    elif kind == "device":
        above.children.pop(last, None)
    else:
        above.children[last] = Node(kind, text if kind in ("file", "link") else "", mode)


def _hide(above: Node, mark: str) -> None:
    """Hides what `mark` stands for in `above`, which is one of its own where the tree has none."""
    if mark == ".wh..wh..opq":
        above.children = {name: node for name, node in above.children.items() if node.own}
        return
    name = mark.removeprefix(".wh.")
    if name in ("", ".", ".."):
        raise Refused
    node = above.children.get(name)
    if node is not None and not node.own:
        del above.children[name]


def _directory(root: Tree, parts: list[str], *, make: bool = True) -> Node:
    """The directory that `parts` lead to, links resolved with `root` as the root.

    A missing one is made, in the tree or without `make` beside it.
    """
    here = [root]
    pending = list(reversed(parts))
    for _ in range(1024):
        if not pending:
            return here[-1]
        name = pending.pop()
        if name == "..":
            here = here[:-1] or [root]
        elif name not in ("", "."):
            node = here[-1].children.get(name)
            if node is not None and node.kind == "link":
                here = [root] if node.text.startswith("/") else here
                pending += reversed(node.text.split("/"))
                continue
            if node is None or (node.kind != "dir" and not node.own and not make):
                if name.startswith(".wh.") or len(name) > _LONGEST:
                    raise Refused
                node = Node("dir", passed=True)
                if make:
                    here[-1].children[name] = node
            if node.kind != "dir":
                raise Refused
            here = [*here, node]
    raise Refused


def _parts(name: str) -> list[str]:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or any(len(part) > _LONGEST for part in parts):
        raise Refused
    return parts


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


def _contains(node: Node | None, other: Node) -> bool:
    return node is not None and any(found is other for found in everything(node))


def everything(node: Node) -> Iterable[Node]:
    """A node and all below it."""
    yield node
    for child in node.children.values():
        yield from everything(child)


def listed(node: Node, path: str = "") -> dict[str, tuple[str, int, str]]:
    """Every path below `node`: its kind, mode (0 of a link), and content or target."""
    found: dict[str, tuple[str, int, str]] = {}
    for name, child in node.children.items():
        here = f"{path}/{name}" if path else name
        found[here] = (child.kind, 0 if child.kind == "link" else child.mode, child.text)
        found |= listed(child, here)
    return found
