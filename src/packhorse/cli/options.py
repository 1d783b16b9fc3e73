"""Defines the options that several commands share, parses their text, and opens the store for a command.

Modules that only some commands need are imported inside functions, so that other commands start faster.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from packhorse.base import files as base_files
from packhorse.base.files import resolve
from packhorse.cli.main import Context
from packhorse.errors import InputError, UsageError
from packhorse.host.folders import Folders
from packhorse.host.locate import PullPolicy, read
from packhorse.host.registries import RegistryOptions
from packhorse.oci.reference import Location, LocationKind

if TYPE_CHECKING:
    from packhorse.base.sandbox import Bind
    from packhorse.build.host import Host
    from packhorse.host.wiring import Wiring
    from packhorse.oci.place import Image
    from packhorse.store.store import Store

_Command = TypeVar("_Command", bound=Callable[..., Any])

KEEP_STORAGE = "PACKHORSE_KEEP_STORAGE"
"""The variable that limits how much storage builds keep: a size, or `none`."""

_LIMIT = 1 << 20
"""The most bytes of an env file."""

_DIGITS = 18
"""The most digits of a number that a user gives; the kernel's limits have no more."""

_LONGEST_NAME = 255
"""The most bytes of a variable's name, because buildpacks get it as the name of a file."""


compression = click.option(
    "--compression",
    type=click.Choice(["gzip", "zstd"]),
    default="gzip",
    help="How to compress layers that are not compressed yet, for a registry or OCI layout.  [gzip]",
)


output_format = click.option(
    "-o",
    "--output",
    type=click.Choice(["human", "json"]),
    default="human",
    help="The output format.  [human]",
)


docker_host = click.option(
    "--docker-host",
    default="",
    metavar="ADDRESS",
    help="The container engine: unix:///PATH, tcp://HOST:PORT, ssh://USER@HOST, inherit.  [DOCKER_HOST, "
    "the docker context, or the first that listens]",
)


def local_or_remote(command: _Command) -> _Command:
    """Adds --local and --remote, for `open_image`."""
    command = click.option("--remote", is_flag=True, help="Look only in the registry.")(command)
    text = "Look only in the store and the container engine."
    return click.option("--local", is_flag=True, help=text)(command)


def pull_policy(default: PullPolicy) -> Callable[[_Command], _Command]:
    """Returns the option `--pull-policy`, with pack's values."""
    return click.option(
        "--pull-policy",
        "pull",
        type=click.Choice([str(policy) for policy in PullPolicy]),
        default=str(default),
        help=f"When to fetch images from their registries.  [{default}]",
    )


def add_registry_options(command: _Command) -> _Command:
    """Adds the options that say how to reach registries; the command gets them as `registry_options`."""
    command = click.option(
        "--insecure-registry",
        "registry_options",
        multiple=True,
        metavar="HOST",
        callback=_read_registry_options,
        help="A registry (HOST or HOST:PORT) that needs no trusted certificate and no TLS. Repeatable.",
    )(command)
    # Eager options are read first, so `_read_registry_options` finds the directory.
    return click.option(
        "--cert-dir",
        type=click.Path(path_type=Path),
        metavar="DIR",
        is_eager=True,
        expose_value=False,
        callback=keep_value,
        help="Certificates for registries: *.crt to trust, NAME.cert and NAME.key for the client.",
    )(command)


def keep_value(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Keeps an option's value for the callback of another option."""
    ctx.meta[f"packhorse.{param.name}"] = value


def _read_registry_options(
    ctx: click.Context, param: click.Parameter, value: tuple[str, ...]
) -> RegistryOptions:
    hosts = tuple(_host(text) for text in value)
    tell = ctx.obj.console.say if ctx.obj else None  # None when `run` parses options only to count words
    return RegistryOptions(hosts, ctx.meta["packhorse.cert_dir"], tell)


def verbosity(quiet: str) -> Callable[[_Command], _Command]:
    """Adds -q, -v and --no-color, which apply before other options are read. `quiet` is the help of -q."""

    def adjust(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        chosen = {name: name == param.name and value for name in ("quiet", "verbose", "no_color")}
        ctx.obj.console.adjust(**chosen)

    def decorate(command: _Command) -> _Command:
        for words, text in (
            (("--no-color",), "Print without colours."),
            (("-v", "--verbose"), "Print everything."),
            (("-q", "--quiet"), quiet),
        ):
            command = click.option(
                *words, is_flag=True, is_eager=True, expose_value=False, callback=adjust, help=text
            )(command)
        return command

    return decorate


def _host(text: str) -> str:
    """Parses HOST or HOST:PORT, and ignores a scheme before it; UsageError."""
    host = re.sub(r"^https?://", "", text.strip()).rstrip("/")
    if not host or "/" in host or "@" in host:
        raise UsageError(f"--insecure-registry: {text!r} is not a registry", fix="write HOST, or HOST:PORT")
    return host


@contextmanager
def open_store(context: Context, *, frees: bool = False) -> Iterator[Store]:
    """Opens the user's store, or makes it. `frees` is for commands that free space: they need none."""
    from packhorse.store.store import Store

    with Store.open(Folders.find(context.environ).store, frees=frees, hurries=not frees) as store:
        store.meter = context.console.meter
        yield store


@contextmanager
def open_wiring(context: Context, *, docker_host: str, registry_options: RegistryOptions) -> Iterator[Wiring]:
    """Opens the store, and yields the adapters to images in it, in registries and in the container engine."""
    from packhorse.host.wiring import Wiring

    with open_store(context) as store:
        yield Wiring(
            store, registry_options=registry_options, environ=context.environ, docker_host=docker_host
        )


@contextmanager
def open_image(
    context: Context,
    name: str,
    *,
    local: bool,
    remote: bool,
    docker_host: str,
    registry_options: RegistryOptions,
) -> Iterator[tuple[Image, bool, Wiring]]:
    """Yields the named image, whether its registry has it, and the adapters.

    The layers can be read inside the block. Raises UsageError, and the errors of `host.locate.read`.
    """
    if local and remote:
        raise UsageError("--local and --remote exclude each other", fix="leave out both to look in both")
    with (
        context.console.activity(f"reading {name}"),
        open_wiring(context, docker_host=docker_host, registry_options=registry_options) as wiring,
    ):
        yield *read(wiring, name, local=local, remote=remote), wiring


@contextmanager
def open_host(context: Context, *, docker_host: str, registry_options: RegistryOptions) -> Iterator[Host]:
    """Opens the store, and yields the services of this machine for one build."""
    from packhorse.build.host import Host

    with open_wiring(context, docker_host=docker_host, registry_options=registry_options) as wiring:
        yield Host(wiring.store, wiring, context.environ)


@contextmanager
def open_store_lazily(context: Context) -> Iterator[Callable[[], Store]]:
    """Yields a function that opens the user's store, for commands that may not need it."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(open_store(context))


def environment(arguments: Iterable[str], files: Iterable[Path], context: Context) -> dict[str, str]:
    """Returns the variables of `--env NAME=value`, which win over those of each `--env-file`.

    `NAME` alone takes the caller's own value. A file has one `NAME=value` or `NAME` per line; empty lines and
    lines that begin with `#` are ignored, as docker does. Raises UsageError for an invalid name, and
    InputError for a file that cannot be read.
    """
    values: dict[str, str] = {}
    environ, secrets = context.environ, context.console.secrets
    for file in files:
        try:
            text = base_files.read(file, limit=_LIMIT).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"the env file {file} is not UTF-8", why=f"at byte {error.start}") from error
        secrets.add_words(text.split("\n"))
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip() and not line.lstrip().startswith("#"):
                _set_variable(values, line.lstrip().removesuffix("\r"), environ, where=f"{file}:{number}")
    for text in arguments:
        _set_variable(values, text, environ, where="--env")
    return values


def _set_variable(values: dict[str, str], text: str, environ: Mapping[str, str], *, where: str) -> None:
    """Adds one variable. No message quotes the text, because it may be a secret value or a line of one."""
    name, equals, value = text.partition("=")
    if name in ("", ".", "..") or len(name.encode(errors="surrogateescape")) > _LONGEST_NAME:
        raise UsageError(f"{where}: the name of the variable is missing", fix="write NAME=value")
    if any(character in name for character in "/\0 \t") or "\0" in value:
        raise UsageError(
            f"{where}: this is not a variable",
            why="a name cannot have '/' or spaces, and neither name nor value can have a NUL byte",
            fix="write NAME=value",
        )
    if equals:
        values[name] = value
    elif name in environ:
        values[name] = environ[name]


class Count(click.IntRange):
    """A whole number in ASCII digits. click alone would also accept digits of other scripts, and `1_000`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and not re.fullmatch("-?[0-9]{1,18}", value):
            self.fail(f"{value[:100]!r} is not a number.", param, ctx)
        return super().convert(value, param, ctx)

    def _describe_range(self) -> str:
        # click describes a range without bounds as `x<=None`.
        return "" if self.min is None and self.max is None else super()._describe_range()


_NUMBER = r"[0-9]{1,18}(?:\.[0-9]{1,18})?"
"""ASCII digits: `\\d` and `str.isdecimal` also accept those of other scripts."""

_UNITS = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_LONGEST = 365 * 86400.0
_SECONDS = {"s": 1, "m": 60, "h": 3600}


def parse_size(text: str, *, option: str) -> int:
    """Parses bytes as docker does: `512m`, `4g`, `1073741824`; UsageError."""
    found = re.fullmatch(rf"({_NUMBER})([bkmgt]?)(?:i?b)?", text.strip().lower())
    if found is None:
        raise UsageError(
            f"{option}: {text[:100]!r} is not a size", why="write bytes, or a number with k, m, g or t"
        )
    return int(float(found[1]) * _UNITS[found[2] or "b"])


def parse_seconds(text: str, *, option: str) -> float:
    """Parses seconds as timeout(1) does: `90`, `90s`, `10m`, `1h`, `1.5h`; UsageError."""
    found = re.fullmatch(rf"({_NUMBER})([smh]?)", text.strip().lower())
    seconds = float(found[1]) * _SECONDS[found[2] or "s"] if found else 0
    if not 0 < seconds <= _LONGEST:
        raise UsageError(
            f"{option}: {text[:100]!r} is not a time",
            why="write seconds, or a number with s, m or h: 90s, 10m, 1h",
        )
    return seconds


def keep_storage(environ: Mapping[str, str]) -> int | None:
    """Returns how many bytes of layers builds may keep: 0 is no limit, None the default; UsageError."""
    text = environ.get(KEEP_STORAGE, "")
    if not text:
        return None
    return 0 if text == "none" else parse_size(text, option=KEEP_STORAGE)


def parse_limits(texts: Iterable[str]) -> dict[str, int]:
    """Parses each `--limit NAME=NUMBER`; 0 for `none`. UsageError."""
    from packhorse.host.limits import NAMES, SIZES

    asked = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in NAMES:
            raise UsageError(
                f"--limit: {text!r} is not a limit",
                why=f"write NAME=NUMBER or NAME=none; the names are {', '.join(NAMES)}",
            )
        if value == "none":
            asked[name] = 0
        elif name in SIZES:
            asked[name] = parse_size(value, option=f"--limit {name}")
        elif value.isascii() and value.isdecimal() and len(value) <= _DIGITS:
            asked[name] = int(value)
        else:
            raise UsageError(
                f"--limit {name}: {value[:100]!r} is not a number", fix=f"write {name}=1000, or {name}=none"
            )
    return asked


def parse_volume(text: str, *, writable: bool) -> Bind:
    """Parses `SOURCE:TARGET[:ro|:rw]`; `writable` is the default mode. UsageError."""
    from packhorse.base.sandbox import Bind

    source, _, rest = text.partition(":")
    target, colon, mode = rest.partition(":")
    known = mode in ("ro", "rw") or not colon
    if not source.startswith((".", "/", "~")) or not target.startswith("/") or not known:
        raise UsageError(
            f"not a volume: {text!r}",
            why="write SOURCE:TARGET, then :ro or :rw if needed; SOURCE begins with / or ., TARGET with /",
        )
    path = resolve(_expand_home(source))
    if path is None:
        raise UsageError(f"there is no {source}", why=f"--volume {text} names it")
    return Bind(path, target, writable=mode == "rw" if mode else writable)


def _expand_home(source: str) -> Path:
    """Expands a ~ or ~USER at the beginning of a path; UsageError for an unknown user."""
    try:
        return Path(source).expanduser()
    except RuntimeError as error:
        raise UsageError(
            f"not a volume: {source!r}", why="there is no home directory of that user"
        ) from error


def image_name(text: str, option: str) -> str:
    """Returns the name of an image in the store or its registry; UsageError for a location elsewhere.

    Such a location would otherwise be taken for a name.
    """
    if not text:
        return text
    location = Location.parse(text)
    if location.kind is LocationKind.STORE:
        return location.name
    fix = f"write {location.name}"
    if location.kind is not LocationKind.REGISTRY:
        fix = f"copy it to the store, and name it there: packhorse copy {location} NAME"
    raise UsageError(
        f"{option}: {text[:300]!r} is a location, not the name of an image",
        why="packhorse takes the image from the store or from the registry in its name",
        fix=fix,
    )


def image_location(text: str) -> str:
    """Where an image is read from: its name in the store or in its registry, or another place; InputError."""
    if not text:
        return text
    location = Location.parse(text)
    return location.name if location.kind in (LocationKind.STORE, LocationKind.REGISTRY) else str(location)
