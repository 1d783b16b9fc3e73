"""Which versions of the Platform API and the Buildpack API the launcher takes (P-146, P-181)."""

import pytest

from unit.launcher.appimage import AppImage

pytestmark = pytest.mark.system

PLATFORM_APIS = ["0.7", "0.8", "0.9", "0.10", "0.11", "0.12", "0.13", "0.14", "0.15"]
BUILDPACK_APIS = ["0.7", "0.8", "0.9", "0.10", "0.11", "0.12"]


@pytest.mark.parametrize("api", [*PLATFORM_APIS, "v0.12"])
def test_a_known_platform_api_starts_the_process(image: AppImage, api: str) -> None:
    assert image.output("--", "echo", "started", api=api) == "started\n"


@pytest.mark.parametrize(
    "api",
    ["", " ", "0.6", "0.16", "1.0", "1", "x", "0.12.1", "0.12 ", "v", "-1", "0.x", "99999999999999999999.1"],
)
def test_any_other_platform_api_ends_with_11(image: AppImage, api: str) -> None:
    done = image.start("--", "echo", "started", api=api)

    assert (done.returncode, done.stdout) == (11, b"")
    assert done.stderr.startswith(b"ERROR: failed to ")
    assert b"CNB_PLATFORM_API" in done.stderr


@pytest.mark.parametrize("api", BUILDPACK_APIS)
def test_a_known_buildpack_api_starts_the_process(image: AppImage, api: str) -> None:
    image.describe(buildpacks={"a": api})

    assert image.output("--", "echo", "started") == "started\n"


@pytest.mark.parametrize("api", ["", "0.6", "0.13", "1.0", "x", "0.12-rc"])
def test_any_other_buildpack_api_ends_with_12_and_names_the_buildpack(image: AppImage, api: str) -> None:
    image.describe(buildpacks={"good": "0.12", "example/old": api})

    done = image.start("--", "echo", "started")

    assert (done.returncode, done.stdout) == (12, b"")
    assert done.stderr.startswith(b"ERROR: failed to ")
    assert b"'example/old'" in done.stderr


def test_a_platform_api_is_checked_before_the_metadata_is_read(image: AppImage) -> None:
    image.metadata("not TOML")

    assert image.start("--", "true", api="0.1").returncode == 11


def test_the_old_variable_for_the_process_type_only_warns(image: AppImage) -> None:
    done = image.start("--", "echo", "started", env={"CNB_PROCESS_TYPE": "worker"})

    assert (done.returncode, done.stdout) == (0, b"started\n")
    assert done.stderr.decode().splitlines() == [
        "Warning: CNB_PROCESS_TYPE is not supported in Platform API 0.15",
        "Warning: Run with ENTRYPOINT 'worker' to invoke the 'worker' process type",
    ]
