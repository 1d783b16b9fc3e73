"""Processes through bash, and the scripts that it sources first (P-139, P-142)."""

import os
import subprocess
from pathlib import Path

import pytest

from unit.launcher.appimage import AppImage

pytestmark = pytest.mark.system


def test_a_command_without_arguments_is_a_script(image: AppImage) -> None:
    image.describe({"type": "web", "command": ["for i in a b; do echo $i-$X; done"], "buildpack-id": "a"})

    assert image.output(env={"X": "x"}) == "a-x\nb-x\n"


def test_a_user_command_without_arguments_is_a_script(image: AppImage) -> None:
    assert image.output("echo one; echo $X", env={"X": "two"}) == "one\ntwo\n"


def test_words_are_evaluated_by_the_shell_but_not_split(image: AppImage) -> None:
    image.describe(
        {
            "type": "web",
            "command": ["printf"],
            "args": ["<%s>", "$X", "a b", "$(echo c d)"],
            "buildpack-id": "a",
        }
    )

    assert image.output(env={"X": "x  y"}) == "<x  y><a b><c d>"


def test_user_words_are_evaluated_too(image: AppImage) -> None:
    assert image.output("printf", "<%s>", "$X", "\\$X", env={"X": "x  y"}) == "<x  y><$X>"


def test_more_than_nine_words_arrive_in_order(image: AppImage) -> None:
    words = [f"w{n}" for n in range(25)]

    assert image.output("echo", *words) == " ".join(words) + "\n"


def test_elements_of_a_command_are_one_script_below_platform_api_0_10(image: AppImage) -> None:
    image.describe(
        {"type": "web", "command": ["echo", "a", "$X"], "buildpack-id": "a"}, buildpacks={"a": "0.8"}
    )

    assert image.output(api="0.9", env={"X": "x"}) == "a x\n"


def test_profiles_are_sourced_layer_by_layer_and_that_of_the_application_last(image: AppImage) -> None:
    image.describe(
        {"type": "web", "command": ["echo $X"], "buildpack-id": "a"}, buildpacks={"a": "0.12", "b/c": "0.7"}
    )
    for name in (
        "a/1/profile.d/2",
        "a/1/profile.d/1",
        "a/1/profile.d/web/0",
        "a/2/profile.d/0",
        "b_c/0/profile.d/0",
    ):
        image.write(f"layers/{name}", f'X="$X {name}"')
    image.write("layers/a/1/profile.d/worker/0", "exit 1")
    image.write("workspace/.profile", 'export X="$X application"')

    assert image.output().split() == [
        "a/1/profile.d/1",
        "a/1/profile.d/2",
        "a/1/profile.d/web/0",
        "a/2/profile.d/0",
        "b_c/0/profile.d/0",
        "application",
    ]


def test_profiles_are_not_sourced_for_direct_processes(image: AppImage) -> None:
    image.write("layers/a/1/profile.d/0", "export X=profile")
    image.write("workspace/.profile", "export X=profile")

    assert image.output("--", "printenv", "X", env={"X": "container"}) == "container\n"


def test_a_directory_named_profile_is_passed_over(image: AppImage) -> None:
    (image.app / ".profile").mkdir()

    assert image.output("echo started") == "started\n"


def test_profiles_see_the_name_of_the_launcher_and_the_launch_environment(image: AppImage) -> None:
    image.write("layers/a/l/env/FROM_LAYER", "yes")
    image.write("layers/a/l/exec.d/x", "#!/bin/sh\necho 'FROM_PROGRAM = \"yes\"' >&3\n", executable=True)
    image.write("workspace/.profile", 'export X="$0 $FROM_LAYER $FROM_PROGRAM ${CNB_LAYERS_DIR-unset} $PWD"')

    assert image.output("echo $X") == f"/cnb/process/web yes yes unset {image.app.resolve()}\n"


def test_a_shell_process_runs_in_its_working_directory_after_the_profiles(image: AppImage) -> None:
    (image.root / "else where").mkdir()
    image.describe({"type": "web", "command": ["pwd"], "working-dir": str(image.root / "else where")})
    image.write("workspace/.profile", "cd /")

    assert image.output() == f"{(image.root / 'else where').resolve()}\n"


def test_the_shell_becomes_the_process(image: AppImage) -> None:
    command = [str(image.launcher), "echo $$"]

    with subprocess.Popen(command, env=image.container(), stdout=subprocess.PIPE) as process:
        output, _ = process.communicate()

    assert int(output) == process.pid


@pytest.mark.parametrize(("args", "expected"), [([], 0), (["x"], 82)])
def test_words_of_a_process_need_its_buildpack(image: AppImage, args: list[str], expected: int) -> None:
    image.describe({"type": "web", "command": ["true"], "args": args, "buildpack-id": "gone"})

    done = image.start()

    assert done.returncode == expected
    assert (b"process type 'web' provided by unknown buildpack 'gone'" in done.stderr) == (expected == 82)


def test_too_long_an_environment_is_named(image: AppImage) -> None:
    image.write("layers/a/l/env/X", "x" * 200_000)

    done = image.start("true")

    assert done.returncode == 82
    assert b"too long" in done.stderr


def test_an_image_without_bash_is_told_so(image: AppImage, binaries: dict[str, Path]) -> None:
    """The root directory holds nothing but the launcher, which needs nothing else."""
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    image.write("launcher", binaries[architecture].read_bytes(), executable=True)
    environment = {"CNB_LAYERS_DIR": "/layers", "CNB_APP_DIR": "/workspace", "CNB_PLATFORM_API": "0.15"}
    inside = ["/usr/sbin/chroot", str(image.root), "/launcher", "echo hello"]

    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", *inside], env=environment, capture_output=True, check=False
    )

    assert (done.returncode, done.stdout) == (82, b"")
    assert b"the image has no /bin/bash" in done.stderr
    assert b"'--'" in done.stderr
