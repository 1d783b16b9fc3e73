"""`packhorse doctor`: checks this machine, or the store with --store."""

from __future__ import annotations

import json
import sys

import click

from packhorse.cli.main import Context
from packhorse.cli.options import open_store, output_format
from packhorse.cli.output import Console
from packhorse.doctor.checks import CHECKS, apply, is_usable, run_checks, shell_lines
from packhorse.doctor.probe import CheckResult, Fix
from packhorse.errors import HostError, StoreError, UsageError
from packhorse.host.locate import LOCAL_REGISTRY
from packhorse.oci.reference import Reference


@click.command(epilog=f"Lines: {', '.join(CHECKS)}.")
@click.argument("names", nargs=-1, metavar="[LINE]...")
@output_format
@click.option("--fix", is_flag=True, help="Fix what sudo can fix; asks first.")
@click.option("-y", "--yes", is_flag=True, help="With --fix: do not ask.")
@click.option("--store", "content", is_flag=True, help="Read the whole store, and remove what is damaged.")
@click.pass_obj
def doctor(context: Context, names: tuple[str, ...], output: str, fix: bool, yes: bool, content: bool) -> int:
    """Check if builds can work on this machine, and say how to fix what is missing.

    Ends with 0 if builds can work here, else with 7. With --store it reads every file of the store
    instead. It removes what is damaged and names the images to fetch again. It ends with 0 if nothing was
    damaged, else with 6.
    """
    console = context.console
    if content:
        if names or fix:
            raise UsageError("--store is a separate check", fix="leave out --fix and the names of lines")
        return _check_store(context, output)
    if fix and output == "json":
        raise UsageError("--fix is for people, --output json for programs", fix="leave out one")
    lines = run_checks(context.environ, names=names)
    if fix:
        lines = _apply_fixes(context, lines, names, asks=not yes)
    if output == "json":
        fields = {"usable": is_usable(lines), "lines": [_fields(line) for line in lines]}
        console.document(json.dumps(fields, indent=2))
    else:
        _show(console, lines)
    return 0 if is_usable(lines) else HostError.exit_code


def _check_store(context: Context, output: str) -> int:
    console = context.console
    with open_store(context) as store:
        found = store.find_damage(console.say)
    if output == "json":
        fields = {
            "sound": not found.damaged and not found.images,
            "bytes": found.bytes,
            "damaged": list(found.damaged),
            "images": [
                {
                    "name": each.name.familiar,
                    "missing": [str(digest) for digest in each.missing],
                    "remedy": _find_remedy(each.name),
                }
                for each in found.images
            ],
            "apps": list(found.apps),
        }
        console.document(json.dumps(fields, indent=2))
    else:
        for path in found.damaged:
            console.result(f"removed, because it was damaged: {path}")
        for each in found.images:
            console.result(f"{each.name.familiar} is not whole: {', '.join(map(str, each.missing))}")
            console.result(f"  to fix it: {_find_remedy(each.name)}")
        for app in found.apps:
            console.result(f"the next build of {app} makes a kept layer again")
        if not found.damaged and not found.images:
            console.result("nothing is damaged, and every image is whole")
    return StoreError.exit_code if found.damaged or found.images else 0


def _find_remedy(name: Reference) -> str:
    if name.registry == LOCAL_REGISTRY:
        return "packhorse builder default"
    return f"build it again, or packhorse copy it from where it came: packhorse copy FROM {name.familiar}"


def _fields(line: CheckResult) -> dict[str, object]:
    return {
        "name": line.name,
        "state": line.state.value,
        "found": line.finding,
        "without": line.consequence,
        "remedy": line.remedy,
        "fixable": line.fix is not None,
    }


def _show(console: Console, lines: list[CheckResult]) -> None:
    width = max(len(line.name) for line in lines)
    margin = " " * (width + 11)
    for line in lines:
        first, *more = line.finding.splitlines() or [""]
        console.result(f"{line.state.value:<8} {line.name:<{width}}  {first}")
        for text in more:
            console.result(f"{margin}{text}")
        for title, text in (("without it", line.consequence), ("to fix it", line.remedy)):
            for number, part in enumerate(text.splitlines()):
                console.result(f"{margin}{title}: {part}" if number == 0 else f"{margin}  {part}")


def _apply_fixes(
    context: Context, lines: list[CheckResult], names: tuple[str, ...], *, asks: bool
) -> list[CheckResult]:
    """Applies the fixes that sudo can do, then checks again and returns the new lines."""
    fixes: dict[Fix, None] = {line.fix: None for line in lines if line.fix is not None}
    if not fixes:
        context.console.notes(["nothing that --fix can fix"])
        return lines
    for fix in fixes:
        notes = [f"to {fix.title}:", *(f"    {line}" for line in shell_lines(fix))]
        notes += [f"    with FILE: {part}" for _, text in fix.files for part in text.splitlines()]
        context.console.notes(notes)
        if asks and not _ask_consent():
            context.console.notes(["left as it is"])
            continue
        apply(fix)
    return run_checks(context.environ, names=names)


def _ask_consent() -> bool:
    if not sys.stdin.isatty():
        raise UsageError(
            "standard input is not a terminal", why="--fix asks before it does anything", fix="add --yes"
        )
    return click.confirm("do that?", default=False, err=True)
