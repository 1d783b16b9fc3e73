"""`packhorse build --volume`: what buildpacks see of it, for every kind of user; nothing of it stays."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes import users
from fakes.installation import Home
from fakes.shell_buildpack import SERVER, shell_buildpack
from lanes import first_in_test

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the shared home is root's")

_SECRET = "s3cr3t-of-a-binding"
_LOOK = """
cd "$CNB_PLATFORM_DIR/bindings/npmrc"
echo "type $(cat type)"
md5sum .npmrc
(echo x > new) 2> /dev/null && echo "wrote into the binding"
echo "root ${SERVICE_BINDING_ROOT-unset}"
echo more >> /cache/log
echo more >> ~/.m2/log
"""


def _binding(folder: Path) -> Path:
    binding = folder / "binding"
    binding.mkdir(parents=True)
    (binding / "type").write_text("npmrc")
    (binding / ".npmrc").write_text(f"//registry.test/:_authToken={_SECRET}\n")
    (binding / ".npmrc").chmod(0o600)
    return binding


@pytest.mark.parametrize(
    ("user", "sandbox"), first_in_test([("", ""), ("", "runc"), (users.RANGE, ""), (users.SINGLE, "")])
)
def test_buildpacks_read_a_binding_and_the_image_has_nothing_of_it(
    user: str, sandbox: str, new_home: Callable[..., Home], home: Home, common: Path, tmp_path: Path
) -> None:
    chosen = new_home(user) if user else home
    folder = common / f"volumes-{user or 'root'}-{sandbox}"
    binding, cache, app = _binding(folder), folder / "cache", folder / "app"
    cache.mkdir()
    cache.chmod(0o777)
    app.mkdir()
    (app / "README").write_text("hello\n")
    look = '[ "$(cat "$CNB_PLATFORM_DIR/bindings/npmrc/type")" = npmrc ]'
    buildpack = shell_buildpack(folder / "buildpack", detect=look, build=_LOOK + SERVER)
    shutil.copy(binding / "type", folder / "one-file")
    if user:
        for path in (folder, *folder.rglob("*")):
            shutil.chown(path, user, user)
    arguments = [
        *("build", "volumes", "--path", app, "--buildpack", buildpack, "-v"),
        *("--volume", f"{binding}:/platform/bindings/npmrc", "--volume", f"{cache}:/cache:rw"),
        *("--volume", f"{folder / 'one-file'}:/workspace/one-file:ro"),
        *("--volume", f"{cache}:/home/cnb/.m2:rw"),
        *(
            "--env",
            "SERVICE_BINDING_ROOT=/platform/bindings",
            "--output",
            f"oci-archive:{folder / 'image.tar'}",
        ),
        *(("--sandbox", sandbox) if sandbox else ()),
    ]
    done = chosen.run(*arguments)
    assert done.returncode == 0, done.stderr
    assert "[shell] type npmrc\n" in done.stderr and "[shell] root /platform/bindings\n" in done.stderr
    assert "wrote into the binding" not in done.stderr and "/workspace/one-file is in" in done.stderr
    assert (cache / "log").read_text() == "more\nmore\n"
    assert _SECRET not in done.stderr + done.stdout
    assert _content(folder / "image.tar").count(_SECRET.encode()) == 0
    assert b"type npmrc" not in _content(folder / "image.tar")
    assert chosen.ok("run", "--entrypoint", "cat", "volumes", "/workspace/one-file") == ""


def test_an_image_is_run_with_a_binding(home: Home, sample_id: str, common: Path) -> None:
    binding = _binding(common / "volumes-run")
    (binding / ".npmrc").chmod(0o644)
    said = home.ok(
        *("run", "-v", f"{binding}:/bindings/npmrc:ro", "-e", "SERVICE_BINDING_ROOT=/bindings"),
        *("--entrypoint", "sh", "sample", "-c", 'cat "$SERVICE_BINDING_ROOT/npmrc/.npmrc"; ls /bindings'),
    )
    assert _SECRET in said and said.endswith("npmrc")


@pytest.mark.parametrize(
    ("volume", "says"),
    [
        ("/no/where:/x", "there is no /no/where"),
        ("named:/x", "write SOURCE:TARGET"),
        ("/srv:x", "write SOURCE:TARGET"),
        ("/srv:/x:rx", "write SOURCE:TARGET"),
        ("/srv:/x:", "write SOURCE:TARGET"),
        ("/srv", "write SOURCE:TARGET"),
        ("/etc/passwd:/etc", "/etc is a directory in the builder, and /etc/passwd is a file"),
        ("/srv:/layers", "/layers is where packhorse mounts something itself"),
    ],
)
def test_a_wrong_volume_is_said(volume: str, says: str, home: Home, sample: Path) -> None:
    done = home.run("build", "wrong", "--path", sample, "--volume", volume)
    assert done.returncode in (2, 3) and says in done.stderr, done.stderr


def _content(archive: Path) -> bytes:
    """Every byte of an image: its documents, and its layers unpacked."""
    content = b""
    with tarfile.open(archive) as image:
        for member in image:
            file = image.extractfile(member)
            data = file.read() if file else b""
            content += data
            if data[:2] == b"\x1f\x8b":
                content += gzip.decompress(data)
    return content
