"""The SDK's starter: every staged buildpack begins with it, and ends when its main.py has ended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from packhorse.builder.package import stage_directory

ROOT = Path(__file__).parents[3]
PROGRAMS = sorted(
    [
        *(path for path in ROOT.glob("buildpacks/*/bin/*") if "Procfile" not in path.read_text()),
        *ROOT.glob("samples/buildpacks/*/bin/*"),
    ]
)
HEAD = "from packhorse import sdk\nsdk.main(detect=lambda _: sdk.Pass(), build=lambda _: sdk.BuildResult())\n"


def start(
    tmp_path: Path, main: str, program: str = "lib/packhorse/sdk/start.py"
) -> subprocess.CompletedProcess[str]:
    source, staged, platform = (tmp_path / name for name in ("source", "staged", "platform"))
    source.mkdir()
    platform.mkdir()
    (source / "main.py").write_text(main)
    stage_directory(source, staged)
    return subprocess.run(
        [
            *(sys.executable, "-I", "-S", "-B", staged / program),
            *(staged / "bin/detect", platform, tmp_path / "plan.toml"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_program_in_python_runs_the_starter(program: Path) -> None:
    last = program.read_text().splitlines()[-1]
    assert last == 'exec python3 -I -S -B "${0%/*}/../lib/packhorse/sdk/start.py" "$0" "$@"'


@pytest.mark.system
def test_the_starter_runs_main_and_ends_with_its_status(tmp_path: Path) -> None:
    done = start(tmp_path, HEAD.replace("sdk.Pass()", "sdk.Fail('not this one')"))
    assert (done.returncode, done.stdout, done.stderr) == (100, "  not this one\n", "")


@pytest.mark.system
def test_a_main_that_calls_no_sdk_is_an_error_and_not_a_silent_success(tmp_path: Path) -> None:
    done = start(tmp_path, "from packhorse import sdk\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: main.py of this buildpack does not end with sdk.main(…)\n"


@pytest.mark.system
def test_threads_and_exit_functions_of_a_buildpack_end_before_the_process(tmp_path: Path) -> None:
    begin = "import atexit, threading\natexit.register(print, 'at exit')\n"
    assert start(tmp_path, begin + HEAD).stdout == "at exit\n"
    thread = "threading.Thread(target=lambda: (over.wait(), print('thread'))).start()\n"
    wait = "over = threading.Event()\nthreading._register_atexit(over.set)\n"
    (tmp_path / "second").mkdir()
    assert start(tmp_path / "second", begin + wait + thread + HEAD).stdout == "thread\nat exit\n"


@pytest.mark.system
def test_a_buildpack_whose_programs_run_main_themselves_still_works(tmp_path: Path) -> None:
    begin = (
        "import sys\nfrom pathlib import Path\n"
        "sys.path.insert(0, str(Path(__file__).absolute().parent / 'lib'))\ndel sys.argv[0]\n"
    )
    done = start(tmp_path, begin + HEAD, program="main.py")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "plan.toml").exists()
