"""What a context gives beside its values: programs of exec.d, bills of materials, what was staged."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from packhorse import sdk
from packhorse.errors import BuildError, NotFoundError
from packhorse.sdk import dependencies


def context(tmp_path: Path, env: dict[str, str] | None = None, formats: str = "") -> sdk.BuildContext:
    for folder in ("app", "layers", "platform", "buildpack/exec.d"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / "buildpack/buildpack.toml").write_text(
        f'[buildpack]\nid = "x"\nversion = "1"\nsbom-formats = [{formats}]\n'
    )
    return sdk.BuildContext(
        app=tmp_path / "app",
        buildpack=sdk.Descriptor.read(tmp_path / "buildpack"),
        platform=sdk.Platform.read(tmp_path / "platform"),
        target=sdk.Target(arch="arm64"),
        exec_env="production",
        env=env or {},
        log=sdk.Log(io.StringIO(), io.StringIO()),
        layers=tmp_path / "layers",
    )


def test_a_native_program_goes_before_a_script(tmp_path: Path) -> None:
    given = context(tmp_path)
    folder = tmp_path / "buildpack/exec.d"
    with pytest.raises(NotFoundError, match=r"x has no exec\.d/heap"):
        given.exec_d("heap")
    (folder / "heap").touch()
    (folder / "heap-linux-amd64").touch()
    assert given.exec_d("heap") == folder / "heap"
    staged = tmp_path / "buildpack/lib/programs/heap-linux-arm64"
    staged.parent.mkdir(parents=True)
    staged.touch()
    assert given.exec_d("heap") == staged
    (folder / "heap-linux-arm64").touch()
    assert given.exec_d("heap") == folder / "heap-linux-arm64"


def test_a_script_is_written_executable_for_all_or_one_process(tmp_path: Path) -> None:
    layer = context(tmp_path).layer("x", key={"a": "1"}, launch=True, cache=True)
    layer.write_exec_d("port", "#!/bin/sh\n")
    layer.write_exec_d("port", "#!/bin/sh\n", process="web")
    for path in ("exec.d/port", "exec.d/web/port"):
        assert (layer.path / path).stat().st_mode & 0o777 == 0o755
    kept = context(tmp_path).layer("x", key={"a": "1"}, launch=True, cache=True)
    with pytest.raises(BuildError):
        kept.write_exec_d("port", "")


def test_bills_are_written_in_the_declared_formats(tmp_path: Path) -> None:
    bill = sdk.Bill((sdk.Component("x"),))
    both = (
        '"application/vnd.cyclonedx+json;version=1.5", "application/spdx+json", "application/vnd.syft+json"'
    )
    given = context(tmp_path, formats=both)
    layer = given.layer("l", key={"a": "1"}, launch=True, cache=True)
    for part in ("launch", "build", layer):
        given.write_sbom(part, bill)
    names = {path.name for path in given.layers.glob("*.sbom.*")}
    assert names == {
        f"{part}.sbom.{end}.json" for part in ("launch", "build", "l") for end in ("cdx", "spdx")
    }
    with pytest.raises(BuildError, match="which it keeps"):
        later = context(tmp_path, formats=both)
        later.write_sbom(later.layer("l", key={"a": "1"}, launch=True, cache=True), bill)


def test_bills_are_left_out_for_who_wants_none_and_refused_undeclared(tmp_path: Path) -> None:
    bill = sdk.Bill((sdk.Component("x"),))
    context(tmp_path, {"BP_DISABLE_SBOM": "true"}, '"application/spdx+json"').write_sbom("launch", bill)
    assert list((tmp_path / "layers").iterdir()) == []
    with pytest.raises(BuildError, match="declares no format"):
        context(tmp_path).write_sbom("launch", bill)


def test_a_bill_that_was_brought_back_goes_where_none_or_another_format_is_wanted(tmp_path: Path) -> None:
    bill = sdk.Bill((sdk.Component("x"),))
    given = context(tmp_path, formats='"application/vnd.cyclonedx+json", "application/spdx+json"')
    given.layer("l", key={"a": "1"}, launch=True, cache=True)
    given.layer("l.x", key={"a": "1"}, launch=True, cache=True)
    given.write_sbom("l", bill)
    given.write_sbom("l.x", bill)
    context(tmp_path, formats='"application/spdx+json"').write_sbom("l", bill)
    assert {path.name for path in given.layers.glob("l.sbom.*")} == {"l.sbom.spdx.json"}
    context(tmp_path, {"BP_DISABLE_SBOM": "1"}, '"application/spdx+json"').write_sbom("l", bill)
    assert {path.name for path in given.layers.glob("*.sbom.*")} == {
        "l.x.sbom.cdx.json",
        "l.x.sbom.spdx.json",
    }


def test_files_of_the_buildpack_go_before_those_of_a_mirror(tmp_path: Path) -> None:
    for place, version in (("buildpack/dependencies", "1"), ("mirror", "2")):
        (tmp_path / "file").write_text(version)
        dependencies.write_dependencies(tmp_path / place, [("tool", version, tmp_path / "file")])
    given = context(tmp_path, {"BP_DEPENDENCY_MIRROR": (tmp_path / "mirror").as_uri()})
    assert given.dependencies.versions("tool") == ("1", "2")
    digest = str(sdk.Checksum.of(tmp_path / "file"))
    assert given.fetch(sdk.Source("https://nowhere.test/x", digest), tmp_path / "got").read_text() == "2"


def test_bindings_are_the_platforms(tmp_path: Path) -> None:
    (tmp_path / "platform/bindings/a").mkdir(parents=True)
    (tmp_path / "platform/bindings/a/type").write_text("npmrc")
    assert [binding.name for binding in context(tmp_path).bindings.all] == ["a"]


def test_a_buildpack_toml_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "buildpack.toml").write_bytes(b'\xef\xbb\xbf[buildpack]\nid = "x"\nversion = "1"\n')
    assert sdk.Descriptor.read(tmp_path).id == "x"
