"""Puts native programs and the bundled buildpacks into `src/packhorse/_bundled` when the package is built.

Called by hatchling for wheels and editable installs alike, so both are the same tool.
"""

import hashlib
import json
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BundleHook(BuildHookInterface):  # type: ignore[type-arg]
    """Makes the native programs, `buildpacks/<id>/<version>/` and `bundle.json` in `_bundled`."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Stages everything anew; bundle.json: the launcher's version, a digest of what builders get."""
        if self.target_name == "sdist":
            return
        root = Path(self.root)
        sys.path[:0] = [str(root / "src"), str(root / "launcher")]
        from build import build as build_program

        from packhorse.platform.package import stage

        bundled = root / "src" / "packhorse" / "_bundled"
        shutil.rmtree(bundled, ignore_errors=True)

        def add(program: str) -> None:
            (bundled / program).mkdir(parents=True)
            for path in build_program(root / "launcher", root / "launcher" / "build", program).values():
                shutil.copy(path, bundled / program)
                (bundled / program / path.name).chmod(0o755)  # whatever the umask: sandboxes run it

        add("launcher")
        add("node-options")
        for descriptor in sorted((root / "buildpacks").glob("*/buildpack.toml")):
            buildpack = tomllib.loads(descriptor.read_text())["buildpack"]
            target = bundled / "buildpacks" / buildpack["id"].replace("/", "_") / buildpack["version"]
            target.parent.mkdir(parents=True, exist_ok=True)
            stage(descriptor.parent, target)
        launcher_version = (root / "launcher" / "VERSION").read_text().strip()
        bundle = {"launcher": launcher_version, "digest": digest(bundled)}
        for program in ("terminal", "init", "leash"):  # which are in no builder, and so in no digest of one
            add(program)
        (bundled / "bundle.json").write_text(json.dumps(bundle) + "\n")
        build_data["pure_python"] = True


def digest(directory: Path) -> str:
    """A SHA-256 over every file's path, execute bit and content."""
    total = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        executable = bool(path.stat().st_mode & 0o100)
        content = path.read_bytes()
        total.update(f"{path.relative_to(directory)}\0{executable}\0{len(content)}\0".encode() + content)
    return total.hexdigest()
