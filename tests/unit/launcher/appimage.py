"""An application image laid out in a directory, and the real launcher started in it.

The launcher's tests use it; it holds no test. The program under test is built from launcher/ by conftest.py.
"""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Process = dict[str, str | bool | Sequence[str]]


@dataclass(frozen=True, slots=True)
class AppImage:
    """A launcher and a directory with layers/ and workspace/."""

    launcher: Path
    root: Path

    @property
    def layers(self) -> Path:
        """The directory of CNB_LAYERS_DIR."""
        return self.root / "layers"

    @property
    def app(self) -> Path:
        """The directory of CNB_APP_DIR."""
        return self.root / "workspace"

    def write(self, name: str, content: str | bytes = b"", *, executable: bool = False) -> Path:
        """Writes a file by its path below the root, with the directories above it."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        if executable:
            path.chmod(0o755)
        return path

    def metadata(self, text: str | bytes) -> None:
        """Writes config/metadata.toml."""
        self.write("layers/config/metadata.toml", text)

    def describe(self, *processes: Process, buildpacks: Mapping[str, str] | None = None) -> None:
        """Writes config/metadata.toml from processes, and buildpacks as id and API."""
        lines: list[str] = []
        for buildpack_id, api in ({"a": "0.12"} if buildpacks is None else buildpacks).items():
            lines += ["[[buildpacks]]", f"id = {json.dumps(buildpack_id)}", f"api = {json.dumps(api)}"]
        for process in processes:
            lines += ["[[processes]]", *(f"{key} = {json.dumps(value)}" for key, value in process.items())]
        self.metadata("\n".join(lines))

    def container(self, api: str = "0.15") -> dict[str, str]:
        """The environment that the container has: what the exporter sets in every image."""
        return {
            "PATH": "/cnb/process:/cnb/lifecycle:/usr/bin:/bin",
            "CNB_LAYERS_DIR": str(self.layers),
            "CNB_APP_DIR": str(self.app),
            "CNB_PLATFORM_API": api,
        }

    def start(
        self, *args: str, name: str = "web", api: str = "0.15", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Runs the launcher as /cnb/process/<name>, with a small container environment and `env` over it."""
        return subprocess.run(
            [f"/cnb/process/{name}", *args],
            executable=self.launcher,
            env=self.container(api) | dict(env or {}),
            cwd=self.root,
            capture_output=True,
            timeout=120,
        )

    def output(
        self, *args: str, name: str = "web", api: str = "0.15", env: Mapping[str, str] | None = None
    ) -> str:
        """What a process prints that is expected to succeed."""
        done = self.start(*args, name=name, api=api, env=env)
        assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
        return done.stdout.decode()

    def variables(
        self, *, name: str = "web", api: str = "0.15", env: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """The environment that a direct process of `name` gets. Describes that process; layers are kept."""
        self.describe(
            {"type": name, "command": ["/usr/bin/env", "-0"], "direct": True, "buildpack-id": "a"},
            buildpacks={"a": "0.12", "b/c": "0.12"},
        )
        entries = self.output(name=name, api=api, env=env).split("\0")
        return dict(entry.split("=", 1) for entry in entries if entry)
