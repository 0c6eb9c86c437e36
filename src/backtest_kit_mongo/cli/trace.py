"""`bkm trace`: why a position was opened, what became of it, and who did what."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from backtest_kit_mongo.audit.tracing import trace
from backtest_kit_mongo.terminal import echo

from .audit_opening import open_audit_log

__all__ = ["trace_command"]


def trace_command(
    signal: Annotated[str, typer.Argument(metavar="SIGNAL", help="The signal's id, as `bkm ls storage` shows it.")],
    is_whole: Annotated[bool, typer.Option("--all", help="Every field that each revision changed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")] = False,
) -> None:
    """Show a signal from the candle that was seen to the close: questions, answers, orders, and every revision.

    A tree: minutes of the simulation, in each what led to what, by which host and process, and when by its clock. What
    the log cannot tell is said at the end. Servers come from the CC_ variables.

    [bold]Examples[/]

    [cyan]bkm trace 4f0c1d..[/]

    [cyan]bkm trace 4f0c1d.. --json | jq '.marks'[/]

    Exit status: 0; 1 when no record belongs to the signal or a server failed.
    """
    with open_audit_log() as log:
        found = trace(log, signal)
    if as_json:
        echo(json.dumps(found.to_dict(), ensure_ascii=False))
        return
    for line in found.lines(is_whole=is_whole):
        echo(line)
