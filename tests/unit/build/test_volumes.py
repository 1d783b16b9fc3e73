"""Which targets `--volume` may have, and that buildpacks can read what a user alone can."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fakes.churn import churning
from fakes.observer import Quiet
from packhorse.base.sandbox import Bind
from packhorse.build.mounts import _entries, check_targets, check_volumes, make_mount_points, make_readable
from packhorse.errors import InputError

_STORE = Path("/home/me/packhorse/store")


def _refused(*targets: str) -> tuple[str, ...]:
    with pytest.raises(InputError) as refused:
        check_volumes([Bind(Path("/srv"), target) for target in targets], Quiet(), store=_STORE)
    return refused.value.issues


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "//",
        "/tmp",
        "/platform/env/",
        "/layers",
        "/layers/x",
        "/workspace/",
        "/platform",
        "/proc/1",
        "/a/../dev",
        "/sys",
    ],
)
def test_what_packhorse_and_the_kernel_mount_is_refused(target: str) -> None:
    assert len(_refused(target)) == 1


def test_all_issues_are_named_at_once() -> None:
    assert _refused("/x", "/x/", "/x/y", "/layers/z") == (
        "/x is the target of two volumes",
        "/x/y is in /x, which is a volume as well",
        "/layers/z is in the buildpacks' layers, which become the image",
    )


@pytest.mark.parametrize("source", ["/", "/home/me", str(_STORE), f"{_STORE}/blobs"])
def test_a_source_that_shows_the_store_is_refused(source: str) -> None:
    with pytest.raises(InputError) as refused:
        check_volumes([Bind(Path(source), "/x")], Quiet(), store=_STORE)
    assert "own store" in refused.value.issues[0]


def test_another_workspace_is_refused_and_the_usual_one_is_not() -> None:
    volumes = [Bind(Path("/srv"), "/workspace")]
    assert check_volumes(volumes, Quiet(), store=_STORE, app="/app") == tuple(volumes)
    with pytest.raises(InputError, match="nothing can be mounted there"):
        check_volumes([Bind(Path("/srv"), "/app")], Quiet(), store=_STORE, app="/app")


def test_a_neighbour_with_the_same_beginning_is_another_place() -> None:
    wanted = [Bind(Path("/srv"), target) for target in ("/layers2", "/x", "/xy", "/process")]
    assert {volume.target for volume in check_volumes(wanted, Quiet(), store=_STORE)} == {
        "/layers2",
        "/x",
        "/xy",
        "/process",
    }


def test_sensitive_directories_are_said_as_pack_says_them() -> None:
    observer = Quiet()
    given = [Bind(Path("/srv"), "/cnb/x"), Bind(Path("/srv"), "/platform/bindings/x")]
    check_volumes(given, observer, store=_STORE)
    assert [line.split()[1] for line in observer.lines] == ["/cnb/x"]


@pytest.fixture
def builder(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").touch()
    return root


@pytest.mark.parametrize(
    ("target", "as_directory"),
    [
        ("/etc", False),
        ("/etc/passwd", True),
        ("/etc/passwd/x", True),
        ("/home/cnb/a/b", True),
        ("/tmp/a/b", True),
        ("/workspace/link", True),
        ("/workspace/README", True),
        ("/workspace/src", False),
    ],
)
def test_a_target_that_is_something_else_is_refused(
    builder: Path, tmp_path: Path, target: str, as_directory: bool
) -> None:
    app = tmp_path / "app"
    (app / "src").mkdir(parents=True)
    (app / "README").touch()
    (app / "link").symlink_to("/oldroot/etc")
    given = tmp_path / "given"
    given.mkdir() if as_directory else given.touch()
    areas = ("/home/cnb", "/tmp")
    with pytest.raises(InputError, match="--volume"):
        check_targets([Bind(given, target)], builder, app, "/workspace", areas=areas)
    good = [
        Bind(tmp_path, f"/{path}") for path in ("etc/new/x", "home/cnb/x", "home/cnb", "workspace/src", "srv")
    ]
    check_targets(good, builder, app, "/workspace", areas=areas)


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's files are the buildpacks' own")
@pytest.mark.system
def test_what_only_root_may_read_is_shown_as_the_buildpacks_own(tmp_path: Path) -> None:
    binding = tmp_path / "binding"
    binding.mkdir()
    (binding / "type").write_text("npmrc")
    (binding / ".npmrc").touch(mode=0o600)
    owner = (54321, 54321)
    (shown,) = make_readable([Bind(binding, "/platform/bindings/npmrc")], tmp_path, owner, Quiet())
    assert shown.is_users_own or (shown.source / ".npmrc").stat().st_uid == owner[0]
    os.chown(binding / "type", 1, 1)  # of two owners, which no mount can show as one
    (copied,) = make_readable([Bind(binding, "/platform/bindings/npmrc")], tmp_path, owner, Quiet())
    assert {path.stat().st_uid for path in copied.source.iterdir()} == {owner[0]}
    (binding / ".git").mkdir()  # part of a volume, though not of a source
    (copied,) = make_readable([Bind(binding, "/platform/bindings/npmrc")], tmp_path / "again", owner, Quiet())
    assert (copied.source / ".git").is_dir()
    (binding / ".npmrc").chmod(0o644)
    (open_to_all,) = make_readable([Bind(binding, "/platform/bindings/npmrc")], tmp_path, owner, Quiet())
    assert open_to_all.source == binding and not open_to_all.is_users_own


def test_volumes_in_the_platform_directory_have_their_mount_points(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    wanted = [
        Bind(tmp_path, "/platform/bindings/a"),
        Bind(file, "/platform/bindings/b"),
        Bind(file, "/platforms/c"),
    ]
    directory = tmp_path / "platform"
    directory.mkdir()
    make_mount_points(directory, "/platform", wanted)
    assert (directory / "bindings/a").is_dir() and (directory / "bindings/b").is_file()
    assert len(list(directory.rglob("*"))) == 3


def test_files_of_a_volume_may_go_while_it_is_looked_at(tmp_path: Path) -> None:
    with churning(tmp_path):
        for _ in range(300):
            assert list(_entries(tmp_path))
