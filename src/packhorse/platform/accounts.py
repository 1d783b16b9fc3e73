"""Users and groups as an image knows them, and as its config names them.

From `/etc/passwd` and `/etc/group`. Called by build and run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from packhorse.base.dataclass import dataclass
from packhorse.base.rooted import RootedTree
from packhorse.base.tree import TreeView, read
from packhorse.errors import RunError


@dataclass(frozen=True, slots=True)
class Account:
    """Ids inside, and the home directory (`/` for an id that the image does not know, as docker has it)."""

    uid: int
    gid: int
    home: str = "/"


def find_account(root: Path, user: str) -> Account:
    """The account that a config's User names: `""`, `name`, `uid`, each with `:group` or `:gid` (image-spec,
    config.md).

    Raises RunError for a name that the image does not have.
    """
    name, _, group = user.partition(":")
    with RootedTree.open_local(root) as tree:
        users = list(_fields(tree, "/etc/passwd", 7))
        groups = list(_fields(tree, "/etc/group", 3))
    entry = next((fields for fields in users if name in (fields[0], fields[2])), None)
    if not name:
        entry = next((fields for fields in users if fields[2] == "0"), None)
    uid = _parse_id(entry[2] if entry else name or "0")
    gid = _parse_id(entry[3] if entry else "0")
    if group:
        found = next((fields for fields in groups if group in (fields[0], fields[2])), None)
        gid = _parse_id(found[2] if found else group)
    if uid is None or gid is None:
        raise RunError(
            f"the image has no user {user!r}",
            why="/etc/passwd and /etc/group in it do not name it",
            fix="name one with --user",
        )
    home = entry[5] if entry and entry[5].startswith("/") else "/"
    return Account(uid, gid, home)


def _parse_id(text: str) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else None


def _fields(tree: TreeView, path: str, count: int) -> Iterator[list[str]]:
    for line in (read(tree, path) or b"").decode(errors="replace").splitlines():
        fields = line.split(":")
        if len(fields) >= count and not line.startswith("#"):
            yield fields
