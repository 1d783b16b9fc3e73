"""Buildpacks that are shell scripts, as anybody could write them in a minute."""

from __future__ import annotations

from pathlib import Path

SERVER = """
mkdir -p "$CNB_LAYERS_DIR/tools/bin"
printf '#!/bin/sh\\necho "$@" from "$0"\\n' > "$CNB_LAYERS_DIR/tools/bin/say"
chmod +x "$CNB_LAYERS_DIR/tools/bin/say"
printf '[types]\\nlaunch = true\\n' > "$CNB_LAYERS_DIR/tools.toml"
cat > "$CNB_LAYERS_DIR/launch.toml" <<'END'
[[processes]]
type = "talk"
command = ["say", "hello"]
default = true
END
"""
"""A bin/build whose image says hello."""


def shell_buildpack(
    directory: Path,
    identifier: str = "test/shell",
    *,
    detect: str = "",
    build: str = "",
    api: str = "0.11",
    version: str = "1.0.0",
) -> Path:
    """Writes a buildpack of two bash scripts to `directory`; returns it."""
    (directory / "bin").mkdir(parents=True)
    (directory / "buildpack.toml").write_text(
        f'api = "{api}"\n\n[buildpack]\nid = "{identifier}"\nversion = "{version}"\n'
    )
    for name, script in (("detect", detect), ("build", build)):
        path = directory / "bin" / name
        path.write_text(f"#!/bin/bash\nset -eu\n{script}\n")
        path.chmod(0o755)
    return directory
