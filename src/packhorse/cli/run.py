"""`packhorse run`: starts an image, with the options of `docker run`."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import click

from packhorse.base.dataclass import replace
from packhorse.base.sandbox import Limits, Network, Port
from packhorse.cli.main import Context, usage_error
from packhorse.cli.options import (
    Count,
    add_registry_options,
    docker_host,
    environment,
    image_name,
    open_store,
    parse_size,
    parse_volume,
)
from packhorse.cli.output import exhaustion_error
from packhorse.errors import PackhorseError, RunError, UsageError
from packhorse.host.locate import PullPolicy
from packhorse.host.registries import RegistryOptions
from packhorse.run import RunRequest, free_port
from packhorse.run import run as run_image

_PULLS = {"always": PullPolicy.ALWAYS, "missing": PullPolicy.IF_NOT_PRESENT, "never": PullPolicy.NEVER}
"""The policies by the names that `docker run --pull` uses."""


class _RunCommand(click.Command):
    """Takes options before NAME and directly after it. From the first other word on, all goes to the image.

    An unknown option after NAME goes to the image too, and so does everything after `--`, as with docker.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.allow_interspersed_args = False
        before = self._options(ctx, args)
        if before == len(args) or args[before].startswith("-"):
            return super().parse_args(ctx, args)
        rest = args[before + 1 :]
        behind = self._options(ctx, rest)
        return super().parse_args(ctx, [*args[:before], *rest[:behind], "--", args[before], *rest[behind:]])

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """As click's, but a wrong option ends with 125, because any other status could be the image's own."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            raise _run_error(usage_error(error)) from error

    def invoke(self, ctx: click.Context) -> Any:
        """As click's, but every error that keeps the image from starting is a RunError, as with docker."""
        try:
            return super().invoke(ctx)
        except RunError:
            raise
        except PackhorseError as error:
            raise _run_error(error) from error
        except (OSError, MemoryError, RuntimeError) as error:
            known = exhaustion_error(error)
            if known is None:
                raise
            raise _run_error(known) from known

    def _options(self, ctx: click.Context, words: list[str]) -> int:
        """Counts the words at the beginning that are options and their values."""
        options = click.Command(
            self.name, params=[param for param in self.params if isinstance(param, click.Option)]
        )
        count = 0
        while words[count : count + 1] not in ([], ["-"], ["--"]) and words[count].startswith("-"):
            width = next((n for n in (1, 2) if _is_parsed(options, ctx, words[count : count + n])), 0)
            if width == 0:
                break
            count += width
        return count


def _run_error(error: PackhorseError) -> RunError:
    return RunError(error.what, why=error.why, fix=error.fix, check=error.check)


def _is_parsed(options: click.Command, ctx: click.Context, words: list[str]) -> bool:
    try:
        _, rest, _ = options.make_parser(ctx).parse_args(list(words))
    except click.UsageError:
        return False
    return not rest


@click.command(cls=_RunCommand)
@click.argument("name")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "-p", "--publish", "ports", multiple=True, metavar="[[IP:]HOST:]PORT", help="Publish a port. Repeatable."
)
@click.option("-e", "--env", "env", multiple=True, metavar="NAME[=VALUE]", help="Set a variable. Repeatable.")
@click.option(
    "--env-file",
    "env_files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A file of variables. Repeatable.",
)
@click.option(
    "-v",
    "--volume",
    "volumes",
    multiple=True,
    metavar="DIR:TARGET[:ro]",
    help="Mount a directory in the image. Repeatable.",
)
@click.option("-i", "--interactive", is_flag=True, help="Give the image your standard input.")
@click.option("-t", "--tty", is_flag=True, help="Give the image a terminal.")
@click.option("--entrypoint", metavar="COMMAND", help="Start this command or process type instead.")
@click.option("-w", "--workdir", default="", metavar="DIR", help="The directory to start in.")
@click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="The user to start as.")
@click.option(
    "--network", type=click.Choice(["none", "host"]), help="The network of the image.  [its own if possible]"
)
@click.option(
    "--sandbox",
    default="",
    metavar="RUNTIME",
    help="bubblewrap, or an OCI runtime: runc, crun.  [bubblewrap]",
)
@click.option(
    "-m", "--memory", default="", metavar="SIZE", help="The most memory that the image may use: 512m, 4g."
)
@click.option(
    "--pids-limit",
    type=Count(),
    default=0,
    metavar="N",
    help="The most processes that the image may have; 0 or -1 is no limit.  [0]",
)
@click.option("--shm-size", default="", metavar="SIZE", help="The size of /dev/shm.  [64m]")
@docker_host
@click.option(
    "--pull",
    type=click.Choice(list(_PULLS)),
    help="When to fetch the image from its registry.  [missing]",
)
@click.option("--rm", is_flag=True, help="No effect: packhorse always removes what the image wrote.")
@add_registry_options
@click.pass_obj
def run(
    context: Context,
    name: str,
    arguments: tuple[str, ...],
    ports: tuple[str, ...],
    env: tuple[str, ...],
    env_files: tuple[Path, ...],
    volumes: tuple[str, ...],
    interactive: bool,
    tty: bool,
    entrypoint: str | None,
    workdir: str,
    user: str,
    network: str | None,
    sandbox: str,
    memory: str,
    pids_limit: int,
    shm_size: str,
    docker_host: str,
    pull: str | None,
    rm: bool,
    registry_options: RegistryOptions,
) -> int:
    """Start the image NAME, with ARGUMENTS for its process."""
    console = context.console
    request = RunRequest(
        name=image_name(name, "NAME"),
        arguments=arguments,
        entrypoint=entrypoint,
        env=environment(env, env_files, context),
        volumes=tuple(parse_volume(text, writable=True) for text in volumes),
        ports=tuple(_parse_port(text) for text in ports),
        user=user,
        working_dir=workdir,
        interactive=interactive,
        terminal=tty,
        network=Network(network) if network else None,
        sandbox=sandbox,
        limits=_make_limits(memory, pids_limit, shm_size),
        pull=_PULLS[pull or "missing"],
        docker_host=docker_host,
        registry_options=registry_options,
        environ=context.environ,
    )
    for port, text in zip(request.ports, ports, strict=True):
        if ":" not in text:
            console.notes([f"port {port.port} is at {port.host_port} of this machine"])
    with open_store(context) as store:
        return run_image(request, store, console.say, console.say_raw if tty else console.say)


def _make_limits(memory: str, processes: int, shared_memory: str) -> Limits:
    """Reads limits as docker does: no value is no limit, and for processes neither is 0 or -1."""
    limits = Limits(
        memory=parse_size(memory, option="--memory") if memory else 0, processes=max(processes, 0)
    )
    if shared_memory:
        limits = replace(limits, shared_memory=parse_size(shared_memory, option="--shm-size"))
    return limits


def _parse_port(text: str) -> Port:
    address, _, rest = text.rpartition(":")
    port, _, protocol = rest.partition("/")
    ip, _, host = address.rpartition(":")
    known = protocol in ("", "tcp", "udp") and _is_port(port) and (not address or _is_port(host))
    if not known or (ip and not _is_address(ip.strip("[]"))):
        raise UsageError(f"not a port to publish: {text!r}", why="write HOST:PORT, IP:HOST:PORT or PORT")
    return Port(int(host) if host else free_port(), int(port), ip.strip("[]"), protocol or "tcp")


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 5 and 0 < int(text) < 65536


def _is_address(text: str) -> bool:
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False
