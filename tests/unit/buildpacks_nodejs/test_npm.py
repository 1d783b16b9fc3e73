"""How npm is run: what it installs, and how long it waits."""

import io
import json
import os
from pathlib import Path

import pytest
from nodejs.managers.npm import Npm
from nodejs.managers.port import Order
from nodejs.project import Project
from nodejs.runtime import Runtime

from fakes.build_context import build_context

pytestmark = pytest.mark.system

SCRIPT = """#!/bin/sh
if [ "$1" = config ]; then
  for name in globalconfig omit; do
    case "$name" in omit) value=$npm_config_omit ;; *) value=/nowhere ;; esac
    case " $* " in *" $name "*) [ $# = 3 ] && echo "$value" || echo "$name=$value" ;; esac
  done
else
  echo "$@ $npm_config_fetch_retry_mintimeout $NODE_DISABLE_COMPILE_CACHE" >> "$HOME/calls"
fi
"""


def npm(tmp_path: Path, lock: str = "package-lock.json", **env: str) -> Npm:
    """An npm that notes how it is called."""
    for folder in ("bin", "app", "platform"):
        (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / "bin/npm").write_text(SCRIPT)
    (tmp_path / "bin/npm").chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    context = build_context(
        tmp_path / "app", tmp_path / "layers", env={"PATH": path, "HOME": str(tmp_path), **env}
    )
    runtime = Runtime("22.0.0", "10.9.9", {"PATH": path}, "/headers")
    return Npm(context, Project(tmp_path / "app"), runtime, lock)


def calls(tmp_path: Path) -> str:
    return (tmp_path / "calls").read_text()


@pytest.mark.parametrize(
    ("said", "options"),
    [
        ("", "--omit=dev --include=prod 1000 1"),
        ("optional", "--omit=dev --omit=optional --include=prod 1000 1"),
        ("dev,peer", "--omit=dev --omit=peer --include=prod 1000 1"),
        ("optional peer", "--omit=dev --omit=optional --omit=peer --include=prod 1000 1"),
    ],
)
def test_what_the_user_leaves_out_is_left_out_of_production(tmp_path: Path, said: str, options: str) -> None:
    manager = npm(tmp_path, npm_config_omit=said)
    order = Order(tmp_path / "app", dev=False)
    manager.install(order)
    manager.prune(order)
    assert calls(tmp_path).splitlines() == [f"ci {options}", f"prune {options}"]


def test_no_setting_has_devdependencies_in_the_image(tmp_path: Path) -> None:
    manager = npm(tmp_path)
    (tmp_path / "bin/npm").unlink()
    (tmp_path / "app/.npmrc").write_text("include=dev\n")
    (tmp_path / "app/node_modules/dev-only").mkdir(parents=True)
    (tmp_path / "app/node_modules/dev-only/package.json").write_text(
        '{"name": "dev-only", "version": "1.0.0"}'
    )
    (tmp_path / "app/package.json").write_text('{"devDependencies": {"dev-only": "1.0.0"}}')
    manager.prune(Order(tmp_path / "app", dev=False))
    assert not (tmp_path / "app/node_modules/dev-only").exists()


def test_npm_neither_waits_long_for_a_registry_nor_keeps_what_the_next_build_has_not(tmp_path: Path) -> None:
    manager = npm(tmp_path)
    manager.install(Order(tmp_path / "app", dev=True))
    manager.rebuild(tmp_path / "app")
    assert calls(tmp_path) == "ci --include=dev 1000 1\nrebuild 1000 1\n"


@pytest.mark.parametrize("version", [1, 2, 3, 9])
def test_a_lock_of_a_later_npm_is_warned_of(tmp_path: Path, version: int) -> None:
    manager = npm(tmp_path)
    (tmp_path / "app/package-lock.json").write_text(json.dumps({"lockfileVersion": version}))
    manager.install(Order(tmp_path / "app", dev=False))
    stream = manager.context.log.err
    assert isinstance(stream, io.StringIO)
    assert ("has lockfileVersion 9, newer than any known here" in stream.getvalue()) == (version == 9)


def test_pruning_for_some_members_leaves_what_these_need_and_brings_nothing(tmp_path: Path) -> None:
    manager = npm(tmp_path)
    (tmp_path / "bin/npm").unlink()
    app = tmp_path / "app"
    manifests: dict[str, dict[str, object]] = {
        "": {"workspaces": ["packages/*"], "dependencies": {"@s/top": "1.0.0"}},
        "packages/web": {"dependencies": {"kept": "1.0.0"}, "devDependencies": {"tools": "*"}},
        "packages/tools": {"dependencies": {"gone": "1.0.0", "@t/gone": "1.0.0"}},
        "packages/other": {"dependencies": {"never-there": "1.0.0"}},
        "node_modules/kept": {"dependencies": {"inner": "1.0.0"}, "peerDependencies": {"peer": "9"}},
        **{
            f"node_modules/{name}": {}
            for name in ("@s/top", "kept/node_modules/inner", "peer", "gone", "@t/gone")
        },
        "packages/web/node_modules/gone": {},
    }
    for path, manifest in manifests.items():
        (app / path).mkdir(parents=True, exist_ok=True)
        own = {"name": path.rpartition("node_modules/")[2].removeprefix("packages/"), "version": "1.0.0"}
        (app / path / "package.json").write_text(json.dumps(own | manifest))
    for name in ("web", "tools"):
        (app / "node_modules" / name).symlink_to(f"../packages/{name}")
    (app / "node_modules/.prisma").mkdir()
    manager.prune(Order(app, dev=False, focus=("web",)))
    left = {str(path.relative_to(app)) for path in app.rglob("node_modules/*")}
    assert left == {
        *("node_modules/@s", "node_modules/kept", "node_modules/kept/node_modules/inner"),
        *("node_modules/peer", "node_modules/web", "node_modules/.prisma"),
    }
