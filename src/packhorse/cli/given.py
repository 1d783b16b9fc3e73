"""What a build is made of: options of `packhorse build`, and of `packhorse verify`, which builds it again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import click

from packhorse.base.dataclass import dataclass
from packhorse.cli.main import Context
from packhorse.cli.options import environment, image_name, volume
from packhorse.image.reference import Reference
from packhorse.platform.build_request import BuildRequest

_Result = TypeVar("_Result")

_HELP: Mapping[str, str] = MappingProxyType(
    {
        "builder": "A builder image, instead of the default one.",
        "buildpack": "A buildpack, instead of the builder's order. Repeatable.",
        "env": "A variable for buildpacks. Repeatable.",
        "env-file": "A file of variables. Repeatable.",
        "volume": "Show a directory or file to buildpacks, read-only unless :rw. Repeatable.",
    }
)


@dataclass(frozen=True, slots=True)
class Given:
    """The values of these options."""

    path: Path
    builder: str
    buildpacks: tuple[str, ...]
    env: tuple[str, ...]
    env_files: tuple[Path, ...]
    volumes: tuple[str, ...]

    def request(self, name: Reference, context: Context) -> BuildRequest:
        """A build of these; raises UsageError, and InputError for a file that cannot be read."""
        return BuildRequest(
            name=name,
            path=self.path,
            builder=image_name(self.builder, "--builder"),
            buildpacks=self.buildpacks,
            env=environment(self.env, self.env_files, context),
            volumes=tuple(volume(text, writable=False) for text in self.volumes),
            environ=context.environ,
        )


def giving(
    **told: str,
) -> Callable[[Callable[..., _Result]], Callable[..., _Result]]:
    """Gives a command these options, as its `given`; `told` has help in other words, by the option's name."""
    words = {**_HELP, **{name.replace("_", "-"): text for name, text in told.items()}}

    def decorated(command: Callable[..., _Result]) -> Callable[..., _Result]:
        @click.option(
            "-p", "--path", type=click.Path(path_type=Path), default=Path(), help="The source directory.  [.]"
        )
        @click.option("-B", "--builder", default="", metavar="IMAGE", help=words["builder"])
        @click.option(
            "-b", "--buildpack", "buildpacks", multiple=True, metavar="DIR|ID", help=words["buildpack"]
        )
        @click.option("-e", "--env", "env", multiple=True, metavar="NAME[=VALUE]", help=words["env"])
        @click.option(
            "--env-file",
            "env_files",
            multiple=True,
            type=click.Path(path_type=Path),
            help=words["env-file"],
        )
        @click.option(
            "--volume", "volumes", multiple=True, metavar="SOURCE:TARGET[:rw]", help=words["volume"]
        )
        @functools.wraps(command)
        def with_given(
            *args: object,
            path: Path,
            builder: str,
            buildpacks: tuple[str, ...],
            env: tuple[str, ...],
            env_files: tuple[Path, ...],
            volumes: tuple[str, ...],
            **values: object,
        ) -> _Result:
            given = Given(path, builder, buildpacks, env, env_files, volumes)
            return command(*args, given=given, **values)

        return with_given

    return decorated
