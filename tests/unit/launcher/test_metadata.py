"""config/metadata.toml as builders write it, and as nobody should (lifecycle formats, 2.4)."""

import pytest

from unit.launcher.appimage import AppImage

pytestmark = pytest.mark.system

AS_THE_REFERENCE_WRITES_IT = """\
buildpack-default-process-type = "web"

[[buildpacks]]
  api = "0.10"
  homepage = "https://example.com"
  id = "example/a"
  version = "1.0.0"

[[labels]]
  key = "k"
  value = "v"

[[processes]]
  type = "web"
  command = ["printf", "<%s>"]
  args = ["a", "\\u003cb\\u003e \\\\ \\"c\\""]
  direct = true
  buildpack-id = "example/a"
  working-dir = "/"

[[slices]]
  paths = ["public/*"]
"""


def test_a_file_of_the_reference_builder_is_read(image: AppImage) -> None:
    image.metadata(AS_THE_REFERENCE_WRITES_IT)

    assert image.output() == '<a><<b> \\ "c">'


def test_other_forms_of_the_same_are_read_too(image: AppImage) -> None:
    image.metadata(
        "buildpacks = [{id = 'a', api = '0.12'}]\n"
        "processes = [{type = 'web', command = '''printf''', args = ['<%s>', '''\nx'''], 'direct' = true}]\n"
    )

    assert image.output() == "<x>"


def test_a_file_without_processes_and_buildpacks_is_enough_for_a_user_command(image: AppImage) -> None:
    image.metadata("")

    assert image.output("--", "echo", "started") == "started\n"


def test_a_missing_file_fails_and_names_it(image: AppImage) -> None:
    path = image.layers / "config/metadata.toml"
    path.unlink()

    done = image.start("--", "true")

    assert (done.returncode, done.stdout) == (82, b"")
    assert done.stderr.startswith(f"ERROR: failed to read metadata: open '{path}': No such file".encode())


def test_a_directory_in_its_place_fails(image: AppImage) -> None:
    path = image.layers / "config/metadata.toml"
    path.unlink()
    path.mkdir()

    assert image.start("--", "true").returncode == 82


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[[processes]]\ntype = 1", "'type' is of type integer, not string"),
        ("[[processes]]\ntype = ['web']", "'type' is of type array, not string"),
        ("[[processes]]\ncommand = true", "'command' is of type boolean, not array"),
        ("[[processes]]\ncommand = ['a', 1]", "'command' is of type integer, not string"),
        ("[[processes]]\nargs = 'a'", "'args' is of type string, not array"),
        ("[[processes]]\nargs = [['a']]", "'args' is of type array, not string"),
        ("[[processes]]\ndirect = 'true'", "'direct' is of type string, not boolean"),
        ("[[processes]]\nworking-dir = 1979-05-27", "'working-dir' is of type date or time, not string"),
        ("[[processes]]\nexec-env = {}", "'exec-env' is of type table, not array"),
        ("[[processes]]\nbuildpack-id = 1.5", "'buildpack-id' is of type float, not string"),
        ("[processes]\ntype = 'web'", "'processes' is of type table, not array"),
        ("processes = ['web']", "'processes' is of type string, not table"),
        ("buildpacks = [1]", "'buildpacks' is of type integer, not table"),
        ("[[buildpacks]]\nid = 1\napi = '0.12'", "'id' is of type integer, not string"),
        ("[[processes]]\ntype = 'a\\u0000b'", "'type' holds a zero byte"),
        ("[[processes]]\nargs = ['a', \"\\u0000\"]", "'args' holds a zero byte"),
        ("a = 1\nb\n", "line 2: "),
    ],
)
def test_a_wrong_file_fails_with_a_reason(image: AppImage, text: str, reason: str) -> None:
    image.metadata(text.replace("'a\\u0000b'", '"a\\u0000b"'))

    done = image.start("--", "echo", "started")

    assert (done.returncode, done.stdout) == (82, b"")
    message = done.stderr.decode()
    assert message.startswith(f"ERROR: failed to read metadata: {image.layers}/config/metadata.toml: ")
    assert reason in message


def test_a_very_large_file_is_read_up_to_a_limit(image: AppImage) -> None:
    image.metadata("# comment\n" * 1_000_000)
    assert image.output("--", "echo", "started") == "started\n"

    image.metadata("# comment\n" * 2_000_000)
    done = image.start("--", "true")
    assert done.returncode == 82
    assert b"more than 16777216 bytes" in done.stderr


def test_a_long_reason_is_cut(image: AppImage) -> None:
    done = image.start("--", "x" * 100_000)

    assert done.returncode == 82
    assert 1000 < len(done.stderr) < 5000
    assert done.stderr.endswith(b"\n")
