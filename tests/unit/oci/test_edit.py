"""Configs are written byte for byte as the reference writes them.

`go_configs.json` holds what go-containerregistry 0.20.6 and imgutil (as lifecycle 0.21.0 pins them) answered.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import FormatError
from packhorse.oci.mutate import add_layers, align_history, edit_config, empty_config, set_variables
from packhorse.oci.types import Config, History

CASES = json.loads(Path(__file__).with_name("go_configs.json").read_text())
EPOCH = "1980-01-01T00:00:01Z"
A = Digest("a" * 64)


def config(**fields: Any) -> Config:
    return Config.parse(json.dumps(fields).encode())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_config_has_the_bytes_that_go_gives_it(case: dict[str, Any]) -> None:
    base = config(**case["base"])
    export = case.get("export")
    if export is None:
        assert edit_config(base).raw.decode() == case["go"]
        return
    layers = [(Digest.parse(diff_id), History(created_by=by)) for diff_id, by in export["layers"]]
    grown = add_layers(base, layers, created=EPOCH, keep_history=export["keep_history"])
    made = edit_config(
        grown,
        env=set_variables(grown.env, export["env"]),
        labels={**grown.labels, **export["labels"]},
        entrypoint=export["entrypoint"],
        cmd=(),
        working_dir=export["working_dir"],
    )
    assert made.raw.decode() == case["go"]


def test_a_config_written_once_does_not_change_when_it_is_written_again() -> None:
    for case in CASES:
        once = edit_config(config(**case["base"]))
        assert edit_config(once) == once


def test_what_is_given_replaces_and_what_is_not_stays() -> None:
    base = config(os="linux", architecture="amd64", config={"User": "1000", "Labels": {"a": "1"}})
    made = edit_config(
        base, target=Target("linux", "arm64", "v8"), user="0", labels={"b": "2"}, os_version=""
    )
    assert made.target == Target("linux", "arm64", "v8")
    assert (made.user, dict(made.labels)) == ("0", {"b": "2"})
    assert edit_config(made, labels={}).raw == edit_config(base, target=made.target, user="0", labels={}).raw


def test_layers_and_history_can_be_replaced_together() -> None:
    made = edit_config(empty_config(Target()), diff_ids=[A], history=[History(created_by="x", created=EPOCH)])
    assert made.diff_ids == (A,)
    assert made.history == (History(created=EPOCH, created_by="x"),)


def test_an_image_from_nothing_has_no_layers_and_gos_zero_time() -> None:
    expected = (
        '{"architecture":"amd64","created":"0001-01-01T00:00:00Z","os":"linux",'
        '"rootfs":{"type":"layers","diff_ids":[]},"config":{}}'
    )
    assert empty_config(Target("linux", "amd64")).raw.decode() == expected


def test_a_config_made_anew_keeps_how_the_image_starts_and_nothing_else() -> None:
    base = config(os="linux", author="me", config={"Env": ["A=b"], "Shell": ["sh"]}, history=[{}])
    made = edit_config(base, anew=True)
    assert (made.os, made.history, made.diff_ids, made.env) == ("", (), (), ("A=b",))
    assert b'"Shell":["sh"]' in made.raw


def test_variables_are_set_in_place_or_at_the_end() -> None:
    env = ("A=1", "PATH=/bin", "A=2", "odd")
    assert set_variables(env, {"C": "3", "A": "x=y", "odd": ""}) == (
        "A=x=y",
        "PATH=/bin",
        "A=2",
        "odd=",
        "C=3",
    )


def test_history_has_one_entry_a_layer_or_is_blank() -> None:
    rootfs = {"diff_ids": [str(A)]}
    fitting = config(rootfs=rootfs, history=[{"created_by": "x"}, {"empty_layer": True, "created_by": "y"}])
    assert align_history(fitting) == (History(created_by="x"),)
    assert align_history(config(rootfs=rootfs, history=[{}, {}])) == (History(),)
    assert align_history(config(rootfs=rootfs)) == (History(),)


@pytest.mark.parametrize(
    "time", ["yesterday", "2023-13-01T00:00:00Z", "2023-01-01 00:00:00Z", "2023-01-01T00:00:00"]
)
def test_a_time_that_go_cannot_read_is_refused(time: str) -> None:
    with pytest.raises(FormatError, match="not a time"):
        edit_config(config(created=time))


@pytest.mark.parametrize(
    "fields", [{"config": {"Shell": "sh"}}, {"config": {"Healthcheck": {"Retries": 1.5}}}]
)
def test_a_field_that_go_cannot_read_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="cannot be used"):
        edit_config(config(**fields))
