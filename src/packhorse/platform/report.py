"""report.toml (P-107, P-131): what an image that was written is identified by. Called by build and rebase."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from packhorse.errors import InputError
from packhorse.image.place import Receipt
from packhorse.lifecycle.files import report_toml


def write(directory: Path, name: str, receipt: Receipt, *, others: Sequence[str] = ()) -> None:
    """Writes the report on one image, and its other names, into a directory, which is made; InputError."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "report.toml").write_bytes(report_toml((name, *others), receipt))
    except OSError as error:
        raise InputError(f"no report can be written to {directory}", why=error.strerror or "") from error
