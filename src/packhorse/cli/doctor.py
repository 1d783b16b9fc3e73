"""`packhorse doctor`."""

from __future__ import annotations

import json
import sys

import click

from packhorse.cli.main import Context
from packhorse.cli.output import Console
from packhorse.errors import HostError, UsageError
from packhorse.platform.doctor import mending
from packhorse.platform.doctor.checkup import CHECKS, examine, usable
from packhorse.platform.doctor.diagnosis import Line, Mend


@click.command(epilog=f"Lines: {', '.join(CHECKS)}.")
@click.argument("names", nargs=-1, metavar="[LINE]...")
@click.option("-o", "--output", type=click.Choice(["human", "json"]), default="human", help="[human]")
@click.option("--fix", is_flag=True, help="Mend what can be mended, with sudo; asks before.")
@click.option("-y", "--yes", is_flag=True, help="With --fix: do not ask.")
@click.pass_obj
def doctor(context: Context, names: tuple[str, ...], output: str, fix: bool, yes: bool) -> int:
    """Try what builds need on this machine, and say how to mend what is missing.

    Ends with 0 when builds can work here, else with 7.
    """
    console = context.console
    if fix and output == "json":
        raise UsageError("--fix speaks with a person, --output json with a program", fix="leave out one")
    lines = examine(context.environ, names=names)
    if fix:
        lines = _mended(context, lines, names, asks=not yes)
    if output == "json":
        fields = {"usable": usable(lines), "lines": [_fields(line) for line in lines]}
        console.document(json.dumps(fields, indent=2))
    else:
        _show(console, lines)
    return 0 if usable(lines) else HostError.exit_code


def _fields(line: Line) -> dict[str, object]:
    return {
        "name": line.name,
        "state": line.state.value,
        "found": line.found,
        "without": line.without,
        "remedy": line.remedy,
        "fixable": line.mend is not None,
    }


def _show(console: Console, lines: list[Line]) -> None:
    width = max(len(line.name) for line in lines)
    margin = " " * (width + 11)
    for line in lines:
        first, *more = line.found.splitlines() or [""]
        console.result(f"{line.state.value:<8} {line.name:<{width}}  {first}")
        for text in more:
            console.result(f"{margin}{text}")
        for title, text in (("without it", line.without), ("to mend it", line.remedy)):
            for number, part in enumerate(text.splitlines()):
                console.result(f"{margin}{title}: {part}" if number == 0 else f"{margin}  {part}")


def _mended(context: Context, lines: list[Line], names: tuple[str, ...], *, asks: bool) -> list[Line]:
    """The lines after what could be mended has been."""
    mends: dict[Mend, None] = {line.mend: None for line in lines if line.mend is not None}
    if not mends:
        context.console.notes(["nothing that --fix can mend"])
        return lines
    for mend in mends:
        told = [f"to {mend.title}:", *(f"    {line}" for line in mending.commands(mend))]
        told += [f"    with FILE: {part}" for _, text in mend.files for part in text.splitlines()]
        context.console.notes(told)
        if asks and not _agreed():
            context.console.notes(["left as it is"])
            continue
        mending.carry_out(mend)
    return examine(context.environ, names=names)


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise UsageError("there is nobody to ask", why="--fix asks before it does anything", fix="add --yes")
    return click.confirm("do that?", default=False, err=True)
