"""Runs a command of the command line, and prints the error and returns the exit code if it fails.

A command's module is imported when the command is called, so that no command waits for the imports of
another. Every error class has its exit code (`packhorse.errors`, docs/reference/exit-codes.md). An exception
that is none of our errors is a defect: the user reads where it is and how to report it.
"""

from __future__ import annotations

import atexit
import importlib
import io
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import click

from packhorse.base.dataclass import dataclass
from packhorse.cli.output import Console, Level, defect, exhaustion_error, find_write_error, lost_output_error
from packhorse.cli.signals import Cancelled, Signals
from packhorse.cli.waiting import watch
from packhorse.errors import PackhorseError, UsageError
from packhorse.version import __version__

_COMMANDS = {
    "build": ("packhorse.cli.build", "build", "Turn source code into an image."),
    "builder": ("packhorse.cli.builder", "builder", "Manage builders."),
    "buildpack": (
        "packhorse.cli.builder",
        "buildpack",
        "Prepare buildpacks for other machines and platforms.",
    ),
    "cache": ("packhorse.cli.images", "cache", "Manage the layers that builds keep for the next builds."),
    "copy": ("packhorse.cli.images", "copy", "Copy an image from one location to another."),
    "detect": ("packhorse.cli.detect", "detect", "Say which buildpacks would build, and why."),
    "diff": ("packhorse.cli.diff", "diff", "Show what differs between two images."),
    "doctor": ("packhorse.cli.doctor", "doctor", "Check if builds can work on this machine; --fix fixes it."),
    "gc": ("packhorse.cli.images", "gc", "Remove data that no image, cache or running command needs."),
    "images": ("packhorse.cli.images", "images", "List the images in the store."),
    "inspect": ("packhorse.cli.inspect", "inspect", "Show what is in an image."),
    "login": ("packhorse.cli.login", "login", "Store the credentials for a registry."),
    "logout": ("packhorse.cli.login", "logout", "Remove the credentials for a registry."),
    "rebase": ("packhorse.cli.rebase", "rebase", "Put images on newer run images, without a build."),
    "rmi": ("packhorse.cli.images", "rmi", "Remove images from the store."),
    "run": ("packhorse.cli.run", "run", "Start an image."),
    "sbom": ("packhorse.cli.sbom", "sbom", "List the components of an image."),
    "verify": ("packhorse.cli.verify", "verify", "Build an image again and say what differs."),
}


@dataclass(frozen=True, slots=True)
class Context:
    """What every command gets: the console, the user's environment, and the signals that can cancel it."""

    console: Console
    environ: Mapping[str, str]
    signals: Signals


class CommandGroup(click.Group):
    """A group that lists each command with its whole first paragraph; click's own group cuts it."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            assert command is not None
            rows.append((name, command.short_help or _first_paragraph(command.help or "")))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _first_paragraph(text: str) -> str:
    return " ".join(text.strip().partition("\n\n")[0].split())


class _Commands(CommandGroup):
    """The group of all commands. It imports a command when it is called, and takes help from the table."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        with _guard_pipes():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _guard_pipes():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, but the error for an unknown command suggests the most similar one."""
        if args[0] not in _COMMANDS and not args[0].startswith("-"):
            import difflib  # imported here, because only a mistyped command needs it

            near = difflib.get_close_matches(args[0], _COMMANDS, 1)
            raise click.UsageError(
                f"No such command {args[0]!r}" + (f"\nDid you mean {near[0]}?" if near else ""), ctx
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="packhorse")
@click.option("-q", "--quiet", is_flag=True, help="Print only results.")
@click.option("-v", "--verbose", is_flag=True, help="Print everything.")
@click.option("--no-color", is_flag=True, help="Print without colours (as NO_COLOR=1 does).")
@click.pass_context
def packhorse(ctx: click.Context, quiet: bool, verbose: bool, no_color: bool) -> None:
    """Turn source code into a container image: Cloud Native Buildpacks without a daemon or a Dockerfile."""
    ctx.obj.console.adjust(quiet=quiet, verbose=verbose, no_color=no_color)


def program() -> NoReturn:
    """Runs a command and ends the process. Called by `start`.

    Skips Python's own shutdown, because that would take longer than many commands.
    """
    status = _execute()
    for stream in (sys.stdout, sys.stderr):
        failed = find_write_error(stream)
        status = status or (failed.exit_code if failed else 0)
    # os._exit does not call these, and one of them ends the child of `fs.opener`.
    atexit._run_exitfuncs()
    os._exit(status)


def main() -> NoReturn:
    """Runs a command; raises SystemExit with its exit code."""
    sys.exit(_execute())


def _execute() -> int:
    """Runs a command, and returns its exit code."""
    _speak_utf8()
    _open_standard_streams()
    _print_utf8()
    try:
        signals = Signals()
    except RuntimeError as error:  # this user may have no more threads
        known = exhaustion_error(error)
        if known is None:
            raise
        return _print_error(Console(dict(os.environ)), known)
    try:
        status = _run(sys.argv[1:], signals)
        signals.finish(status)
    except Cancelled:  # it came while an error was printed
        status = signals.error.exit_code
        signals.finish(status)
    return status


def _run(arguments: list[str], signals: Signals) -> int:
    environ = dict(os.environ)
    console = Console(environ)
    watch(console)
    console.secrets.add_words(arguments)
    context = Context(console, environ, signals)
    try:
        status = packhorse.main(args=arguments, prog_name="packhorse", standalone_mode=False, obj=context)
        return status if isinstance(status, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        console.help(error.format_message())
        return UsageError.exit_code
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except BaseException as error:  # noqa: BLE001 - the one place where a defect of ours ends
        explained = _explain(error, console, signals)
        signals.finish(explained.exit_code)
        return _print_error(console, explained)


def _explain(error: BaseException, console: Console, signals: Signals) -> PackhorseError:
    """Turns any exception into the error that the user reads."""
    if signals.is_cancelled:
        # Every other error is a consequence of the cancellation: for example, Python wraps an exception that
        # is raised in some places into one of its own.
        if not isinstance(error, Cancelled):
            signals.error.__cause__ = error
        return signals.error
    if isinstance(error, click.ClickException):
        return usage_error(error)
    if isinstance(error, PackhorseError):
        if not (error.fix or error.check) and any(map(exhaustion_error, _list_causes(error))):
            error.check = "limits"
        return error
    known = _help_write_error(error) or find_write_error(sys.stdout) or exhaustion_error(error)
    return known or defect(error, console.secrets, verbose=console.level is Level.VERBOSE)


def _list_causes(error: BaseException) -> Iterator[BaseException]:
    """Yields the exceptions that led to `error`: its cause, the cause of that, and so on."""
    cause = error.__cause__
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _help_write_error(error: BaseException) -> PackhorseError | None:
    """Returns the error for a text that click itself failed to write, such as help; None for other errors."""
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None:
        frames = frames.tb_next
    if isinstance(error, OSError) and frames is not None and frames.tb_frame.f_code is click.echo.__code__:
        return lost_output_error(sys.stdout, error)
    return None


@contextmanager
def _guard_pipes() -> Iterator[None]:
    """Raises another error for a broken pipe, because click would end the process silently with its own code.

    click would do so for any pipe, not only for standard output.
    """
    try:
        yield
    except BrokenPipeError as error:
        raise (_help_write_error(error) or RuntimeError("no code handled this broken pipe")) from error


def _print_error(console: Console, error: PackhorseError) -> int:
    """Prints the error, if stderr can still be written; returns its exit code."""
    with suppress(PackhorseError):
        console.error(error)
    return error.exit_code


def _speak_utf8() -> None:
    """Starts this process again in Python's UTF-8 mode, if the locale has another encoding.

    Python decodes file names to text. The text must be the same on every machine, because digests depend on
    its order and bytes.
    """
    if sys.getfilesystemencoding() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _open_standard_streams() -> None:
    """Opens the standard streams that the caller closed, so that no other file gets their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdin = sys.stdin or os.fdopen(0)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")


def _print_utf8() -> None:
    """Makes output UTF-8, whatever PYTHONIOENCODING says."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=stream.errors)


def usage_error(error: click.ClickException) -> UsageError:
    """Turns click's error for a wrong command line into one of ours."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    command = context.command_path if context else "packhorse"
    what, *why = error.format_message().rstrip(".").splitlines()
    return UsageError(what[:1].lower() + what[1:], why="\n".join(why), fix=f"see {command} --help")
