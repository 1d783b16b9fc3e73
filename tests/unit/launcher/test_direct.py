"""Processes without a shell: finding the program, the working directory, failures (P-136, P-143 to P-146)."""

import subprocess

import pytest

from unit.launcher.appimage import AppImage

pytestmark = pytest.mark.system


def test_the_exit_code_is_that_of_the_process(image: AppImage) -> None:
    assert image.start("--", "sh", "-c", "exit 7").returncode == 7


def test_the_launcher_becomes_the_process(image: AppImage) -> None:
    command = [str(image.launcher), "--", "sh", "-c", "echo $$"]

    with subprocess.Popen(command, env=image.container(), stdout=subprocess.PIPE) as process:
        output, _ = process.communicate()

    assert int(output) == process.pid


def test_arguments_reach_the_process_unchanged(image: AppImage) -> None:
    arguments = ["", " ", "$HOME", "a\nb", '"', "'", "\\", "é", "*", "--"]

    assert image.output("--", "printf", "<%s>", *arguments) == "".join(
        f"<{argument}>" for argument in arguments
    )


def test_the_first_argument_is_the_command_as_it_is_written(image: AppImage) -> None:
    assert image.output("--", "sh", "-c", "tr '\\0' ' ' < /proc/$$/cmdline").startswith("sh -c ")


def test_a_process_runs_in_the_application_directory(image: AppImage) -> None:
    assert image.output("--", "/bin/pwd") == f"{image.app.resolve()}\n"


def test_a_process_runs_in_its_working_directory(image: AppImage) -> None:
    (image.root / "elsewhere").mkdir()
    image.describe(
        {"type": "web", "command": ["/bin/pwd"], "direct": True, "working-dir": str(image.root / "elsewhere")}
    )

    assert image.output() == f"{(image.root / 'elsewhere').resolve()}\n"


def test_a_missing_working_directory_fails(image: AppImage) -> None:
    image.describe({"type": "web", "command": ["true"], "direct": True, "working-dir": "/no/such/directory"})

    done = image.start()

    assert done.returncode == 82
    assert b"'/no/such/directory': No such file or directory" in done.stderr


def test_a_program_is_looked_for_in_the_path_of_the_layers(image: AppImage) -> None:
    image.write("layers/a/l/bin/true", "#!/bin/sh\necho from the layer\n", executable=True)

    assert image.output("--", "true") == "from the layer\n"


def test_directories_and_files_that_cannot_be_executed_are_passed_over(image: AppImage) -> None:
    (image.root / "first/tool").mkdir(parents=True)
    image.write("second/tool", "#!/bin/sh\necho not this\n")
    image.write("third/tool", "#!/bin/sh\necho this\n", executable=True)

    path = ":".join(f"{image.root}/{name}" for name in ("nowhere", "first", "second", "third"))
    assert image.output("--", "tool", env={"PATH": path}) == "this\n"


def test_a_relative_command_is_looked_for_in_the_application_directory(image: AppImage) -> None:
    image.write("workspace/bin/tool", "#!/bin/sh\necho tool\n", executable=True)

    assert image.output("--", "bin/tool") == "tool\n"
    assert image.output("--", "./bin/tool") == "tool\n"


def test_a_relative_command_must_be_in_the_application_and_the_working_directory(image: AppImage) -> None:
    image.write("workspace/tool", "#!/bin/sh\necho application\n", executable=True)
    (image.root / "elsewhere").mkdir()
    image.describe(
        {"type": "web", "command": ["./tool"], "direct": True, "working-dir": str(image.root / "elsewhere")}
    )

    assert image.start().returncode == 82
    image.write("elsewhere/tool", "#!/bin/sh\necho working\n", executable=True)
    assert image.output() == "working\n"


@pytest.mark.parametrize("path", ["", ".", "/bin::/usr/bin", "/bin:", "bin"])
def test_a_program_found_by_a_relative_path_element_is_refused(image: AppImage, path: str) -> None:
    for name in ("workspace/only-here", "workspace/bin/only-here"):
        image.write(name, "#!/bin/sh\necho started\n", executable=True)

    done = image.start("--", "only-here", env={"PATH": path})

    assert (done.returncode, done.stdout) == (82, b"")
    assert done.stderr.startswith(b"ERROR: failed to launch: path lookup: 'only-here': ")


@pytest.mark.parametrize(
    "command", ["no-such-program", "./no-such-program", "/no/such/program", "", ".", "..", "/tmp"]
)
def test_a_command_that_is_no_program_fails(image: AppImage, command: str) -> None:
    done = image.start("--", command)

    assert (done.returncode, done.stdout) == (82, b"")
    assert done.stderr.startswith(f"ERROR: failed to launch: path lookup: '{command}': ".encode())


def test_a_program_that_cannot_be_executed_fails(image: AppImage) -> None:
    image.write("workspace/tool", "no program", executable=True)

    done = image.start("--", "./tool")

    assert done.returncode == 82
    assert b"direct exec: './tool': Exec format error" in done.stderr


def test_a_missing_interpreter_is_hinted_at(image: AppImage) -> None:
    image.write("workspace/tool", "#!/no/such/interpreter\n", executable=True)

    done = image.start("--", "./tool")

    assert done.returncode == 82
    assert b"interpreter" in done.stderr


def test_too_long_an_environment_is_named(image: AppImage) -> None:
    image.write("layers/a/l/env/X", "x" * 200_000)

    done = image.start("--", "true")

    assert done.returncode == 82
    assert b"too long" in done.stderr
