"""The environment of the process (B-105 to B-126, P-147, P-169, P-170)."""

import pytest

from unit.launcher.appimage import AppImage

pytestmark = pytest.mark.system


def test_the_container_environment_is_kept_and_the_launcher_variables_are_not(image: AppImage) -> None:
    container = {
        "CNB_PROCESS_TYPE": "web",
        "CNB_DEPRECATION_MODE": "quiet",
        "CNB_EXEC_ENV": "test",
        "EMPTY": "",
        "EQUALS": "a=b",
        "LINES": "a\nb",
    }

    assert image.variables(env=container) == {
        "PATH": "/usr/bin:/bin",
        "CNB_EXEC_ENV": "test",
        "EMPTY": "",
        "EQUALS": "a=b",
        "LINES": "a\nb",
    }


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("/cnb/process:/cnb/lifecycle:/usr/bin", "/usr/bin"),
        ("/usr/bin:/cnb/process:/bin:/cnb/lifecycle", "/usr/bin:/bin"),
        ("/cnb/process", ""),
        ("/cnb/process/:/cnb/processes:/x/cnb/process", "/cnb/process/:/cnb/processes:/x/cnb/process"),
        (":/usr/bin::", ":/usr/bin::"),
        ("", ""),
    ],
)
def test_the_launcher_directories_are_removed_from_path(image: AppImage, before: str, after: str) -> None:
    assert image.variables(env={"PATH": before})["PATH"] == after


def test_layer_directories_come_later_layer_first(image: AppImage) -> None:
    for layer in ("a/one", "a/two", "b_c/one"):
        (image.layers / layer / "bin").mkdir(parents=True)
    (image.layers / "a/one/lib").mkdir()
    (image.layers / "a/three/include").mkdir(parents=True)

    variables = image.variables()

    expected = ["b_c/one/bin", "a/two/bin", "a/one/bin"]
    assert variables["PATH"] == ":".join(
        [*(f"{image.layers}/{path}" for path in expected), "/usr/bin", "/bin"]
    )
    assert variables["LD_LIBRARY_PATH"] == f"{image.layers}/a/one/lib"


def test_layers_of_buildpacks_that_the_metadata_does_not_name_are_left_alone(image: AppImage) -> None:
    image.write("layers/other/one/env/X", "other")

    assert "X" not in image.variables()


def test_a_link_to_a_directory_is_no_layer(image: AppImage) -> None:
    image.write("elsewhere/env/X", "linked")
    (image.layers / "a").mkdir()
    (image.layers / "a/linked").symlink_to(image.root / "elsewhere")
    image.write("layers/a/file", "a file among the layers is no layer either")

    assert "X" not in image.variables()


def test_an_untidy_layers_directory_gives_tidy_paths(image: AppImage) -> None:
    (image.layers / "a/one/bin").mkdir(parents=True)

    variables = image.variables(
        env={"CNB_LAYERS_DIR": f"{image.root}//./workspace/../layers/", "PATH": "/bin"}
    )

    assert variables["PATH"] == f"{image.layers}/a/one/bin:/bin"


# Sentence: files below layers/, the container's X, and X of the process (None: not set).
FILES: dict[str, tuple[dict[str, str], str | None, str | None]] = {
    "a file without suffix overrides": ({"a/l/env/X": "new"}, "old", "new"),
    "override overrides": ({"a/l/env/X.override": "new"}, "old", "new"),
    "default sets what is not set": ({"a/l/env/X.default": "new"}, None, "new"),
    "default sets what is empty": ({"a/l/env/X.default": "new"}, "", "new"),
    "default leaves what is set": ({"a/l/env/X.default": "new"}, "old", "old"),
    "prepend has no delimiter of its own": ({"a/l/env/X.prepend": "new"}, "old", "newold"),
    "append has no delimiter of its own": ({"a/l/env/X.append": "new"}, "old", "oldnew"),
    "prepend uses the delimiter": ({"a/l/env/X.prepend": "new", "a/l/env/X.delim": ", "}, "old", "new, old"),
    "append uses the delimiter": ({"a/l/env/X.append": "new", "a/l/env/X.delim": ", "}, "old", "old, new"),
    "prepend to nothing has no delimiter": (
        {"a/l/env/X.prepend": "new", "a/l/env/X.delim": ":"},
        None,
        "new",
    ),
    "append to the empty has no delimiter": ({"a/l/env/X.append": "new", "a/l/env/X.delim": ":"}, "", "new"),
    "a delimiter rules its directory alone": (
        {"a/l/env/X.delim": ":", "a/l/env.launch/X.append": "new"},
        "old",
        "oldnew",
    ),
    "a delimiter rules its layer alone": (
        {"a/k/env/X.delim": ":", "a/l/env/X.append": "new"},
        "old",
        "oldnew",
    ),
    "a delimiter alone sets nothing": ({"a/l/env/X.delim": ":"}, None, None),
    "other suffixes mean nothing": ({"a/l/env/X.foo": "new", "a/l/env/X.append.txt": "new"}, "old", "old"),
    "contents are taken byte for byte": ({"a/l/env/X": " $Y\n`z`\n"}, None, " $Y\n`z`\n"),
    "an empty file sets the empty value": ({"a/l/env/X": ""}, "old", ""),
    "env.launch comes after env": ({"a/l/env/X": "1", "a/l/env.launch/X": "2"}, None, "2"),
    "the process type comes after env.launch": (
        {"a/l/env.launch/X.append": "2", "a/l/env.launch/web/X.append": "3", "a/l/env/X.append": "1"},
        None,
        "123",
    ),
    "other process types mean nothing": ({"a/l/env.launch/worker/X": "new"}, None, None),
    "env.build means nothing": ({"a/l/env.build/X": "new"}, None, None),
    "layers follow each other by the bytes of their names": (
        {"a/b/env/X.append": "3", "a/Z/env/X.append": "2", "a/A/env/X.append": "1", "a/é/env/X.append": "4"},
        None,
        "1234",
    ),
    "one layer is done with before the next begins": (
        {"a/1/env.launch/web/X.append": "1", "a/2/env/X.append": "2"},
        None,
        "12",
    ),
    "buildpacks follow each other as in the group": (
        {"b_c/0/env/X.append": "second", "a/1/env/X.append": "first "},
        None,
        "first second",
    ),
    "prepended values of later layers come first": (
        {"a/1/env/X.prepend": "1", "a/2/env/X.prepend": "2", "a/2/env.launch/X.prepend": "3"},
        None,
        "321",
    ),
    "the earlier default wins": ({"a/1/env/X.default": "1", "a/2/env/X.default": "2"}, None, "1"),
    "files follow each other by the bytes of their names": (
        {"a/l/env/X": "0", "a/l/env/X.append": "1", "a/l/env/X.prepend": "2"},
        "old",
        "201",
    ),
    "directories among the files are passed over": ({"a/l/env/X.append/file": "new"}, "old", "old"),
}


@pytest.mark.parametrize(("files", "container", "expected"), FILES.values(), ids=FILES.keys())
def test_files_of_layers_change_variables(
    image: AppImage, files: dict[str, str], container: str | None, expected: str | None
) -> None:
    for name, content in files.items():
        image.write(f"layers/{name}", content)

    variables = image.variables(env={} if container is None else {"X": container})

    assert variables.get("X") == expected


def test_the_layers_bin_directories_are_in_place_before_any_env_file_of_the_buildpack(
    image: AppImage,
) -> None:
    image.write("layers/a/1/env/PATH.prepend", "/first:")
    (image.layers / "a/2/bin").mkdir(parents=True)

    assert image.variables()["PATH"] == f"/first:{image.layers}/a/2/bin:/usr/bin:/bin"


def test_a_link_to_a_file_gives_its_content_and_one_to_a_directory_nothing(image: AppImage) -> None:
    target = image.write("elsewhere/value", "linked")
    image.write("layers/a/l/env/Y", "file")
    (image.layers / "a/l/env/X").symlink_to(target)
    (image.layers / "a/l/env/Z").symlink_to(target.parent)

    variables = image.variables()

    assert (variables["X"], variables["Y"], variables.get("Z")) == ("linked", "file", None)


def test_a_user_command_gets_the_environment_of_no_process_type(image: AppImage) -> None:
    image.describe({"type": "web", "command": ["true"], "direct": True})
    image.write("layers/a/l/env.launch/X.append", "launch")
    image.write("layers/a/l/env.launch/web/X.append", "web")

    assert image.output("--", "printenv", "X", name="launcher") == "launch\n"


def test_a_value_of_many_bytes_arrives_whole(image: AppImage) -> None:
    value = "é0123456789" * 10_000
    image.write("layers/a/l/env/X", value)

    assert image.variables()["X"] == value


def test_a_dangling_link_among_the_files_fails(image: AppImage) -> None:
    path = image.write("layers/a/l/env/Y").with_name("X")
    path.symlink_to("nowhere")

    done = image.start("--", "true")

    assert done.returncode == 82
    assert done.stderr.startswith(b"ERROR: failed to launch: modify env: ")
    assert str(path).encode() in done.stderr


def test_a_file_in_place_of_an_env_directory_fails(image: AppImage) -> None:
    path = image.write("layers/a/l/env", "file")

    done = image.start("--", "true")

    assert done.returncode == 82
    assert str(path).encode() in done.stderr


def test_a_value_with_a_zero_byte_fails_by_name(image: AppImage) -> None:
    image.write("layers/a/l/env/SECRET", b"a\0b")

    done = image.start("--", "true")

    assert done.returncode == 82
    assert b"'SECRET' would hold a zero byte" in done.stderr


def test_a_missing_application_directory_fails(image: AppImage) -> None:
    done = image.start("--", "true", env={"CNB_APP_DIR": str(image.root / "nowhere")})

    assert done.returncode == 82
    assert done.stderr.startswith(b"ERROR: failed to launch: change to app directory ")
