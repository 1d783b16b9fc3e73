"""Which process the launcher starts, and with which arguments (P-133 to P-139)."""

import pytest

from unit.launcher.appimage import AppImage

pytestmark = pytest.mark.system

# Prints the arguments it gets, each in angle brackets.
SHOW = ["printf", "<%s>"]


def test_the_name_of_the_launcher_chooses_the_process(image: AppImage) -> None:
    image.describe(
        {"type": "web", "command": ["echo", "this is web"], "direct": True},
        {"type": "worker.2", "command": ["echo", "this is worker"], "direct": True},
    )

    assert image.output(name="web") == "this is web\n"
    assert image.output(name="worker.2") == "this is worker\n"


def test_the_first_process_of_a_type_is_taken(image: AppImage) -> None:
    image.describe(
        {"type": "web", "command": ["echo", "first"], "direct": True},
        {"type": "web", "command": ["echo", "second"], "direct": True},
    )

    assert image.output() == "first\n"


def test_a_name_that_is_no_process_type_starts_what_the_user_gives(image: AppImage) -> None:
    image.describe({"type": "web", "command": ["echo", "web"], "direct": True})

    assert image.output("--", "printf", "<%s>", "a b", "$c", name="launcher") == "<a b><$c>"


def test_a_user_command_behind_two_dashes_gets_further_dashes_as_arguments(image: AppImage) -> None:
    assert image.output("--", "echo", "--", "x") == "-- x\n"


def test_without_process_and_command_the_launch_fails(image: AppImage) -> None:
    done = image.start(name="launcher")

    assert (done.returncode, done.stdout) == (82, b"")
    assert done.stderr.startswith(
        b"ERROR: failed to launch: determine start command: "
        b"when there is no default process a command is required"
    )


def test_a_process_without_a_command_fails(image: AppImage) -> None:
    image.describe({"type": "web", "args": ["x"], "direct": True, "buildpack-id": "a"})

    done = image.start()

    assert done.returncode == 82
    assert b"process type web has no command" in done.stderr


def test_a_command_may_be_one_string(image: AppImage) -> None:
    image.describe({"type": "web", "command": "echo", "args": ["a", "b"], "direct": True})

    assert image.output(api="0.9") == "a b\n"
    assert image.output(api="0.10") == "a b\n"


@pytest.mark.parametrize(
    ("platform_api", "buildpack_api", "command", "given", "expected"),
    [
        # P-137: default arguments are replaced by the user's.
        ("0.10", "0.9", SHOW, [], "<default>"),
        ("0.10", "0.9", SHOW, ["user"], "<user>"),
        ("0.15", "0.12", [*SHOW, "always"], [], "<always><default>"),
        ("0.15", "0.12", [*SHOW, "always"], ["user", "2"], "<always><user><2>"),
        # A command of several elements is that of a newer buildpack, whatever its API says.
        ("0.15", "0.8", [*SHOW, "always"], ["user"], "<always><user>"),
        # P-138: else they are appended.
        ("0.9", "0.9", SHOW, ["user"], "<default><user>"),
        ("0.7", "0.7", SHOW, [], "<default>"),
        ("0.9", "0.12", [*SHOW, "always"], ["user"], "<always><default><user>"),
    ],
)
def test_arguments_of_a_command_list(
    image: AppImage,
    platform_api: str,
    buildpack_api: str,
    command: list[str],
    given: list[str],
    expected: str,
) -> None:
    image.describe(
        {"type": "web", "command": command, "args": ["default"], "direct": True, "buildpack-id": "a"},
        buildpacks={"a": buildpack_api},
    )

    assert image.output(*given, api=platform_api) == expected


@pytest.mark.parametrize(
    ("platform_api", "buildpack_api", "given", "expected"),
    [
        ("0.10", "0.8", [], "default\n"),
        ("0.10", "0.8", ["user"], "default user\n"),
        ("0.10", "0.9", [], "default\n"),
        ("0.10", "0.9", ["user"], "user\n"),
        ("0.15", "0.12", ["user", "2"], "user 2\n"),
        ("0.9", "0.9", ["user"], "default user\n"),
    ],
)
def test_arguments_of_a_command_of_one_element_depend_on_both_apis(
    image: AppImage, platform_api: str, buildpack_api: str, given: list[str], expected: str
) -> None:
    image.describe(
        {"type": "web", "command": ["echo"], "args": ["default"], "direct": True, "buildpack-id": "a"},
        buildpacks={"other": "0.7", "a": buildpack_api},
    )

    assert image.output(*given, api=platform_api) == expected


def test_user_arguments_need_the_buildpack_of_the_process(image: AppImage) -> None:
    image.describe({"type": "web", "command": ["echo"], "direct": True, "buildpack-id": "gone"})

    done = image.start("user")

    assert done.returncode == 82
    assert b"failed to find buildpack for process web with buildpack ID gone" in done.stderr


@pytest.mark.parametrize(
    ("exec_env", "container", "expected"),
    [
        ([], "test", "any\n"),
        (["*"], "test", "any\n"),
        (["development", "*"], "test", "any\n"),
        (["test"], "test", "any\n"),
        (["production"], "", "any\n"),
        (["development", "test"], "test", "any\n"),
        (["test"], "", None),
        (["production"], "test", None),
        (["Test"], "test", None),
    ],
)
def test_a_process_is_eligible_by_its_execution_environments(
    image: AppImage, exec_env: list[str], container: str, expected: str | None
) -> None:
    image.describe({"type": "web", "command": ["echo", "any"], "direct": True, "exec-env": exec_env})

    done = image.start(env={"CNB_EXEC_ENV": container})

    if expected is None:
        assert done.returncode == 82
        assert b"process type web was not found" in done.stderr
    else:
        assert done.stdout.decode() == expected


def test_the_first_eligible_process_of_a_type_is_taken(image: AppImage) -> None:
    image.describe(
        {"type": "web", "command": ["echo", "for test"], "direct": True, "exec-env": ["test"]},
        {"type": "web", "command": ["echo", "for production"], "direct": True, "exec-env": ["production"]},
    )

    assert image.output() == "for production\n"
    assert image.output(env={"CNB_EXEC_ENV": "test"}) == "for test\n"


def test_execution_environments_mean_nothing_below_platform_api_0_15(image: AppImage) -> None:
    image.describe({"type": "web", "command": ["echo", "any"], "direct": True, "exec-env": ["test"]})

    assert image.output(api="0.14") == "any\n"
