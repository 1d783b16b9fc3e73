"""The environment of buildpacks (buildpack.md "Environment", platform.md "Build Environment")."""

from __future__ import annotations

import pytest

from fakes.runner import Call, Program
from fakes.workshop import Workshop

LISTS = ("PATH", "LD_LIBRARY_PATH", "LIBRARY_PATH", "CPATH", "PKG_CONFIG_PATH")


def layers(*named: tuple[str, dict[str, str]], types: tuple[str, ...] = ("build",)) -> Program:
    def build(call: Call) -> None:
        for name, files in named:
            call.layer(name, *types, files=files)

    return build


def last_env(workshop: Workshop, *builds: Program, own: str = "") -> dict[str, str]:
    """The environment of a bin/build after others with these builds, in buildpacks a, b, …"""
    refs = [workshop.buildpack(name, build=build) for name, build in zip("abcd", builds, strict=False)]
    workshop.order((*refs, workshop.buildpack("last", own=own)))
    workshop.build()
    return dict(workshop.runner.commands[-1].env)


def test_B_103_the_target_is_told_in_every_phase(workshop: Workshop) -> None:
    last_env(workshop)
    assert len(workshop.runner.commands) == 2
    for step in workshop.runner.commands:
        told = {name: value for name, value in step.env.items() if name.startswith("CNB_TARGET_")}
        assert told == {
            "CNB_TARGET_OS": "linux",
            "CNB_TARGET_ARCH": "amd64",
            "CNB_TARGET_DISTRO_NAME": "ubuntu",
            "CNB_TARGET_DISTRO_VERSION": "24.04",
        }


def test_B_061_bin_build_has_the_described_environment_and_nothing_else(workshop: Workshop) -> None:
    workshop.set(env={**workshop.inputs.env, "HTTP_PROXY": "http://proxy.test"}, exec_env="test")
    workshop.tree.write("/platform/env/USERS", b"own")
    workshop.tree.write("/cnb/build-config/env/OPERATORS.override", b"too")
    env = last_env(workshop, layers(("l", {"bin/x": "", "lib/x": "", "env/FROM": "layer"})))
    assert env == {
        "HOME": "/home/cnb",
        "PATH": "/layers/a/l/bin:/usr/bin:/bin",
        "LD_LIBRARY_PATH": "/layers/a/l/lib",
        "LIBRARY_PATH": "/layers/a/l/lib",
        "HTTP_PROXY": "http://proxy.test",
        "FROM": "layer",
        "USERS": "own",
        "OPERATORS": "too",
        "CNB_BUILDPACK_DIR": "/cnb/buildpacks/last/1",
        "CNB_PLATFORM_DIR": "/platform",
        "CNB_LAYERS_DIR": "/layers/last",
        "CNB_BP_PLAN_PATH": env["CNB_BP_PLAN_PATH"],
        "CNB_TARGET_OS": "linux",
        "CNB_TARGET_ARCH": "amd64",
        "CNB_TARGET_DISTRO_NAME": "ubuntu",
        "CNB_TARGET_DISTRO_VERSION": "24.04",
        "CNB_EXEC_ENV": "test",
    }


def test_B_104_directories_of_build_layers_are_in_the_lists(workshop: Workshop) -> None:
    files = {f"{name}/x": "" for name in ("bin", "lib", "include", "pkgconfig")}
    env = last_env(workshop, layers(("l", files)))
    assert {name: env[name].split(":")[0] for name in LISTS} == {
        "PATH": "/layers/a/l/bin",
        "LD_LIBRARY_PATH": "/layers/a/l/lib",
        "LIBRARY_PATH": "/layers/a/l/lib",
        "CPATH": "/layers/a/l/include",
        "PKG_CONFIG_PATH": "/layers/a/l/pkgconfig",
    }


@pytest.mark.parametrize("types", [("launch",), ("cache",), ("launch", "cache")])
def test_B_104_and_B_116_other_layers_change_nothing(workshop: Workshop, types: tuple[str, ...]) -> None:
    env = last_env(workshop, layers(("l", {"bin/x": "", "env/X": "1"}), types=types))
    assert env["PATH"] == "/usr/bin:/bin"
    assert "X" not in env


def test_B_106_and_B_108_layers_of_later_buildpacks_stand_first_with_colons_between(
    workshop: Workshop,
) -> None:
    env = last_env(workshop, layers(("l", {"bin/x": ""})), layers(("l", {"bin/x": ""})))
    assert env["PATH"] == "/layers/b/l/bin:/layers/a/l/bin:/usr/bin:/bin"


def test_B_109_variables_of_users_and_the_home_come_through(workshop: Workshop) -> None:
    for name in ("BP_X", "BPL_Y", "HOME"):
        workshop.tree.write(f"/platform/env/{name}", name.encode())
    env = last_env(workshop)
    assert [env[name] for name in ("BP_X", "BPL_Y", "HOME")] == ["BP_X", "BPL_Y", "HOME"]


def test_B_110_and_B_112_users_variables_are_set_unless_the_buildpack_wants_none(workshop: Workshop) -> None:
    workshop.tree.write("/platform/env/X", b"user")
    assert last_env(workshop)["X"] == "user"
    assert "X" not in last_env(workshop, own="clear-env = true")
    assert workshop.text("/platform/env/X") == "user", "the file stays to be read"


def test_B_111_and_P_166_operators_variables_are_set_always_and_last(workshop: Workshop) -> None:
    for name, text in {"A": "op", "B.override": "op", "C.append": "op", "C.delim": "-"}.items():
        workshop.tree.write(f"/cnb/build-config/env/{name}", text.encode())
    for name in "ABC":
        workshop.tree.write(f"/platform/env/{name}", b"user")
    env = last_env(workshop)
    assert (env["A"], env["B"], env["C"]) == ("user", "op", "user-op")
    env = last_env(workshop, own="clear-env = true")
    assert (env["A"], env["B"], env["C"]) == ("op", "op", "op")


def test_B_113_B_114_P_164_a_users_value_goes_before_a_list_and_replaces_anything_else(
    workshop: Workshop,
) -> None:
    workshop.tree.write("/platform/env/PATH", b"/user")
    workshop.tree.write("/platform/env/X", b"user")
    env = last_env(workshop, layers(("l", {"bin/x": "", "env.build/X": "layer"})))
    assert env["PATH"] == "/user:/layers/a/l/bin:/usr/bin:/bin"
    assert env["X"] == "user"


def test_B_113_a_users_value_is_put_before_a_list_once_for_every_buildpack(workshop: Workshop) -> None:
    workshop.tree.write("/platform/env/PATH", b"/user")
    env = last_env(workshop, layers(), layers())
    assert env["PATH"] == "/user:/usr/bin:/bin"


def test_B_116_env_is_applied_and_then_env_build(workshop: Workshop) -> None:
    files = {"env/X": "1", "env.build/X.append": "2", "env.launch/X": "3"}
    assert last_env(workshop, layers(("l", files)))["X"] == "12"


def test_B_118_B_119_B_120_a_files_name_says_which_variable_and_how(workshop: Workshop) -> None:
    files = {
        "env/PLAIN": " as $it is\n",
        "env/FRONT.prepend": "new",
        "env/BACK.append": "new",
        "env/UNSET.default": "new",
        "env/SET.default": "new",
        "env/OVER.override": "new",
        "env/FRONT.delim": "/",
        "env/X.Y.append": "new",
    }
    before = {f"env/{name}": "old" for name in ("FRONT", "BACK", "SET", "OVER")}
    env = last_env(workshop, layers(("l", before)), layers(("l", files)))
    assert env["PLAIN"] == " as $it is\n"
    assert [env[name] for name in ("FRONT", "BACK", "UNSET", "SET", "OVER")] == [
        "new/old",
        "oldnew",
        "new",
        "old",
        "new",
    ]
    assert "X" not in env


def test_B_121_values_are_appended_in_the_order_of_buildpacks_layers_and_directories(
    workshop: Workshop,
) -> None:
    def two(letter: str) -> Program:
        return layers(
            *(
                (name, {"env/X.append": f"{letter}{name}", "env.build/X.append": f"{letter}{name}b"})
                for name in ("2", "1")
            )
        )

    assert last_env(workshop, two("a"), two("b"))["X"] == "a1a1ba2a2bb1b1bb2b2b"


def test_B_122_the_first_default_counts(workshop: Workshop) -> None:
    a = layers(("1", {"env/X.default": ""}), ("2", {"env.build/X.default": "a2"}))
    assert last_env(workshop, a, layers(("1", {"env/X.default": "b1"})))["X"] == "a2"


def test_B_123_a_delimiter_stands_between_values_of_its_own_layer(workshop: Workshop) -> None:
    a = layers(("1", {"env/X.append": "1", "env/X.delim": ";"}), ("2", {"env/X.append": "2"}))
    b = layers(("3", {"env/X.append": "3", "env/X.delim": "+"}))
    assert last_env(workshop, a, b)["X"] == "12+3"


def test_B_124_all_of_one_layer_is_applied_before_the_next(workshop: Workshop) -> None:
    a = layers(
        ("1", {"env/X": "1", "env.build/X.append": "b"}),
        ("2", {"env/X.prepend": "2", "env.build/X.append": "c"}),
    )
    assert last_env(workshop, a)["X"] == "21bc"


def test_B_125_the_last_override_counts(workshop: Workshop) -> None:
    a = layers(("1", {"env/X": "1", "env.build/X": "2"}), ("2", {"env/X": "3"}))
    assert last_env(workshop, a)["X"] == "3"
    assert last_env(workshop, a, layers(("1", {"env/X.override": "4"})))["X"] == "4"


def test_B_126_values_are_prepended_with_the_last_in_front(workshop: Workshop) -> None:
    a = layers(
        ("1", {"env/X.prepend": "1", "env.build/X.prepend": "b"}),
        ("2", {"env/X.prepend": "2"}),
    )
    assert last_env(workshop, a, layers(("3", {"env/X.prepend": "3"})))["X"] == "32b1"


def test_P_161_home_and_lists_of_the_builder_are_passed_on(workshop: Workshop) -> None:
    workshop.set(env={"HOME": "/home/cnb", "PATH": "/a", "CPATH": "/b"})
    env = last_env(workshop)
    assert (env["HOME"], env["PATH"], env["CPATH"]) == ("/home/cnb", "/a", "/b")


def test_P_162_nothing_else_is_in_the_environment(workshop: Workshop) -> None:
    env = last_env(workshop)
    assert {name for name in env if not name.startswith("CNB_")} == {"HOME", "PATH"}
