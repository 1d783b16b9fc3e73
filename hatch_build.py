"""Puts native programs and the bundled buildpacks into the package when it is built, as `packhorse/_bundled`.

Called by hatchling. A wheel gets its own, from a temporary directory: building one changes nothing in the
clone, which may be installed as an editable package. That has them in `src/packhorse/_bundled`.
"""

import hashlib
import json
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BundleHook(BuildHookInterface):  # type: ignore[type-arg]
    """Makes the native programs, `buildpacks/<id>/<version>/` and `bundle.json`."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Stages everything anew, and replaces what was there only when all of it is whole."""
        if self.target_name == "sdist":
            return
        package = Path(self.root) / "src" / "packhorse"
        build_data["pure_python"] = True
        if version == "editable":
            with tempfile.TemporaryDirectory(prefix="._bundled-", dir=package) as scratch:
                new, old = Path(scratch, "new"), Path(scratch, "old")
                _make_bundle(Path(self.root), new)
                bundled = package / "_bundled"
                if bundled.exists():
                    bundled.rename(old)
                new.rename(bundled)
        else:
            self._scratch = tempfile.TemporaryDirectory(prefix="packhorse-bundled-")
            made = Path(self._scratch.name, "_bundled")
            _make_bundle(Path(self.root), made)
            build_data["force_include"][str(made)] = "packhorse/_bundled"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Removes the temporary directory of a wheel."""
        if version != "editable" and self.target_name != "sdist":
            self._scratch.cleanup()


def _make_bundle(root: Path, target: Path) -> None:
    """Fills `target`; bundle.json has the launcher's version, and a digest of what builders get."""
    sys.path[:0] = [str(root / "src"), str(root / "launcher")]
    from build import build as build_program

    from packhorse.base.installation import HELPERS
    from packhorse.builder.package import stage_directory

    def add(program: str) -> None:
        (target / program).mkdir(parents=True)
        for path in build_program(root / "launcher", root / "launcher" / "build", program).values():
            shutil.copy(path, target / program)
            (target / program / path.name).chmod(0o755)  # whatever the umask: sandboxes run it

    add("launcher")
    add("node-options")
    for descriptor in sorted((root / "buildpacks").glob("*/buildpack.toml")):
        buildpack = tomllib.loads(descriptor.read_text())["buildpack"]
        staged = target / "buildpacks" / buildpack["id"].replace("/", "_") / buildpack["version"]
        staged.parent.mkdir(parents=True, exist_ok=True)
        stage_directory(descriptor.parent, staged, programs=target)
    launcher_version = (root / "launcher" / "VERSION").read_text().strip()
    bundle = {"launcher": launcher_version, "digest": digest(target)}
    for program in HELPERS:
        add(program)
    (target / "bundle.json").write_text(json.dumps(bundle) + "\n")


def digest(directory: Path) -> str:
    """A SHA-256 over every file's path, execute bit and content."""
    total = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        executable = bool(path.stat().st_mode & 0o100)
        content = path.read_bytes()
        total.update(f"{path.relative_to(directory)}\0{executable}\0{len(content)}\0".encode() + content)
    return total.hexdigest()
