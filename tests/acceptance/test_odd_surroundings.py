"""Whatever packhorse is started in, it works or says why: closed streams, full disks, no home, no place."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from fakes.installation import REPOSITORY, Home
from fakes.shell_buildpack import shell_buildpack
from fakes.users import SINGLE, ensure, let_pass

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")

_CODES = (REPOSITORY / "docs/reference/exit-codes.md").read_text()
DOCUMENTED = set(map(int, re.findall(r"^\| (\d+) \|", _CODES, re.MULTILINE)))
SECRET = "sekret-0451"
NOBODY = 54321
"""A user that is in no table."""


def started(
    program: Path,
    *words: str | bytes,
    before: str = ":",
    environ: Mapping[str, str] = {},
    cwd: Path = Path("/"),
    uid: int = 0,
) -> subprocess.CompletedProcess[bytes]:
    """Runs a shell's line `before`, then packhorse with nothing but `environ`."""
    line = ["sh", "-c", f'{before}; exec "$@"', "sh", str(program), *words]
    done = subprocess.run(
        line,
        env={"PATH": "/usr/bin:/bin", **environ},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        user=uid,
        group=uid,
        extra_groups=[],
    )
    said = done.stdout + done.stderr
    assert done.returncode in DOCUMENTED, said
    assert b"Traceback" not in said and b"went wrong" not in said and b"Exception ignored" not in said, said
    return done


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory of the user's own, which he can reach."""
    user = ensure(SINGLE)
    let_pass(tmp_path)
    os.chown(tmp_path, user.pw_uid, user.pw_gid)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "before", "status"),
    [
        (["images"], "exec <&-", 0),
        (["images"], "exec >&-", 0),
        (["images"], "exec <&- >&- 2>&-", 0),
        (["inspect", "store:nosuch"], "exec 2>&-", 4),
        (["inspect", "store:nosuch"], "exec 2>/dev/full", 4),
        (["images"], "exec >/dev/full", 1),
        (["--help"], "exec >/dev/full", 1),
        (["build", "--help"], "exec >/dev/full", 1),
        (["--version"], "exec >/dev/full 2>/dev/full", 1),
        (["images"], "umask 777", 6),
        (["images"], "ulimit -f 0", 6),
    ],
)
def test_streams_and_limits(
    words: Sequence[str], before: str, status: int, program: Path, place: Path
) -> None:
    uid = ensure(SINGLE).pw_uid
    done = started(program, *words, before=before, environ={"HOME": str(place / "home")}, uid=uid)
    assert done.returncode == status, done.stderr
    assert b"packhorse itself went wrong" not in done.stderr


@pytest.mark.parametrize("command", [["images"], ["inspect", "store:x"], ["doctor", "store"], ["build", "x"]])
def test_no_home_no_directory_and_no_name(command: Sequence[str], program: Path, place: Path) -> None:
    uid = ensure(SINGLE).pw_uid
    home = {"HOME": str(place / "home")}
    gone = f"mkdir {place}/gone; cd {place}/gone; rmdir {place}/gone"
    started(program, *command, before=gone, environ=home, uid=uid)
    started(program, *command, environ={**home, "TMPDIR": "/nowhere"}, uid=uid)
    started(program, *command, environ={"HOME": "/etc/passwd"}, uid=uid)
    started(program, *command, b"\xff\xfe", environ={**home, "LC_ALL": "C"}, uid=uid)
    nameless = started(program, *command, uid=NOBODY, cwd=place)
    assert nameless.returncode == 2 and b"set PACKHORSE_HOME, or HOME" in nameless.stderr
    assert sorted(path.name for path in place.iterdir()) in ([], ["home"])


def test_too_few_files_are_the_machines_fault(home: Home, sample_id: str, tmp_path: Path) -> None:
    (tmp_path / "README").touch()
    run, build = ["run", "sample", "true"], ["build", "few", "--path", str(tmp_path)]
    cases = [(run, 125, most) for most in range(8, 40)] + [(build, 7, most) for most in range(8, 41)]
    for words, code, most in cases:
        done = started(
            home.program, *words, before=f"ulimit -n {most}", environ={"PACKHORSE_HOME": str(home.path)}
        )
        assert done.returncode in (0, 6, code, 20, 51, 127), (most, done.stderr)
        assert b"Exception in" not in done.stderr, (most, done.stderr)
        if done.returncode == code:
            assert b"packhorse doctor" in done.stderr or b"ulimit -n" in done.stderr, (most, done.stderr)


def test_a_closed_stdout_is_no_error_for_an_image(home: Home, sample_id: str) -> None:
    done = started(
        home.program,
        *("run", "--entrypoint", "sh", "sample", "-c", "echo said"),
        before="exec >&-",
        environ={"PACKHORSE_HOME": str(home.path)},
    )
    assert done.returncode == 0, done.stderr


DEFECT = """
import sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "packhorse.lifecycle.create":
            sys.meta_path.remove(self)
            import packhorse.source.files as app
            app.check = broken
        return None

def broken(path):
    import os
    told = [word for word in sys.argv if "=" in word]
    try:
        raise KeyError(str(told))
    except KeyError as error:
        url = "https://me:pw-9981@host/x?token=tk-7723"
        raise ValueError(f"{told} {url} file-3377-value {dict(os.environ)}") from error

sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize("verbose", [False, True])
def test_a_defect_of_ours_is_reported_without_a_secret(verbose: bool, home: Home, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(DEFECT)
    (tmp_path / "env").write_text("FROM_FILE=file-3377-value\n")
    environ = {
        "PACKHORSE_HOME": str(home.path),
        "PYTHONPATH": str(tmp_path),
        "API_TOKEN": "environ-5512",
        "https_proxy": "http://user:proxy-1180@127.0.0.1:1",
    }
    words = ["build", "x", "-e", f"SECRET={SECRET}", f"--env=OTHER={SECRET}2", "--env-file", "env"]
    done = subprocess.run(
        [home.program, *words, *(["--verbose"] if verbose else [])],
        env={"PATH": "/usr/bin:/bin", **environ},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "error: packhorse itself went wrong: ValueError" in said and "please report it" in said
    assert "packhorse/cli/main.py" in said and "Traceback" not in said
    assert ("caused by KeyError" in said) == verbose
    for secret in (SECRET, "environ-5512", "proxy-1180", "pw-9981", "tk-7723", "file-3377-value"):
        assert secret not in said, said


def test_a_failing_build_says_no_secret_and_keeps_it_for_its_user_alone(
    own_home: Home, tmp_path: Path
) -> None:
    buildpack = shell_buildpack(tmp_path / "buildpack", build="exit 9")
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "README").touch()
    (tmp_path / "env").write_text("FROM_FILE=file-3377-value\n")
    done = own_home.run(
        *("build", "secretive", "--path", tmp_path / "app", "--buildpack", buildpack, "--verbose"),
        *("-e", f"SECRET={SECRET}", "--env-file", tmp_path / "env"),
        env={"https_proxy": "http://user:proxy-1180@127.0.0.1:1"},
    )
    said = done.stdout + done.stderr
    assert done.returncode == 51 and "failed (exit status 9)" in said, said
    for secret in (SECRET, "file-3377-value", "proxy-1180"):
        assert secret not in said, said
    script = Path(next(word for word in said.split() if word.endswith("again.sh")))
    assert SECRET not in script.read_text()  # a command line can be read by everybody
    files = [path for path in script.parent.rglob("*") if path.is_file() and not path.is_symlink()]
    holders = [path for path in files if SECRET.encode() in path.read_bytes()]
    for path in (script, *holders):
        denied = subprocess.run(["cat", path], user=ensure(SINGLE).pw_uid, capture_output=True)
        assert b"Permission denied" in denied.stderr, path
    assert holders
