"""exec.d programs (B-100, B-154, P-141)."""

import signal
import subprocess

import pytest

from unit.launcher.appimage import AppImage

pytestmark = pytest.mark.system


def script(*lines: str) -> str:
    return "\n".join(["#!/bin/sh", *lines, ""])


def test_what_a_program_writes_to_descriptor_3_overrides_the_environment(image: AppImage) -> None:
    image.write("layers/a/l/exec.d/x", script("echo 'X = \"new\"' >&3"), executable=True)

    assert image.variables(env={"X": "old"})["X"] == "new"


def test_programs_run_layer_by_layer_and_see_what_earlier_ones_gave(image: AppImage) -> None:
    for name in ("a/1/exec.d/2", "a/1/exec.d/1", "a/1/exec.d/web/0", "a/2/exec.d/0", "b_c/0/exec.d/0"):
        image.write(f"layers/{name}", script(f"echo \"X = '$X {name}'\" >&3"), executable=True)
    image.write("layers/a/1/exec.d/worker/0", script("exit 1"), executable=True)

    assert image.variables()["X"].split() == [
        "a/1/exec.d/1",
        "a/1/exec.d/2",
        "a/1/exec.d/web/0",
        "a/2/exec.d/0",
        "b_c/0/exec.d/0",
    ]


def test_a_program_sees_the_launch_environment_and_runs_in_the_application_directory(image: AppImage) -> None:
    image.write("layers/a/l/env/FROM_LAYER", "yes")
    image.write(
        "layers/a/l/exec.d/x",
        script("echo \"X = '''$(pwd -P) $FROM_LAYER ${CNB_LAYERS_DIR-unset} $# $0'''\" >&3"),
        executable=True,
    )

    program = image.layers / "a/l/exec.d/x"
    assert image.variables()["X"] == f"{image.app.resolve()} yes unset 0 {program}"


def test_a_program_has_no_input_and_the_outputs_of_the_launcher(image: AppImage) -> None:
    image.write("layers/a/l/exec.d/x", script("cat", "echo out", "echo err >&2"), executable=True)

    done = image.start("--", "echo", "process")

    assert (done.returncode, done.stdout, done.stderr) == (0, b"out\nprocess\n", b"err\n")


def test_a_program_that_writes_nothing_changes_nothing(image: AppImage) -> None:
    before = image.variables()
    image.write("layers/a/l/exec.d/x", script("exec 3>&-", "sleep 0.01"), executable=True)

    assert image.variables() == before


def test_an_output_larger_than_a_pipe_arrives_whole(image: AppImage) -> None:
    pair = "echo \"K$i = 'a value of some forty bytes, more or less'\""
    loop = f"i=0; while [ $i -lt 3000 ]; do {pair}; i=$((i+1)); done >&3"
    image.write("layers/a/l/exec.d/x", script(loop), executable=True)

    variables = image.variables()

    assert sum(name.startswith("K") for name in variables) == 3000


def test_programs_of_a_process_type_are_not_run_for_a_user_command(image: AppImage) -> None:
    image.describe({"type": "web", "command": ["true"], "direct": True})
    image.write("layers/a/l/exec.d/web/x", script("exit 1"), executable=True)

    assert image.output("--", "echo", "started", name="launcher") == "started\n"


def test_the_pipe_is_not_left_to_the_process(image: AppImage) -> None:
    image.write("layers/a/l/exec.d/x", script(":"), executable=True)

    assert image.output("--", "sh", "-c", "echo /proc/self/fd/*").split() == [
        f"/proc/self/fd/{n}" for n in range(4)
    ]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["exit 3"], "exit status 3"),
        (["kill -TERM $$"], f"signal {signal.SIGTERM.value}"),
        (["echo 'X = 1' >&3"], "'X' is of type integer, not string"),
        (["echo 'a.b = \"x\"' >&3"], "'a' is of type table, not string"),
        (["echo '[t]' >&3"], "'t' is of type table, not string"),
        (["echo 'X = [\"x\"]' >&3"], "'X' is of type array, not string"),
        (["echo 'X = x' >&3"], "line 1: "),
        (["printf 'A = \"a\"\\n\\nX' >&3"], "line 3: "),
        (["printf 'X = \"\\377\"' >&3"], "UTF-8"),
        (["printf 'X = \"\\\\u0000\"' >&3"], "zero byte"),
        (["echo 'X = \"a\"' >&3", "exit 1"], "exit status 1"),
    ],
)
def test_a_failing_program_or_a_bad_output_stops_the_launch(
    image: AppImage, lines: list[str], reason: str
) -> None:
    path = image.write("layers/a/l/exec.d/x", script(*lines), executable=True)

    done = image.start("--", "echo", "started")

    assert (done.returncode, done.stdout) == (82, b"")
    message = done.stderr.decode()
    assert message.startswith(f"ERROR: failed to launch: exec.d: {path}: ")
    assert reason in message


@pytest.mark.parametrize("content", ["#!/no/such/interpreter\n", "no program\n"])
def test_a_file_that_cannot_be_executed_stops_the_launch(image: AppImage, content: str) -> None:
    image.write("layers/a/l/exec.d/x", content, executable=True)

    assert image.start("--", "true").returncode == 82


def test_a_file_without_the_right_to_execute_stops_the_launch(image: AppImage) -> None:
    image.write("layers/a/l/exec.d/x", script(":"))

    assert image.start("--", "true").returncode == 82


def test_a_program_may_be_a_link(image: AppImage) -> None:
    target = image.write("elsewhere/program", script("echo 'X = \"linked\"' >&3"), executable=True)
    (image.layers / "a/l/exec.d").mkdir(parents=True)
    (image.layers / "a/l/exec.d/x").symlink_to(target)

    assert image.variables()["X"] == "linked"


def test_a_program_is_waited_for_where_the_container_ignores_its_end(image: AppImage) -> None:
    image.write("layers/a/l/exec.d/x", script("echo 'X = \"a\"' >&3"), executable=True)
    image.describe()
    ignoring = ["sh", "-c", 'trap "" CHLD; exec "$0" -- printenv X', str(image.launcher)]

    assert subprocess.check_output(ignoring, env=image.container()) == b"a\n"


def test_it_works_as_process_1(image: AppImage) -> None:
    image.write("layers/a/l/exec.d/x", script("sleep 0 &", "echo 'X = \"a\"' >&3"), executable=True)
    image.describe()
    process_1 = ["unshare", "--user", "--map-root-user", "--pid", "--fork", str(image.launcher)]

    output = subprocess.check_output([*process_1, "--", "sh", "-c", "echo $$ $X"], env=image.container())

    assert output == b"1 a\n"
