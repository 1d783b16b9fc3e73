"""The default builder's parts, really made: its run root, as on two machines of one release, and called off;
its buildpacks, compiled.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event

import pytest

from fakes import linux, users
from fakes.installation import Home
from fakes.shell_buildpack import SERVER, shell_buildpack
from packhorse.base.target import Target
from packhorse.builder.distro.roots import make_root
from packhorse.errors import HostError
from packhorse.host.distribution import host_sources, host_suite
from packhorse.host.folders import SCRATCH, sweep_scratch

MARK = "packhorse-trace"
_CHECKED_HASH = (3).to_bytes(4, "little")  # PEP 552
MAKE = """
import os, shutil, sys
from pathlib import Path
from urllib.parse import urlsplit
from packhorse.base.target import Target
from packhorse.builder.distro.roots import make_root
from packhorse.host.folders import private_directory
from packhorse.host.distribution import AptSource, host_sources, host_suite

def respelled(source):
    parts = urlsplit(source.uri)
    uri = parts._replace(netloc=parts.netloc.upper(), path=parts.path.rstrip("/") + "/").geturl()
    return AptSource(uri, source.suite, source.components)

suite = host_suite(Path("/etc/os-release").read_text())
sources = host_sources(suite)
if len(sys.argv) > 2:
    sources = tuple(map(respelled, sources))
with private_directory(shutil.rmtree) as own:
    record = make_root("run", suite=suite, arch=Target.host().arch, target=Path(sys.argv[1]), own=own,
                       sources=sources, env=os.environ, progress=lambda line: print(line, file=sys.stderr))
print(record.digest, record.packages["libc6"], *(urlsplit(source.uri).netloc for source in sources))
"""
# In its own host name and mounts: names, resolver, search domain and apt settings of another machine.
ELSEWHERE = f"""
set -e
hostname {MARK}-host
for file in hostname resolv.conf hosts; do
    cp /etc/$file "$1/$file"
    mount --bind "$1/$file" /etc/$file
done
echo {MARK}-host >/etc/hostname
echo 'search {MARK}.invalid' >>/etc/resolv.conf
echo '192.0.2.1 {MARK}.invalid' >>/etc/hosts
cp -r /etc/apt/apt.conf.d "$1/apt.conf.d"
echo 'Acquire::http::User-Agent "{MARK}-agent";' >"$1/apt.conf.d/99trace"
mount --bind "$1/apt.conf.d" /etc/apt/apt.conf.d
umask 077
shift
exec "$@"
"""


def make(target: Path, *prefix: str, respelled: bool = False, **variables: str) -> list[str]:
    """Makes the run root in its own process; returns its digest, libc6's version and the mirrors' names."""
    command = [*prefix, sys.executable, "-c", MAKE, str(target), *(["respelled"] if respelled else [])]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.torture
@pytest.mark.skipif(os.geteuid() != 0, reason="another host name and resolver file need root")
def test_two_machines_of_one_release_make_the_same_root_without_a_trace_of_either(tmp_path: Path) -> None:
    here, there = tmp_path / "here.tar", tmp_path / "there.tar"
    elsewhere = ("unshare", "--uts", "--mount", "sh", "-c", ELSEWHERE, "sh", str(tmp_path))
    source = str(Path(__file__).parents[2] / "src")
    with ThreadPoolExecutor() as pool:
        first = pool.submit(make, here, PYTHONPATH=source, TZ="UTC")
        second = pool.submit(
            make, there, *elsewhere, respelled=True, PYTHONPATH=source, TZ="Asia/Tokyo", LC_ALL="C", LANG="x"
        )
    digest, libc, *mirrors = first.result()
    assert second.result()[:2] == [digest, libc]
    data = here.read_bytes()
    assert data == there.read_bytes()

    for name in (MARK, *mirrors):
        assert not re.search(re.escape(name.encode()), data, re.IGNORECASE), name
    for certificate in Path("/usr/local/share/ca-certificates").rglob("*.crt"):
        # Not the first line, which certificates of one kind have in common.
        assert certificate.read_bytes().splitlines()[2] not in data, certificate

    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        directories = {info.name for info in tar if info.isdir()}
        names = set(tar.getnames())
        assert {info.mtime for info in tar} == {315532801}
        assert (tar.getmember("home/cnb").uid, tar.getmember("home/cnb").mode) == (1000, 0o755)
    files = names - directories
    assert {f"usr/bin/{program}" for program in ("sh", "bash", "env", "ls")} <= files
    assert "etc/ssl/certs/ca-certificates.crt" in files
    assert not files & {f"usr/bin/{program}" for program in ("gcc", "apt", "git", "python3")}
    assert not files & {f"etc/{name}" for name in ("hostname", "resolv.conf", "machine-id", "fstab")}
    assert not [
        name for name in files if name.startswith(("var/log", "var/lib/apt", "var/cache/apt", "etc/apt/s"))
    ]


def test_a_root_that_is_called_off_leaves_nothing(tmp_path: Path) -> None:
    suite = host_suite(Path("/etc/os-release").read_text())
    cancelled = Event()

    def progress(line: str) -> None:
        if "extracting" in line:
            cancelled.set()

    (tmp_path / "own").mkdir()
    with pytest.raises(HostError, match="was cancelled"):
        make_root(
            "run",
            suite=suite,
            arch=Target.host().arch,
            target=tmp_path / "run.tar",
            own=tmp_path / "own",
            sources=host_sources(suite),
            env=os.environ,
            progress=progress,
            cancelled=cancelled,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
    assert list((tmp_path / "own" / "temporary").iterdir()) == []


def test_of_one_that_was_killed_nothing_is_left_when_the_next_begins(tmp_path: Path) -> None:
    source = str(Path(__file__).parents[2] / "src")
    child = subprocess.Popen(
        [sys.executable, "-c", MAKE, str(tmp_path / "run.tar")],
        env=os.environ | {"PYTHONPATH": source},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    assert any("extracting" in line for line in child.stderr)
    (own,) = SCRATCH.glob(f"packhorse-{os.geteuid()}-{child.pid}-*")
    below = linux.descendants(child.pid)
    discard = partial(shutil.rmtree, ignore_errors=True)  # other tests' builds may sweep too
    sweep_scratch(discard)  # not while it works
    assert own.is_dir()
    child.kill()
    child.communicate()
    assert linux.gone(below, seconds=40)  # mmdebstrap takes its chroot away
    sweep_scratch(discard)
    assert not own.exists()


@pytest.mark.torture
def test_a_builder_that_was_removed_comes_back_the_same_for_everybody(
    new_home: Callable[[str], Home],
) -> None:
    """Only its bases are left, so its buildpacks are compiled again, by each user's own sandbox."""
    identifiers = set()
    for user in ("", users.RANGE, users.SINGLE):
        home = new_home(user)
        name = home.ok("builder", "default")
        identifiers.add(home.image_id(name))
        home.ok("rmi", name)
        assert home.ok("builder", "default") == name
        identifiers.add(home.image_id(name))
    assert len(identifiers) == 1


def test_P_011_P_012_P_013_and_P_016_to_P_019_the_default_builders_images_have_what_is_asked_of_base_images(
    home: Home, tmp_path: Path
) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "README").write_text("hello\n")
    asks = (
        'id -u; id -g; touch "$HOME/written"; ls "$HOME/written"; . /etc/os-release; echo "$ID" "$VERSION_ID"'
    )
    buildpack = shell_buildpack(tmp_path / "asks", "test/asks", build=f"{asks}\n{SERVER}")
    done = home.run("build", "asks", "--path", tmp_path / "app", "--buildpack", buildpack)
    assert done.returncode == 0, done.stderr
    said = [line.partition("[asks] ")[2] for line in done.stderr.splitlines() if "[asks] " in line]
    uid, gid, written, release = said
    assert int(uid) > 0 and written.endswith("/written")
    names = (line.split() for line in home.ok("images").splitlines())
    bases = {row[0].rpartition("/")[2]: f"{row[0]}:{row[1]}" for row in names if "packhorse.local/" in row[0]}
    for base in ("build", "run"):
        fields = json.loads(home.ok("inspect", "--output", "json", bases[base]))
        labels, variables = fields["labels"], dict(entry.split("=", 1) for entry in fields["env"])
        assert fields["user"] == f"{uid}:{gid}"
        distro = [labels[f"io.buildpacks.base.distro.{name}"] for name in ("name", "version")]
        assert distro == release.split()
        assert "/usr/bin" in variables["PATH"].split(":")
        assert labels["io.buildpacks.rebasable"] == "true"
        assert labels["io.buildpacks.base.id"] == f"io.packhorse.{'-'.join(distro)}"
        assert fields["target"] == str(Target.host())
        if base == "build":
            assert (variables["CNB_USER_ID"], variables["CNB_GROUP_ID"]) == (uid, gid)


def test_the_builders_own_buildpacks_are_compiled(own_home: Home, sample: Path) -> None:
    """By the builder's Python, whatever an installer has left beside them, and whenever they were written."""
    own_home.ok("detect", sample)
    modules = list(own_home.path.glob("store/trees/*/*/cnb/buildpacks/packhorse_nodejs/**/*.py"))
    assert modules
    for module in modules:
        (compiled,) = module.parent.glob(f"__pycache__/{module.stem}.cpython-*.pyc")
        assert compiled.read_bytes()[4:8] == _CHECKED_HASH, module
