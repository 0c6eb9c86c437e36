"""`bkm doctor`: one look at the deployment, with what to do about each finding."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from backtest_kit_mongo.exits import ExitCode
from backtest_kit_mongo.operate.doctor import Finding, Level, examine, worst
from backtest_kit_mongo.terminal import echo, escape

from .opening import connected

__all__ = ["doctor"]


_COLOURS = {Level.OK: "green", Level.NOTE: "cyan", Level.WARNING: "yellow", Level.ERROR: "red"}


def doctor(
    no_write: Annotated[
        bool, typer.Option("--no-write", help="Leave out the write to a scratch collection; then it only reads.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 when there are warnings.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Examine MongoDB, Redis, the change feed and the settings, and say what to do about what is found.

    It reads only, except for a scratch collection [bold]bkm-doctor[/] that it writes ten times, to learn how long a
    durable write takes, and drops. Servers come from the CC_ variables of this host; run it where the strategies run.

    [bold]Examples[/]

    [cyan]bkm doctor[/]

    [cyan]bkm doctor --no-write --strict[/]     before a deployment

    [cyan]bkm doctor --json | jq '.findings[] | select(.level == "error")'[/]

    Exit status: 0 all is well (notes and warnings allowed), 1 errors were found, 2 wrong settings, 3 warnings with
    --strict.
    """
    console = Console()
    with connected() as servers, Console(stderr=True).status("Looking ..."):
        findings = list(examine(servers, write=not no_write))
    counts = Counter(finding.level.value for finding in findings)
    if as_json:
        shown = [asdict(finding) for finding in findings]
        echo(json.dumps({"counts": {level.value: counts[level] for level in Level}, "findings": shown}, indent=2))
    else:
        console.print(_table(findings))
        console.print(", ".join(f"[{_COLOURS[level]}]{counts[level]} {level.value}[/]" for level in Level))
    raise typer.Exit(_exit(worst(findings), strict=strict))


def _exit(level: Level, *, strict: bool) -> ExitCode:
    if level is Level.ERROR:
        return ExitCode.FAILED
    return ExitCode.NOT_WELL if strict and level is Level.WARNING else ExitCode.DONE


def _table(findings: Sequence[Finding]) -> Table:
    """The worst first."""
    table = Table()
    for heading in ("", "what", "seen", "what to do"):
        table.add_column(heading, overflow="fold")
    order = list(Level)
    for finding in sorted(findings, key=lambda finding: -order.index(finding.level)):
        colour = _COLOURS[finding.level]
        table.add_row(
            f"[{colour}]{finding.level.value}[/]", escape(finding.name), escape(finding.seen), escape(finding.advice)
        )
    return table
