"""Which files of a source its settings name."""

from __future__ import annotations

from pathlib import Path

from nodejs import node_modules
from nodejs.managers import port
from nodejs.project import Project
from nodejs.workspace import Workspace


def test_files_that_are_there_are_found_in_every_form_of_settings(tmp_path: Path) -> None:
    for name in ("certs/ca.pem", "tools/hook.cjs", "tools/plugin.js", "ca.crt", ".yarn/plugins/x.cjs"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".npmrc").write_text(
        "cafile=./certs/ca.pem\npnpmfile = tools/hook.cjs\n; key=ca.crt\ntag=latest\nx=package.json\n"
    )
    (tmp_path / ".yarnrc").write_text('cafile "certs/ca.pem"\nyarn-path /ca.crt\nlastUpdateCheck 1\n')
    (tmp_path / ".yarnrc.yml").write_text(
        "httpsCaFilePath: './ca.crt'\nplugins:\n  - path: tools/plugin.js\n  - .yarn/plugins/x.cjs\n"
        "cacheFolder: ../certs/ca.pem\n"
    )
    (tmp_path / "package.json").write_text("{}")
    project = Project.read(tmp_path)
    assert port.named_files(project, ".npmrc") == ("certs/ca.pem", "tools/hook.cjs")
    assert port.named_files(project, ".yarnrc", ".bunfig") == ("certs/ca.pem",)
    assert port.named_files(project, ".yarnrc.yml") == ("ca.crt", "tools/plugin.js")
    assert list(port.named_code(project, ".npmrc", ".yarnrc.yml")) == ["tools/hook.cjs", "tools/plugin.js"]


def test_they_are_beside_the_manifest_while_something_is_installed(tmp_path: Path) -> None:
    source, layer = tmp_path / "source", tmp_path / "layer"
    (source / "certs").mkdir(parents=True)
    layer.mkdir()
    (source / "package.json").write_text("{}")
    (source / "certs/ca.pem").write_text("x")
    files = ("certs", "certs/ca.pem")
    node_modules.prepare_layer(Workspace.read(source, ""), layer, files)
    assert (layer / "certs/ca.pem").read_text() == "x"
    node_modules.finish_layer(Workspace.read(source, ""), layer, files, launch=True)
    assert (source / "certs/ca.pem").exists() and not (layer / "certs").exists()
