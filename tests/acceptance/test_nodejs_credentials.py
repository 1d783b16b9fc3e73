"""Private packages: who has the token gets them, and the token is nowhere afterwards."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.installation import Home
from fakes.npm_registry import NpmRegistry, npm_registry

TOKEN = "npm_tok_4f71c09a"


@pytest.fixture(scope="module")
def registry() -> Iterator[NpmRegistry]:
    with npm_registry(TOKEN) as registry:
        registry.publish("@acme/private", {"index.js": "module.exports = 'private'"})
        yield registry


def application(directory: Path, registry: NpmRegistry, token: str) -> Path:
    """An application that needs a private package, with its lock; `token` is what .npmrc says of it."""
    directory.mkdir()
    host = registry.url.removeprefix("http:")
    settings = f"@acme:registry={registry.url}\n{host}:_authToken={token}\n"
    (directory / ".npmrc").write_text(settings)
    manifest = {"name": "private-user", "version": "1.0.0", "dependencies": {"@acme/private": "1.0.0"}}
    (directory / "package.json").write_text(json.dumps(manifest))
    (directory / "index.js").write_text("console.log(require('@acme/private'))")
    command = ["npm", "install", "--package-lock-only", "--silent"]
    subprocess.run(command, cwd=directory, check=True, env={"PATH": "/usr/bin:/bin", "NPM_TOKEN": TOKEN})
    return directory


def assert_is_nowhere(secret: str, root: Path) -> None:
    """Greps every file below `root`, unpacked where it is compressed."""
    assert any(root.rglob("*"))
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            if data[:2] == b"\x1f\x8b":
                data = gzip.decompress(data)
            assert secret.encode() not in data, path


@pytest.mark.parametrize(
    "token",
    ["${NPM_TOKEN}", pytest.param(TOKEN, marks=pytest.mark.torture)],
    ids=["by a variable", "in the file"],
)
def test_a_token_is_in_no_layer_label_bill_or_log(
    token: str, home: Home, registry: NpmRegistry, tmp_path: Path
) -> None:
    app = application(tmp_path / "app", registry, token)
    name = "private-literal" if token == TOKEN else "private-variable"
    done = home.run(
        *("build", name, "--path", app, "--network", "host", "--verbose", "-e", f"NPM_TOKEN={TOKEN}")
    )
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert (".npmrc has a credential" in done.stderr) == (token == TOKEN)
    assert home.ok("run", name) == "private"
    home.ok("copy", name, f"oci:{tmp_path}/image:1")
    assert_is_nowhere(TOKEN, tmp_path / "image")
    assert TOKEN not in home.ok("inspect", "--output", "json", name)
    for part in ("kept", "blobs", "images"):
        if (home.path / "store" / part).exists():
            assert_is_nowhere(TOKEN, home.path / "store" / part)


def test_a_binding_has_the_settings_of_who_builds(home: Home, registry: NpmRegistry, tmp_path: Path) -> None:
    app = application(tmp_path / "app", registry, "${NPM_TOKEN}")
    settings = (app / ".npmrc").read_text().replace("${NPM_TOKEN}", TOKEN)
    (app / ".npmrc").unlink()
    binding = tmp_path / "binding"
    binding.mkdir()
    (binding / "type").write_text("npmrc\n")
    (binding / ".npmrc").write_text(settings)
    (binding / ".npmrc").chmod(0o600)
    volume = ("--volume", f"{binding}:/platform/bindings/acme")
    done = home.run("build", "private-bound", "--path", app, "--network", "host", *volume, "--verbose")
    assert done.returncode == 0, done.stderr
    assert ".npmrc of the binding acme" in done.stderr and TOKEN not in done.stdout + done.stderr
    assert home.ok("run", "private-bound") == "private"
    home.ok("copy", "private-bound", f"oci:{tmp_path}/image:1")
    assert_is_nowhere(TOKEN, tmp_path / "image")


def test_no_token_is_explained(home: Home, registry: NpmRegistry, tmp_path: Path) -> None:
    app = application(tmp_path / "app", registry, "${NPM_TOKEN}")
    done = home.run("build", "private-none", "--path", app, "--network", "host", "-e", "NPM_TOKEN=wrong")
    assert done.returncode == 51, done.stderr
    assert "the package registry refused access (E401)" in done.stderr
    assert "check the credentials in .npmrc" in done.stderr
