"""Whatever stands on the command line, and in the files that it names: a documented end, and no traceback.

An ordinary user runs it, who sees nothing that he may write but one directory and empty temporary ones, which
have to be empty afterwards. PACKHORSE_FUZZ_EXAMPLES asks for so many other examples, for who has time.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from fakes import users
from fakes.users import SINGLE

pytestmark = pytest.mark.system

REPOSITORY = Path(__file__).parents[2]
VIEW, PLACE = Path("/mnt"), Path("/srv")
TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")
EXAMPLES = 300

SCRIPT = """
set -eu
mount --bind "$1" "$2"
mount --bind "$3" "$4"
shift 4
for each in {temporary}; do mount -t tmpfs -o mode=1777 tmpfs $each; done
cd /
status=0
runuser -u {user} -- "$@" || status=$?
find {temporary} -mindepth 1 | sed 's/^/left behind: /'
exit $status
"""


def seen(path: Path) -> Path:
    """Where a path is for the user, to whom directories above the repository may be hidden."""
    return VIEW / path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_every_command_line_ends_as_documented(tmp_path: Path) -> None:
    user = users.ensure(SINGLE)
    os.chown(tmp_path, user.pw_uid, user.pw_gid)
    codes = re.findall(
        r"^\| (\d+) \|", (REPOSITORY / "docs/reference/exit-codes.md").read_text(), re.MULTILINE
    )
    packages = seen(Path(pytest.__file__).parents[1])
    more = os.environ.get("PACKHORSE_FUZZ_EXAMPLES", "")
    script = SCRIPT.format(temporary=" ".join(TEMPORARY), user=SINGLE)
    mounts = [str(path) for path in (REPOSITORY, VIEW, tmp_path, PLACE)]
    python = [
        *("env", f"PYTHONPATH={packages}:{VIEW}/src:{VIEW}/tests", "PYTHONDONTWRITEBYTECODE=1"),
        *(str(seen(Path(users.interpreter(SINGLE)))), str(VIEW / "tests/fuzz/command_line.py")),
        *(str(PLACE / "place"), more or str(EXAMPLES), ",".join(codes), *(["random"] if more else [])),
    ]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *mounts, *python],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    subprocess.run(["chmod", "-R", "u+rwX", str(tmp_path)], check=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " command lines ended with " in done.stdout and "left behind" not in done.stdout
