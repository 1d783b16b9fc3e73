"""The applications that are built end to end, and what developers change in them. Called by `builds`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.packages import publish

OLD, NEW = "22.11.0", "22.12.0"
"""Versions of Node.js: that of all applications, and the one they go to."""

EXTRA = "bench-extra"
_SAMPLE = Path(__file__).parents[1] / "samples/nodejs-express"
_SERVER = 'require("node:http").createServer((_, answer) => answer.end("ok")).listen(8080);\n'


@dataclass(frozen=True, slots=True)
class Application:
    """`lay` writes it into a directory, and its packages into that of a registry; `source` is edited."""

    name: str
    title: str
    lay: Callable[[Path, Path], None]
    source: str = "src/index.js"

    def make(self, folder: Path, shelf: Path, registry: str) -> Path:
        """The application in a new directory, for who installs from the registry."""
        place = folder / self.name
        (place / "src").mkdir(parents=True)
        self.lay(place, shelf)
        (place / ".npmrc").write_text(f"registry={registry}\naudit=false\nfund=false\n")
        return place

    def line(self, place: Path, number: int) -> None:
        """One line of the source is another."""
        path = place / self.source
        kept = [line for line in path.read_text().splitlines() if not line.startswith("// change")]
        path.write_text("\n".join([*kept, f"// change {number}", ""]))

    @staticmethod
    def dependency(place: Path, shelf: Path) -> None:
        """One package more, in the lock too."""
        integrity = publish(shelf, EXTRA, files=30, size=5_000, seed=99)
        _rewrite(place, needs={EXTRA: integrity})

    @staticmethod
    def runtime(place: Path) -> None:
        """The newer Node.js."""
        _rewrite(place, engine=NEW)


def express() -> Application:
    """The sample of this repository."""

    def lay(place: Path, shelf: Path) -> None:
        shutil.copytree(_SAMPLE, place, dirs_exist_ok=True)
        _rewrite(place, engine=OLD)

    return Application("express", "Express, 71 packages", lay)


def modules(packages: int = 656) -> Application:
    """Much in node_modules: 37 files of 18 kB in each package, 437 MB and 24,000 files in 656."""

    def lay(place: Path, shelf: Path) -> None:
        needs = {
            f"bench-p{number}": publish(shelf, f"bench-p{number}", files=37, size=18_000, seed=number)
            for number in range(packages)
        }
        _write(place, needs)

    size = round(packages * 37 * 18 / 1000)
    return Application(f"modules{packages}", f"{size} MB in {packages} packages", lay)


def files(count: int = 30_000) -> Application:
    """Many small source files, and one package."""

    def lay(place: Path, shelf: Path) -> None:
        for number in range(count):
            folder = place / f"src/part{number // 100}"
            if number % 100 == 0:
                folder.mkdir(parents=True)
            (folder / f"file{number}.js").write_text(
                f"exports.value{number} = {number};\n" * (number % 60 + 1)
            )
        _write(place, {"bench-one": publish(shelf, "bench-one", files=10, size=2_000, seed=1)})

    return Application(f"files{count}", f"{count:,} source files", lay, source="src/part0/file7.js")


def _write(place: Path, needs: Mapping[str, str]) -> None:
    (place / "src/index.js").write_text(_SERVER)
    manifest: dict[str, Any] = {"name": "bench", "version": "1.0.0", "private": True}
    manifest["scripts"] = {"start": "node src/index.js"}
    _dump(place / "package.json", manifest)
    packages = {"": {"name": "bench", "version": "1.0.0"}}
    _dump(
        place / "package-lock.json",
        {"name": "bench", "version": "1.0.0", "lockfileVersion": 3, "requires": True, "packages": packages},
    )
    _rewrite(place, engine=OLD, needs=needs)


def _rewrite(place: Path, *, engine: str = "", needs: Mapping[str, str] = {}) -> None:
    """Changes package.json and the lock together, as npm does."""
    manifest, lock = (
        json.loads((place / f"{name}.json").read_text()) for name in ("package", "package-lock")
    )
    for table in (manifest, lock["packages"][""]):
        if engine:
            table["engines"] = {"node": engine}
        dependencies = {**table.get("dependencies", {}), **dict.fromkeys(needs, "1.0.0")}
        table["dependencies"] = dict(sorted(dependencies.items()))
    for name, integrity in needs.items():
        lock["packages"][f"node_modules/{name}"] = {"version": "1.0.0", "integrity": integrity}
    _dump(place / "package.json", manifest)
    _dump(place / "package-lock.json", lock)


def _dump(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
