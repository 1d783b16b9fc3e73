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

from packhorse.base.dataclass import dataclass
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
from packhorse.oci.reference import Location, LocationKind, Reference

_Command = TypeVar("_Command", bound=Callable[..., Any])

_SYSTEM = (
    *("bin", "boot", "cnb", "dev", "etc", "layers", "lib", "lib32", "lib64", "libx32", "platform", "proc"),
    *("root", "run", "sbin", "sys", "tmp", "usr", "var"),
)
"""Directories that are no workspace, with all below them."""

_CACHE_FIELDS = ("type", "format", "name", "source")
_CACHE_FORMATS = ("volume", "bind", "image")
_CACHE_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*")
"""The name of a cache is part of an image's name, under which `packhorse cache ls` lists it."""

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


def parse_new_name(text: str, option: str = "") -> Reference:
    """The name of an image that is to be made; UsageError for a place, which would be taken for a name."""
    location = Location.parse(text)
    if location.kind is LocationKind.STORE:
        return Reference.parse_new(location.name)
    option = f"{option}: " if option else ""
    raise UsageError(
        f"{option}{text[:300]!r} is a location, not the name of an image",
        why="a build makes an image under a name in the store, and copies it to other locations",
        fix=_suggest_spelling(location, option),
    )


def _suggest_spelling(location: Location, option: str) -> str:
    """How to spell what was meant by a place in the place of a name."""
    if location.kind is LocationKind.REGISTRY:
        return f"write {location.name}" + ("" if option.startswith("--cache") else " and --publish")
    if option.startswith("--cache"):
        return "name an image of a registry"
    if location.kind is LocationKind.DAEMON:
        return f"write {location.name} and --daemon" if not option else f"write --output {location}"
    return f"write a name, and --output {location}"


@dataclass(frozen=True, slots=True)
class BuildCaches:
    """Where the layers for the next build are kept: at most one of `name`, `image` and `directory`.

    `has_launch` is whether a launch cache was asked for.
    """

    name: str = ""
    image: Reference | None = None
    directory: Path | None = None
    has_launch: bool = False


def _parse_caches(texts: tuple[str, ...]) -> BuildCaches:
    """The values of `--cache`, each `key=value` fields between semicolons, as in pack; UsageError."""
    found: dict[str, dict[str, str]] = {}
    for text in texts:
        fields: dict[str, str] = {}
        for part in text.split(";"):
            key, equals, value = part.partition("=")
            if not equals or key.lower() not in _CACHE_FIELDS:
                raise UsageError(
                    f"--cache: {part[:300]!r} is not a field",
                    why=f"the fields are {', '.join(f'{each}=…' for each in _CACHE_FIELDS)}",
                    fix="write type=build;format=bind;source=DIR, for instance, in quotes",
                )
            if fields.setdefault(key.lower(), value) != value:
                raise UsageError(f"--cache: {text[:300]!r} has {key.lower()} twice", fix="leave one out")
        if "source" in fields and "name" in fields:
            raise UsageError(f"--cache: {text[:300]!r} has a source and a name", fix="leave one out")
        kind, form = fields.get("type", "build"), fields.get("format", "volume")
        for key, value, known in (("type", kind, ("build", "launch")), ("format", form, _CACHE_FORMATS)):
            if value not in known:
                raise UsageError(
                    f"--cache: {value[:300]!r} is not a {key}", fix=f"write {' or '.join(known)}"
                )
        source = fields.get("source") or fields.get("name") or ""
        if not source and form != "volume":
            raise UsageError(
                f"--cache: a cache of the format {form} needs a {'name' if form == 'image' else 'source'}",
                fix="add name=IMAGE" if form == "image" else "add source=DIR",
            )
        if kind in found:
            raise UsageError(f"--cache: there are two caches of the type {kind}", fix="leave one out")
        found[kind] = {"format": form, "source": source}
    build = found.get("build", {"format": "volume", "source": ""})
    form, source = build["format"], build["source"]
    if form == "volume" and source and not _CACHE_NAME.fullmatch(source):
        raise UsageError(
            f"--cache: {source[:300]!r} is not the name of a cache",
            why="it has lower-case letters, digits, and '.', '_' or '-' between them",
        )
    return BuildCaches(
        name=source if form == "volume" else "",
        image=parse_new_name(source, "--cache") if form == "image" else None,
        directory=Path(source).absolute() / "build-cache" if form == "bind" else None,
        has_launch="launch" in found,
    )


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


def split_locators(texts: tuple[str, ...]) -> tuple[str, ...]:
    """The locators of an option: each text is a path that exists, or locators with commas between them."""
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
            read=split_locators,
            help=words["buildpack"],
        ),
        field_option(
            "--pre-buildpack",
            "pre_buildpacks",
            multiple=True,
            metavar="LOCATOR",
            read=split_locators,
            help="A buildpack before those of each group of the builder. Repeatable: the last comes first.",
        ),
        field_option(
            "--post-buildpack",
            "post_buildpacks",
            multiple=True,
            metavar="LOCATOR",
            read=split_locators,
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
    metavar="OS/ARCH[/VARIANT]",
    read=_parse_target,
    help="The platform of builder and image: linux/arm64.  [this machine's]",
)

cache_option = click.option(
    "--cache",
    "caches",
    multiple=True,
    metavar="FIELDS",
    callback=lambda ctx, param, texts: _parse_caches(texts),
    help="Where to keep layers: type=build;format=bind;source=DIR, format=image;name=IMAGE, or "
    "format=volume;name=NAME.  [under the image's name]",
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
