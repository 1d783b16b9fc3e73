"""The options of a build, which `build`, `detect` and `verify` share.

The parameter of each has the name of a field of `build.request`, and its callback makes the value of that
field: a command hands all of them on, so a new option needs no other line in cli.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from packhorse.base.files import resolve
from packhorse.base.sandbox import Network
from packhorse.base.target import Target
from packhorse.cli.options import (
    Count,
    environment,
    image_location,
    image_name,
    keep_value,
    parse_limits,
    parse_volume,
)
from packhorse.errors import UsageError

_Command = TypeVar("_Command", bound=Callable[..., Any])

_SYSTEM = (
    *("bin", "boot", "cnb", "dev", "etc", "layers", "lib", "lib32", "lib64", "libx32", "platform", "proc"),
    *("root", "run", "sbin", "sys", "tmp", "usr", "var"),
)
"""Directories that are no workspace, with all below them."""

_HIGHEST_ID = 2**31 - 1

_RESERVED_LABELS = "io.buildpacks."

_EXEC_ENV = re.compile(r"[A-Za-z0-9.-]+")


def _combine(*options: Callable[[Any], Any]) -> Callable[[_Command], _Command]:
    """Several options as one decorator; help lists them in this order."""

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def field_option(
    *words: str, read: Callable[[Any], object] | None = None, **attributes: Any
) -> Callable[[_Command], _Command]:
    """An option for a field of BuildRequest; `read` makes the field's value of what the user wrote."""

    def convert(ctx: click.Context, param: click.Parameter, value: Any) -> object:
        return value if read is None else read(value)

    return click.option(*words, callback=convert, **attributes)


def _read_env(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> Mapping[str, str]:
    return environment(value, ctx.meta["packhorse.env_files"], ctx.obj)


def _read_labels(texts: tuple[str, ...]) -> Mapping[str, str]:
    """`--label NAME=VALUE`; UsageError for what is none, and for the specification's own labels."""
    labels = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or "\0" in text:
            raise UsageError(f"--label: {text[:300]!r} is not a label", fix="write NAME=VALUE")
        if name.startswith(_RESERVED_LABELS):
            raise UsageError(
                f"--label {name}: this label is the specification's",
                why=f"a build writes the labels {_RESERVED_LABELS}* itself, and a rebase reads them",
                fix="use another name",
            )
        labels[name] = value
    return labels


def _parse_workspace(text: str) -> str:
    """The absolute path of `--workspace`; UsageError for one that a build or the image needs itself."""
    path = f"/{text.strip('/')}"
    parts = path.split("/")[1:]
    problem = ""
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        problem = "it is not the path of a directory"
    elif parts[0] in _SYSTEM:
        problem = f"a build or the image has something else in /{parts[0]}"
    if problem:
        raise UsageError(
            f"--workspace: {text[:300]!r} cannot be used", why=problem, fix="name another, as app"
        )
    return path


def _parse_target(text: str) -> Target | None:
    """The target of `--platform`; UsageError for another system than Linux."""
    target = Target.parse(text) if text else None
    if target is not None and target.os != "linux":
        raise UsageError(
            f"--platform {target}: packhorse builds for linux only", fix=f"write linux/{target.arch}"
        )
    return target


def _parse_exec_env(text: str) -> str:
    """An execution environment's name; directories of layers are named after it (B-009)."""
    if not _EXEC_ENV.fullmatch(text):
        raise UsageError(
            f"--exec-env: {text!r} is not an execution environment",
            why="its name has letters, digits, '.' and '-'",
            fix="write production, test or a name of your own",
        )
    return text


def _split_locators(texts: tuple[str, ...]) -> tuple[str, ...]:
    """The locators of an option: each text is one, or several with commas between them."""
    return tuple(
        part.strip() for text in texts for part in ([text] if resolve(Path(text)) else text.split(","))
    )


def source_options(**help_texts: str) -> Callable[[_Command], _Command]:
    """Options for what a build is made of; `help_texts` replace the help of some, by the option's name."""
    words = {
        "builder": "A builder image by name or location, instead of the default one.",
        "buildpack": "A buildpack, instead of the builder's order: ID, path, URL, image. Repeatable.",
        "env": "A variable for buildpacks. Repeatable.",
        "env_file": "A file of variables. Repeatable.",
        "volume": "Show a directory or file to buildpacks, read-only unless :rw. Repeatable.",
    } | help_texts

    return _combine(
        field_option(
            "-B",
            "--builder",
            default="",
            metavar="IMAGE",
            read=image_location,
            help=words["builder"],
        ),
        field_option(
            "-b",
            "--buildpack",
            "buildpacks",
            multiple=True,
            metavar="LOCATOR",
            read=_split_locators,
            help=words["buildpack"],
        ),
        field_option(
            "--pre-buildpack",
            "pre_buildpacks",
            multiple=True,
            metavar="LOCATOR",
            read=_split_locators,
            help="A buildpack before those of each group of the builder. Repeatable.",
        ),
        field_option(
            "--post-buildpack",
            "post_buildpacks",
            multiple=True,
            metavar="LOCATOR",
            read=_split_locators,
            help="A buildpack after those of each group of the builder. Repeatable.",
        ),
        field_option(
            "-d",
            "--descriptor",
            type=click.Path(path_type=Path),
            help="Read this file instead of project.toml in the source.",
        ),
        click.option(
            "-e",
            "--env",
            "env",
            multiple=True,
            metavar="NAME[=VALUE]",
            callback=_read_env,
            help=words["env"],
        ),
        # Eager options are read first, so that `_read_env` finds the files.
        click.option(
            "--env-file",
            "env_files",
            multiple=True,
            type=click.Path(path_type=Path),
            is_eager=True,
            expose_value=False,
            callback=keep_value,
            help=words["env_file"],
        ),
        field_option(
            "--volume",
            "volumes",
            multiple=True,
            metavar="SOURCE:TARGET[:rw]",
            read=lambda texts: tuple(parse_volume(text, writable=False) for text in texts),
            help=words["volume"],
        ),
    )


label_option = field_option(
    "--label",
    "labels",
    multiple=True,
    metavar="NAME=VALUE",
    read=_read_labels,
    help="A label of the image. Repeatable.",
)

previous_image_option = field_option(
    "--previous-image",
    default="",
    metavar="IMAGE",
    read=lambda name: image_name(name, "--previous-image"),
    help="Reuse layers of this image, instead of the last one of the same name.",
)

workspace_option = field_option(
    "--workspace",
    default="workspace",
    metavar="DIR",
    read=_parse_workspace,
    help="Where buildpacks and the image have the source.  [workspace]",
)

user_options = _combine(
    click.option("--uid", type=Count(1, _HIGHEST_ID), help="The user of buildpacks.  [the builder's]"),
    click.option("--gid", type=Count(0, _HIGHEST_ID), help="The group of buildpacks.  [the builder's]"),
)

system_buildpacks_option = field_option(
    "--disable-system-buildpacks",
    "system_buildpacks",
    is_flag=True,
    read=lambda is_given: not is_given,
    help="Leave out the buildpacks that the builder puts around every group.",
)

target_option = field_option(
    "--platform",
    "target",
    default="",
    metavar="OS/ARCH",
    read=_parse_target,
    help="The platform of builder and image: linux/arm64.  [this machine's]",
)

path_option = click.option(
    "-p", "--path", type=click.Path(path_type=Path), default=Path(), help="The source directory.  [.]"
)

exec_env_option = field_option(
    "--exec-env",
    default="production",
    metavar="NAME",
    read=_parse_exec_env,
    help="The execution environment of the image.  [production]",
)


def run_image_option(text: str) -> Callable[[_Command], _Command]:
    """`--run-image`, with its help."""
    return field_option(
        "--run-image",
        default="",
        metavar="IMAGE",
        read=lambda name: image_name(name, "--run-image"),
        help=text,
    )


def sandbox_options(*, limits: bool) -> Callable[[_Command], _Command]:
    """Options for where buildpacks run; `limits` is whether the command has --limit."""
    options = [
        field_option(
            "--network",
            type=click.Choice(["none", "host"]),
            read=lambda name: Network(name) if name else None,
            help="The network that buildpacks use.  [their own if possible]",
        ),
        field_option(
            "--sandbox",
            default="",
            metavar="RUNTIME",
            help="bubblewrap, or an OCI runtime: runc, crun.  [bubblewrap]",
        ),
    ]
    if limits:
        options.append(
            field_option(
                "--limit",
                "limits",
                multiple=True,
                metavar="NAME=NUMBER",
                read=parse_limits,
                help="A limit for buildpacks: memory=4g, processes=8192, … or NAME=none. Repeatable.",
            )
        )
    return _combine(*options)
