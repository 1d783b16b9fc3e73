"""The flags of the phases: precedence, Go's spelling, Platform APIs, and the page that lists them."""

from __future__ import annotations

from pathlib import Path

import pytest

from packhorse.errors import UsageError
from packhorse.phases.options import FLAGS, Flag, Kind, Phase, PhaseOptions, parse, usage
from packhorse.spec.api import PLATFORM_APIS, PlatformApi

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "lifecycle-phases.md"

NEWEST = PLATFORM_APIS[-1]


def read(phase: Phase, *words: str, api: PlatformApi = NEWEST, **environ: str) -> PhaseOptions:
    return parse(phase, api, words, environ, cwd="/cwd")


def test_a_flag_comes_before_its_variable_and_that_before_the_default() -> None:
    assert read(Phase.DETECTOR).text("app") == "/workspace"
    assert read(Phase.DETECTOR, CNB_APP_DIR="/a").text("app") == "/a"
    assert read(Phase.DETECTOR, "-app", "/b", CNB_APP_DIR="/a").text("app") == "/b"


@pytest.mark.parametrize("words", [("-app", "/b"), ("-app=/b",), ("--app", "/b"), ("--app=/b",)])
def test_flags_are_written_as_go_reads_them(words: tuple[str, ...]) -> None:
    assert read(Phase.DETECTOR, *words).text("app") == "/b"


@pytest.mark.parametrize(
    ("words", "expected"),
    [((), False), (("-daemon",), True), (("-daemon=true",), True), (("-daemon=0",), False)],
)
def test_a_switch_needs_no_value(words: tuple[str, ...], expected: bool) -> None:
    assert read(Phase.CREATOR, *words, "image").is_set("daemon") is expected


def test_flags_end_at_the_first_argument() -> None:
    options = read(Phase.EXPORTER, "-app", "/b", "image", "-uid", "5")
    assert (options.images, options.number("uid")) == (("image", "-uid", "5"), 0)
    assert read(Phase.EXPORTER, "--", "-image").images == ("-image",)


def test_paths_are_absolute_and_follow_the_layers_directory() -> None:
    options = read(Phase.CREATOR, "-layers", "l/../m", "-cache-dir", "c", "image")
    assert options.text("layers") == "/cwd/m"
    assert options.text("analyzed") == "/cwd/m/analyzed.toml"
    assert options.text("cache-dir") == "/cwd/c"
    assert options.text("launch-cache") == ""


def test_the_order_of_the_builder_counts_without_one_in_the_layers(tmp_path: Path) -> None:
    assert read(Phase.DETECTOR, "-layers", str(tmp_path)).text("order") == "/cnb/order.toml"
    (tmp_path / "order.toml").touch()
    assert read(Phase.DETECTOR, "-layers", str(tmp_path)).text("order") == f"{tmp_path}/order.toml"


def test_some_flags_may_be_given_several_times() -> None:
    assert read(Phase.CREATOR, "-tag", "a", "-tag=b", "image").texts("tag") == ("a", "b")
    options = read(Phase.CREATOR, "image", CNB_INSECURE_REGISTRIES="a,b:1")
    assert options.texts("insecure-registry") == ("a", "b:1")


def test_a_variable_that_cannot_be_read_counts_as_unset() -> None:
    options = read(Phase.CREATOR, "image", CNB_USER_ID="many", CNB_USE_DAEMON="perhaps")
    assert (options.number("uid"), options.is_set("daemon")) == (0, False)


@pytest.mark.parametrize(
    ("phase", "words", "what"),
    [
        (Phase.DETECTOR, ("-nosuch",), "detector has no flag -nosuch"),
        (Phase.DETECTOR, ("-uid", "5"), "detector has no flag -uid"),
        (Phase.CREATOR, ("-uid", "five", "image"), "the flag -uid needs a whole number, not 'five'"),
        (Phase.CREATOR, ("-uid",), "the flag -uid of creator needs a value"),
        (Phase.CREATOR, ("-daemon=no", "image"), "the flag -daemon is true or false, not 'no'"),
        (Phase.CREATOR, (), "creator takes one image name, and got 0"),
        (Phase.CREATOR, ("a", "b"), "creator takes one image name, and got 2"),
        (Phase.EXPORTER, (), "exporter takes at least one image name, and got 0"),
        (Phase.BUILDER, ("a",), "builder takes no arguments, and got 1"),
    ],
)
def test_a_wrong_command_line_is_refused(phase: Phase, words: tuple[str, ...], what: str) -> None:
    with pytest.raises(UsageError) as raised:
        read(phase, *words)
    assert raised.value.what == what


def test_a_flag_of_another_platform_api_is_refused_with_the_reason() -> None:
    with pytest.raises(UsageError) as raised:
        read(Phase.CREATOR, "-layout", "image", api=PlatformApi(0, 11))
    assert raised.value.what == "creator has no flag -layout under Platform API 0.11"
    assert "-layout " not in usage(Phase.CREATOR, PlatformApi(0, 11))
    assert "-layout " in usage(Phase.CREATOR, PlatformApi(0, 12))


def test_stack_toml_is_a_flag_of_analyzer_until_run_toml() -> None:
    old, new = PlatformApi(0, 11), PlatformApi(0, 12)
    assert read(Phase.ANALYZER, "-stack", "s", "image", api=old).text("stack") == "/cwd/s"
    with pytest.raises(UsageError):
        read(Phase.ANALYZER, "-stack", "s", "image", api=new)


def _row(flag: Flag) -> str:
    def name(word: str) -> str:
        if ">=" in word:
            return word.replace(">=", " (from 0.") + ")"
        return word.replace("<", " (before 0.") + ")" if "<" in word else word

    default = "" if flag.kind is Kind.SWITCH else flag.default
    cells = [
        f"`-{flag.name}`",
        f"`{flag.variable}`" if flag.variable else "",
        f"`{default}`" if default else "",
        ", ".join(map(name, flag.phases.split())),
        flag.about,
    ]
    return f"| {' | '.join(cells)} |"


def test_the_page_lists_every_flag() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `-")]
    assert rows == [_row(flag) for flag in FLAGS]
