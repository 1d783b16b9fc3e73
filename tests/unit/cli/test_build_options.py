"""Options of `packhorse build`: which values they take, and which they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from packhorse.base.target import Target
from packhorse.cli.build import build
from packhorse.cli.build_options import BuildCaches
from packhorse.cli.main import Context
from packhorse.cli.output import Console
from packhorse.cli.signals import Signals
from packhorse.errors import PackhorseError
from packhorse.oci.reference import Reference


def parse(*words: str) -> dict[str, Any]:
    """The values that the command line gives to the command."""
    return build.make_context("build", ["app", *words], obj=Context(Console({}), {}, Signals())).params


def test_a_label_has_a_name_and_a_value() -> None:
    labels = parse("--label", "a=b=c", "--label", "org.example/x=", "--label", "a=last")["labels"]
    assert labels == {"a": "last", "org.example/x": ""}


def test_a_user_and_a_group_are_numbers() -> None:
    params = parse("--uid", "1234", "--gid", "0")
    assert (params["uid"], params["gid"]) == (1234, 0)
    assert parse()["uid"] is parse()["gid"] is None


def test_options_that_turn_something_off_are_off_if_they_are_given() -> None:
    assert parse()["system_buildpacks"] and not parse("--disable-system-buildpacks")["system_buildpacks"]


def test_a_platform_is_a_target() -> None:
    assert parse("--platform", "linux/arm64/v8")["target"] == Target("linux", "arm64", "v8")
    assert parse()["target"] is None


@pytest.mark.parametrize(
    ("texts", "caches"),
    [
        ((), BuildCaches()),
        (("type=build;format=volume",), BuildCaches()),
        (("type=build;format=volume;name=my-cache",), BuildCaches(name="my-cache")),
        (("TYPE=build;Format=bind;source=/a/b",), BuildCaches(directory=Path("/a/b/build-cache"))),
        (("format=image;name=h.example/c:1",), BuildCaches(image=Reference.parse("h.example/c:1"))),
        (("type=launch;format=volume;name=x",), BuildCaches(has_launch=True)),
        (
            ("type=launch;format=bind;source=/a", "type=build;format=bind;source=/b"),
            BuildCaches(directory=Path("/b/build-cache"), has_launch=True),
        ),
    ],
)
def test_a_cache_is_written_as_in_pack(texts: tuple[str, ...], caches: BuildCaches) -> None:
    assert parse(*(word for text in texts for word in ("--cache", text)))["caches"] == caches


def test_a_workspace_is_a_directory_below_the_root() -> None:
    assert parse()["workspace"] == "/workspace"
    assert parse("--workspace", "app")["workspace"] == parse("--workspace", "/app/")["workspace"] == "/app"
    assert parse("--workspace", "srv/app")["workspace"] == "/srv/app"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--label", "a"), "--label: 'a' is not a label"),
        (("--label", "=b"), "--label: '=b' is not a label"),
        (
            ("--label", "io.buildpacks.lifecycle.metadata={}"),
            "--label io.buildpacks.lifecycle.metadata: this label is the specification's",
        ),
        (("--platform", "windows/amd64"), "--platform windows/amd64: packhorse builds for linux only"),
        (("--platform", "arm64"), "not a target: 'arm64'"),
        (("--cache", "build"), "--cache: 'build' is not a field"),
        (("--cache", "type=build;size=3"), "--cache: 'size=3' is not a field"),
        (("--cache", "type=kaniko"), "--cache: 'kaniko' is not a type"),
        (("--cache", "format=tar"), "--cache: 'tar' is not a format"),
        (("--cache", "type=build;type=launch"), "--cache: 'type=build;type=launch' has type twice"),
        (("--cache", "format=bind;source=a;name=b"), "has a source and a name"),
        (("--cache", "format=bind;source=a", "--cache", "name=b"), "two caches of the type build"),
        (("--cache", "type=build;format=bind"), "a cache of the format bind needs a source"),
        (("--cache", "type=launch;format=image"), "a cache of the format image needs a name"),
        (("--cache", "type=build;format=volume;name=A/b"), "'A/b' is not the name of a cache"),
        (("--cache", "format=image;name=oci:x"), "--cache: 'oci:x' is a location"),
        (("--uid", "0"), "0 is not in the range"),
        (("--uid", "root"), "'root' is not a number"),
        (("--gid", "-1"), "-1 is not in the range"),
        (("--gid", "2147483648"), "2147483648 is not in the range"),
        (("--workspace", "/"), "it is not the path of a directory"),
        (("--workspace", "a/../b"), "it is not the path of a directory"),
        (("--workspace", "usr/src"), "a build or the image has something else in /usr"),
        (("--workspace", "/layers"), "a build or the image has something else in /layers"),
    ],
)
def test_a_value_that_an_option_does_not_take_is_refused(words: tuple[str, ...], why: str) -> None:
    with pytest.raises((PackhorseError, click.UsageError)) as raised:
        parse(*words)
    assert why in str(raised.value)
