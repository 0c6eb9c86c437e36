"""`bkm bots`: kill live bots, and see whether the money is what it would have been."""

import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from backtest_kit.identity import Mode
from backtest_kit_mongo.embedded import EmbeddedError
from backtest_kit_mongo.exits import ExitCode
from backtest_kit_mongo.testing.servers import Servers, UnavailableError, private_servers
from backtest_kit_verify.bots.campaign import Outcome, run_lanes
from backtest_kit_verify.bots.child import Task
from backtest_kit_verify.bots.fleet import Fleet, FleetOutcome, run_fleet
from backtest_kit_verify.bots.hosts import BRISK, Seat, run_seats
from backtest_kit_verify.bots.plan import LAST_MINUTES
from backtest_kit_verify.bots.replayed import judge as judge_replay
from backtest_kit_verify.bots.traced import Traced, judge
from backtest_kit_verify.chaos.faulty_servers import DATABASE, settings_of

__all__ = ["bots"]

LEASE_MS = 5_000
"""A takeover waits for so long; a busy machine prolongs it in time."""
PATIENCE = {"lease_ms": 15_000, "mongo_timeout_ms": 10_000, "redis_timeout_ms": 2_000}
"""The machine is busy with the bots themselves; what is tried here is their death, not servers that do not answer."""
MINUTES_PER_SIGNAL = 8
OFTEN = 0.6
"""In this share of the minutes a signal is proposed when traces are what is looked at."""
SYMBOLS = ("AAAUSDT", "BBBUSDT", "CCCUSDT")
RATIO_MAX = 1.02
"""Requests to the exchange per closed candle and series."""


def bots(
    kills: Annotated[int, typer.Option("--kills", min=0, help="SIGKILLs of the bot.")] = 60,
    takeovers: Annotated[
        int, typer.Option("--takeovers", min=0, help="Times that it is stopped until another has taken over.")
    ] = 10,
    minutes: Annotated[
        int, typer.Option("--minutes", min=30, help="Simulated minutes that a bot or the fleet trades at most.")
    ] = 3000,
    lanes: Annotated[
        int, typer.Option("--lanes", min=1, help="Bots beside one another, each with a database of its own.")
    ] = 3,
    fleet: Annotated[
        int,
        typer.Option("--fleet", min=0, help="Instead: so many bots at once, and who asks the exchange for candles."),
    ] = 0,
    symbols: Annotated[int, typer.Option("--symbols", min=1, help="Of the fleet.")] = 20,
    speed: Annotated[float, typer.Option("--speed", min=1, help="Simulated seconds per second, of the fleet.")] = 10.0,
    traces: Annotated[
        int,
        typer.Option("--traces", min=0, help="Instead: about so many signals over three hosts; trace each of them."),
    ] = 0,
    session: Annotated[
        int,
        typer.Option("--session", min=0, help="Instead: so many paper minutes of three contexts; replay them."),
    ] = 0,
    seed: Annotated[str, typer.Option("--seed", show_default="a new one", help="Draws the same again.")] = "",
) -> None:
    """Trade live on a made-up exchange with private servers, and kill the bot at random moments.

    The run ends when all kills are done and what is open then has ended. Each position must have one row, closed as an
    undisturbed replay closes it, each order must have been sent once, and a process that was only asleep must have
    written nothing after another took over.

    Exit status: 0 when all of it holds, 1 when not.
    """
    messages = Console(stderr=True)
    chosen = seed or secrets.token_hex(4)
    messages.print(f"Seed {chosen}")
    try:
        with tempfile.TemporaryDirectory(prefix="bkm-bots-") as directory:
            base = Path(directory)
            with private_servers(base / "servers") as servers:
                settings = settings_of(servers) | PATIENCE
                if traces:
                    if not _show_traces(Console(), _traces(settings, base, traces, kills, messages.print)):
                        raise typer.Exit(ExitCode.FAILED)
                    return
                if session:
                    seats = _seats(settings, base, session, "paper")
                    found = run_seats(seats, kills // len(seats), messages.print)
                    found += judge_replay(seats, kills // len(seats) * len(seats), base, typer.echo)
                    for problem in found:
                        messages.print(f"[red]{escape(problem)}[/]", soft_wrap=True)
                    if found:
                        raise typer.Exit(ExitCode.FAILED)
                    return
                if fleet:
                    begun_s = time.time() + fleet * 0.5
                    many = Fleet(settings, base, chosen, fleet, symbols, minutes, speed, begun_s)
                    if not _show_fleet(Console(), run_fleet(many, kills, messages.print)):
                        raise typer.Exit(ExitCode.FAILED)
                    return
                tasks = [_task(servers, base, f"{chosen}-{number}", minutes) for number in range(lanes)]
                outcome = run_lanes(tasks, kills, takeovers, _say)
    except (EmbeddedError, UnavailableError) as error:
        messages.print(f"[red]Error:[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(ExitCode.FAILED) from error
    if not _show(Console(), outcome):
        raise typer.Exit(ExitCode.FAILED)


def _task(servers: Servers, base: Path, seed: str, minutes: int) -> Task:
    directory, database = base / seed, f"bots-{seed}"
    directory.mkdir()
    settings = settings_of(servers) | PATIENCE | {"mongo_connection_string": servers.mongo_connection_string(database)}
    return Task(settings, directory, seed, minutes, LEASE_MS, database)


def _seats(settings: dict[str, Any], base: Path, minutes: int, mode: Mode) -> list[Seat]:
    return [Seat(settings, DATABASE, base, symbol, minutes, mode) for symbol in SYMBOLS]


def _traces(settings: dict[str, Any], base: Path, count: int, kills: int, on_line: Callable[[str], None]) -> Traced:
    minutes = LAST_MINUTES + count * MINUTES_PER_SIGNAL // len(SYMBOLS)
    seats = [replace(seat, proposes=OFTEN, volatility=BRISK) for seat in _seats(settings, base, minutes, "live")]
    problems = run_seats(seats, kills // len(seats), on_line)
    outcome = judge(seats)
    outcome.problems[:0] = problems
    return outcome


def _show_traces(console: Console, outcome: Traced) -> bool:
    console.print(
        f"{outcome.signals} signals, {outcome.records} records in their traces, {outcome.across} written by several "
        f"hosts, {outcome.unstamped} records without a stamp (published by recovery)",
        soft_wrap=True,
    )
    for problem in (*outcome.problems, *(f"orphan: {one}" for one in outcome.orphans)):
        console.print(f"[red]{escape(problem)}[/]", soft_wrap=True)
    if not outcome.problems and not outcome.orphans:
        console.print("Every trace is whole, from the candle to the close; no record belongs to nothing.")
    return not outcome.problems and not outcome.orphans


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _show_fleet(console: Console, outcome: FleetOutcome) -> bool:
    console.print(
        f"{outcome.requests} requests for {outcome.candles} candles: {outcome.ratio:.3f} per candle and series; "
        f"{outcome.missing} missing; {outcome.ticks} minutes lived by all bots together; {outcome.kills} SIGKILLs",
        soft_wrap=True,
    )
    if outcome.crashes:
        console.print(f"[red]{escape(outcome.crashes)}[/]", soft_wrap=True)
    return not outcome.missing and not outcome.crashes and outcome.ratio <= RATIO_MAX


def _show(console: Console, outcome: Outcome) -> bool:
    verdict = outcome.verdict
    assert verdict is not None
    console.print(f"{outcome.kills} SIGKILLs, {outcome.takeovers} takeovers from a stopped process")
    console.print(
        f"{verdict.positions} positions, {verdict.orders} orders, get_signal asked {verdict.asked} times, "
        f"{verdict.lost_decisions} answers lost to a kill"
    )
    console.print(f"{outcome.late_writes} writes of a process after another took over")
    found = [*outcome.problems, *verdict.violations]
    for problem in found:
        console.print(f"[red]{escape(problem)}[/]", soft_wrap=True)
    if not found and not outcome.late_writes:
        console.print("Every position, order and percent is what it would have been.")
    return not found and not outcome.late_writes
