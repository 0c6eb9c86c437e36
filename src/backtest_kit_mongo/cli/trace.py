"""`bkm trace`: why a position was opened, what became of it, and who did what."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from backtest_kit_mongo.audit.log import AuditLog
from backtest_kit_mongo.audit.tracing import trace
from backtest_kit_mongo.audit.tracing.choosing import meant, signals_at
from backtest_kit_mongo.coherence.moments import iso
from backtest_kit_mongo.errors import CallerError
from backtest_kit_mongo.exits import ExitCode
from backtest_kit_mongo.terminal import echo

from .audit_opening import open_audit_log
from .moments import past_ms

__all__ = ["trace_command"]


def trace_command(
    signal: Annotated[
        str, typer.Argument(metavar="[SIGNAL]", help="The signal's id, as `bkm ls storage` shows it.")
    ] = "",
    at: Annotated[
        str, typer.Option("--at", metavar="TIME", help="Instead: the live or paper signal of which this is; UTC.")
    ] = "",
    symbol: Annotated[str | None, typer.Option("--symbol", help="With --at: only of this symbol.")] = None,
    strategy: Annotated[str | None, typer.Option("--strategy", help="With --at: only of this strategy.")] = None,
    is_whole: Annotated[bool, typer.Option("--all", help="Every field that each revision changed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")] = False,
) -> None:
    """Show a signal from the candle that was seen to the close: questions, answers, orders, and every revision.

    A tree: minutes of the simulation, in each what led to what, by which host and process, and when by its clock. What
    the log cannot tell is said at the end. With --at it is the only signal that was opened, closed or proposed in
    that minute, or there at all; of several, they are listed, the nearest first. Servers come from the CC_
    variables.

    [bold]Examples[/]

    [cyan]bkm trace 4f0c1d..[/]

    [cyan]bkm trace --at 2026-11-29T14:03 --symbol BTC/USDT[/]

    [cyan]bkm trace 4f0c1d.. --json | jq '.marks'[/]

    Exit status: 0; 1 when no record belongs to the signal, --at means none or several, or a server failed; 2 when an
    argument is wrong.
    """
    with open_audit_log() as log:
        if bool(signal) is bool(at) or (signal and (symbol or strategy)):
            raise CallerError("say a signal's id, or --at TIME, with --symbol and --strategy if you like")
        found = trace(log, signal or _signal_at(log, past_ms(at, "--at"), symbol, strategy))
    if as_json:
        echo(json.dumps(found.to_dict(), ensure_ascii=False))
        return
    for line in found.lines(is_whole=is_whole):
        echo(line)


def _signal_at(log: AuditLog, moment: int, symbol: str | None, strategy: str | None) -> str:
    found = signals_at(log, moment, symbol=symbol, strategy=strategy)
    chosen = meant(found)
    if chosen is not None:
        return str(chosen.row["id"])
    if not found:
        echo(f"No live or paper signal was there at {iso(moment)}; `bkm ls storage` lists them.", err=True)
    for one in found:
        echo(one.text)
    raise typer.Exit(ExitCode.FAILED)
