"""bin/detect and bin/build: environment and positions in, files of the specification and a status out."""

import copy
import io
import pickle
import tomllib
from pathlib import Path

import pytest

from packhorse import sdk
from packhorse.base.dataclass import replace
from packhorse.errors import FormatError, UsageError
from packhorse.sdk.program import Invocation, run_build, run_detect

DESCRIPTOR = 'api = "0.12"\n[buildpack]\nid = "test/one"\nversion = "1.2.3"\nname = "One"\n'


class Place:
    """A buildpack, a platform and a layers directory on disk, and the streams of a log."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.out = io.StringIO()
        self.log = sdk.Log(self.out, self.out)
        for folder in ("bp/bin", "platform/env", "layers"):
            (root / folder).mkdir(parents=True)
        (root / "bp/buildpack.toml").write_text(DESCRIPTOR)
        (root / "entries.toml").write_text('[[entries]]\nname = "node"\n[entries.metadata]\nlaunch = true\n')

    def invocation(self, phase: str, **env: str) -> Invocation:
        paths = {
            "CNB_PLATFORM_DIR": "platform",
            "CNB_BUILD_PLAN_PATH": "plan.toml",
            "CNB_LAYERS_DIR": "layers",
            "CNB_BP_PLAN_PATH": "entries.toml",
        }
        given = {name: str(self.root / path) for name, path in paths.items()}
        return Invocation.read([str(self.root / "bp/bin" / phase)], {**given, **env})


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_passing_detection_writes_the_plan_with_its_alternatives(place: Place) -> None:
    plan = sdk.BuildPlan(
        provides=("node",),
        requires=(sdk.Require("node", {"version": "16"}),),
        alternatives=(sdk.BuildPlan(provides=("node",)),),
    )
    assert run_detect(place.invocation("detect"), lambda context: sdk.Pass(plan), log=place.log) == 0
    assert tomllib.loads((place.root / "plan.toml").read_text()) == {
        "provides": [{"name": "node"}],
        "requires": [{"name": "node", "metadata": {"version": "16"}}],
        "or": [{"provides": [{"name": "node"}]}],
    }


def test_a_failing_detection_ends_with_100_and_its_reason(place: Place) -> None:
    fail = sdk.Fail("there is no package.json")
    assert run_detect(place.invocation("detect"), lambda context: fail, log=place.log) == 100
    assert place.out.getvalue() == "  there is no package.json\n"
    assert not (place.root / "plan.toml").exists()


def test_paths_come_by_position_before_buildpack_api_0_8(place: Place) -> None:
    argv = ["/bp/bin/build", "/layers", "/platform", "/plan.toml"]
    invocation = Invocation.read(argv, {})
    assert invocation.buildpack == Path("/bp")
    assert invocation.paths["CNB_LAYERS_DIR"] == Path("/layers")
    assert invocation.paths["CNB_BP_PLAN_PATH"] == Path("/plan.toml")


def test_a_variable_wins_over_a_position(place: Place) -> None:
    invocation = Invocation.read(["/bp/bin/detect", "/old", "/plan"], {"CNB_PLATFORM_DIR": "/new"})
    assert invocation.paths["CNB_PLATFORM_DIR"] == Path("/new")


@pytest.mark.parametrize("argv", [["/bp/bin/detect"], ["/bp/bin/other", "a", "b", "c"]])
def test_a_call_by_hand_is_a_usage_error(argv: list[str]) -> None:
    with pytest.raises(UsageError):
        Invocation.read(argv, {})


def test_a_main_that_kept_its_own_name_is_told_how_the_programs_name_themselves() -> None:
    with pytest.raises(UsageError, match=r"called as main\.py") as caught:
        Invocation.read(["/bp/main.py", "/bp/bin/detect"], {})
    assert "lib/packhorse/sdk/start.py" in caught.value.fix


def test_the_context_has_target_settings_and_plan(place: Place) -> None:
    (place.root / "platform/env/BP_X").write_text("value\n")
    env = {
        "CNB_TARGET_OS": "linux",
        "CNB_TARGET_ARCH": "arm64",
        "CNB_TARGET_ARCH_VARIANT": "v8",
        "CNB_TARGET_DISTRO_NAME": "debian",
        "CNB_TARGET_DISTRO_VERSION": "12",
        "CNB_EXEC_ENV": "test",
    }
    context = place.invocation("build", **env).build_context(place.log)
    assert context.target == sdk.Target("linux", "arm64", "v8", sdk.Distro("debian", "12"))
    assert context.exec_env == "test"
    assert context.platform.env == {"BP_X": "value\n"}
    assert context.plan == (sdk.Require("node", {"launch": True}),)
    assert context.buildpack.title == "One 1.2.3"


def test_the_execution_environment_is_production_unless_stated(place: Place) -> None:
    assert place.invocation("detect").detect_context(place.log).exec_env == "production"


def test_a_build_writes_launch_unmet_and_store(place: Place) -> None:
    process = sdk.Process("web", ("node", "a.js"), args=("--x",), default=True, working_dir="/w")
    result = sdk.BuildResult(
        sdk.Launch((process,), labels={"k": "v"}, slices=(("node_modules",),)),
        unmet=("node",),
        store={"seen": 1},
    )
    assert run_build(place.invocation("build"), lambda context: result, log=place.log) == 0
    layers = place.root / "layers"
    assert tomllib.loads((layers / "launch.toml").read_text()) == {
        "labels": [{"key": "k", "value": "v"}],
        "processes": [
            {
                "type": "web",
                "command": ["node", "a.js"],
                "args": ["--x"],
                "default": True,
                "working-dir": "/w",
            }
        ],
        "slices": [{"paths": ["node_modules"]}],
    }
    assert tomllib.loads((layers / "build.toml").read_text()) == {"unmet": [{"name": "node"}]}
    assert tomllib.loads((layers / "store.toml").read_text()) == {"metadata": {"seen": 1}}


def test_a_build_without_a_result_writes_nothing_and_leaves_the_store(place: Place) -> None:
    stored = place.root / "layers/store.toml"
    stored.write_text("[metadata]\nseen = 1\n")
    seen: list[object] = []

    def build(context: sdk.BuildContext) -> sdk.BuildResult:
        seen.append(context.store)
        return sdk.BuildResult()

    run_build(place.invocation("build"), build, log=place.log)
    assert seen == [{"seen": 1}]
    assert [path.name for path in (place.root / "layers").iterdir()] == ["store.toml"]
    assert stored.read_text() == "[metadata]\nseen = 1\n"


def test_facts_of_the_last_build_are_remembered(place: Place) -> None:
    context = place.invocation("build").build_context(place.log)
    assert context.recall("node") == {}
    context.layer("node", key={"v": "16.20.2"}, cache=True, facts={"request": "16"})
    assert context.recall("node") == {"request": "16"}
    assert "layer node new\n" in place.out.getvalue()


@pytest.mark.parametrize(
    "defect",
    ['[buildpack]\nid = "x"\n', "[buildpack\n", "buildpack = 1\n"],
    ids=["no version", "TOML", "type"],
)
def test_a_broken_descriptor_is_a_format_error(place: Place, defect: str) -> None:
    (place.root / "bp/buildpack.toml").write_text(defect)
    context = place.invocation("detect").detect_context(place.log)
    with pytest.raises(FormatError, match=r"buildpack\.toml"):
        _ = context.buildpack.id
    with pytest.raises(FormatError, match=r"buildpack\.toml"):
        run_build(place.invocation("build"), lambda context: sdk.BuildResult(), log=place.log)


def test_a_descriptor_is_read_when_it_is_asked_for_and_is_then_as_any_other(place: Place) -> None:
    directory = place.root / "bp"
    read, unread = sdk.Descriptor.read(directory), sdk.Descriptor.read_later
    assert unread(directory) == read == unread(directory)
    assert repr(unread(directory)) == repr(read)
    assert unread(directory).title == "One 1.2.3"
    assert copy.copy(unread(directory)) == read
    assert pickle.loads(pickle.dumps(unread(directory))) == read
    assert replace(unread(directory), version="2").version == "2"
    with pytest.raises(AttributeError, match="'Descriptor' object has no attribute 'homepages'"):
        _ = unread(directory).homepages  # type: ignore[attr-defined]
    (directory / "buildpack.toml").unlink()
    assert unread(directory).directory == directory


def test_a_plan_entry_without_a_name_is_a_format_error(place: Place) -> None:
    (place.root / "entries.toml").write_text("[[entries]]\nx = 1\n")
    with pytest.raises(FormatError, match="buildpack plan"):
        place.invocation("build").build_context(place.log)
