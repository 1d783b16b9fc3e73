"""Asks the places to which a build is to write whether they can be written, before it starts.

A build takes minutes, and what nobody can write shows then. Nothing is written here. Called by `plan`; the
registries of an image that is published are asked by `publish`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from packhorse.build import publish
from packhorse.errors import InputError, StoreError
from packhorse.image.file import require_directory, resolve_target
from packhorse.image.reference import Location, LocationKind
from packhorse.platform.wiring import Wiring


def check(wiring: Wiring, outputs: Iterable[Location], report: Path | None) -> None:
    """Raises what writing to the first of them that cannot be written would raise."""
    for location in outputs:
        path = Path(location.path)
        if location.kind is LocationKind.REGISTRY:
            publish.check(wiring, [location.reference])
        elif location.kind is LocationKind.DAEMON:
            wiring.check_engine()
        elif location.kind is LocationKind.OCI:
            _check_directory(_nearest_existing(path))  # directories above a layout are made
        else:
            parent = resolve_target(path).parent
            require_directory(parent)
            _check_directory(parent)
    if report is not None:
        problem = _problem(_nearest_existing(report))
        if problem:
            raise InputError(f"no report can be written to {report}", why=problem)


def _check_directory(directory: Path) -> None:
    problem = _problem(directory)
    if problem:
        raise StoreError(f"nothing can be written to {directory}", why=problem, fix="name another place")


def _nearest_existing(path: Path) -> Path:
    """The path, or the nearest above it that exists."""
    return next((each for each in (path, *path.absolute().parents) if os.path.lexists(each)), Path("/"))


def _problem(directory: Path) -> str:
    """Why no file can be made in a directory; empty when one can. Root may write wherever the disk may."""
    if not directory.is_dir():
        return f"{directory} is not a directory"
    if os.access(directory, os.W_OK | os.X_OK):
        return ""
    try:
        read_only = os.statvfs(directory).f_flag & os.ST_RDONLY
    except OSError as error:
        return error.strerror or ""
    return "its file system is read-only" if read_only else "this user may not write there"
