"""Who writes to layers and cannot have them as an overlay: names, and in which apps it was seen.

A name stays as long as one of these apps has layers kept for its next build. Called by store; what the names
mean is `platform`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from packhorse.store import record
from packhorse.store.lease import Lease, locked


def among(store: Path, writers: Sequence[str]) -> tuple[str, ...]:
    """Those of the names that are remembered."""
    known = _read(store)
    return tuple(name for name in writers if name in known)


def remember(lease: Lease, writer: str, app: str) -> None:
    """Remembers a name for `app`, a record of `caches/`; raises StoreError."""
    with locked(lease.store / "locks" / "copied"):
        known = _read(lease.store)
        known[writer] = sorted({*known.get(writer, ()), app})
        record.write(lease, _file(lease.store), known)


def forget(lease: Lease, app: str) -> None:
    """Forgets the names that only `app` was the reason for; raises StoreError."""
    if not any(app in apps for apps in _read(lease.store).values()):
        return
    with locked(lease.store / "locks" / "copied"):
        left = {name: [each for each in apps if each != app] for name, apps in _read(lease.store).items()}
        record.write(lease, _file(lease.store), {name: apps for name, apps in left.items() if apps})


def _read(store: Path) -> dict[str, list[str]]:
    fields = record.read(_file(store)) or {}
    return {name: list(map(str, apps)) for name, apps in fields.items() if isinstance(apps, list)}


def _file(store: Path) -> Path:
    return store / "copied.json"
