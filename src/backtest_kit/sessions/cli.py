"""`bkm export` and `bkm replay`: a live or paper day as a file, and again."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

import backtest_kit_mongo as bk
from backtest_kit import declare
from backtest_kit.cli import reported
from backtest_kit.declare import Exchange
from backtest_kit.errors import DeclarationError
from backtest_kit.identity import Mode
from backtest_kit.loading import load_strategy, run_config
from backtest_kit.moments import minute_text
from backtest_kit.running import Job
from backtest_kit.sessions.rerun import Rerun, rerun

__all__ = ["export", "replay"]

DAY_MS: Final = 86_400_000
HISTORY_DAYS: Final = 30

SessionName = Annotated[str, typer.Option("--session", metavar="STRATEGY", help="The strategy's name.")]
Day = Annotated[str, typer.Option("--day", metavar="DATE", help="The day, UTC: 2026-11-29.")]
OfMode = Annotated[Literal["live", "paper"], typer.Option("--mode", help="Which of its sessions.")]
History = Annotated[int, typer.Option("--history", min=0, help="So many days of candles before it are taken too.")]


def export(
    session: SessionName,
    day: Day,
    mode: OfMode = "live",
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Default: STRATEGY-DAY.session.gz")] = None,
    history: History = HISTORY_DAYS,
) -> None:
    """Write a live or paper day of a strategy to a file, out of the audit log: what was there before, each write,
    stored answers, candles. `bkm replay --from FILE` needs nothing else.

    [bold]Example[/]

    [cyan]bkm export --session trend --day 2026-11-29[/]

    Exit status: 0; 1 when a server failed, 2 when an argument is wrong or there is no such day.
    """
    with reported():
        found = _read(session, day, mode, history)
        path = out or Path(f"{session.replace('/', '_')}-{day}.session.gz")
        found.save(path)
        typer.echo(
            f"{_printable(str(path))}: {len(found.changes)} writes of {len(found.contexts)} contexts, "
            f"{len(found.answers)} stored answers, {sum(map(len, found.candles.values()))} candles"
        )
        _say_missing(found)


def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The strategy's Python file, as for `bkm run`.")],
    session: Annotated[str, typer.Option("--session", metavar="STRATEGY", help="The strategy's name.")] = "",
    day: Annotated[str, typer.Option("--day", metavar="DATE", help="The day, UTC: 2026-11-29.")] = "",
    mode: OfMode = "live",
    source: Annotated[Path | None, typer.Option("--from", metavar="FILE", help="What `bkm export` wrote.")] = None,
    history: History = HISTORY_DAYS,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")] = False,
) -> None:
    """Live a recorded day again, on this host, and compare each decision with the recorded one.

    The same candles, stored answers, replies of the broker and restarts; nothing is sent, asked for, or written. It
    ends with the first write that differs, and shows both. Callbacks are called again: what they do to the world
    without `bt.once` they do again.

    [bold]Examples[/]

    [cyan]bkm replay trend.py --session trend --day 2026-11-29[/]

    [cyan]bkm replay trend.py --from trend-2026-11-29.session.gz[/]

    Exit status: 0 when every decision is equal, 4 when one differs, 1 when a server failed, 2 when an argument is wrong
    or there is no such day.
    """
    with reported():
        if not (session and day if source is None else not session and not day):
            raise DeclarationError("say --session and --day, or --from a file of `bkm export`. Nothing was run.")
        run_config(file)
        load_strategy(file)
        found = bk.load_session(source) if source is not None else _read(session, day, mode, history)
        outcome = rerun(found, lambda symbol, exchange: _job(found, symbol, exchange))
        _say_missing(found)
    _show(found, outcome, as_json=as_json)
    if outcome.divergence is not None:
        raise typer.Exit(bk.ExitCode.DIFFERS)


def _read(session: str, day: str, mode: str, history: int) -> bk.Session:
    try:
        first = datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC)
    except ValueError as cause:
        raise bk.InvalidKey(f"--day: a date as 2026-11-29, not {day!r:.40}") from cause
    start = int(first.timestamp()) * 1000
    return bk.read_session(session, mode, start, start + DAY_MS, history * DAY_MS)


def _job(session: bk.Session, symbol: str, exchange: str) -> Job:
    strategy = declare.strategies.get(session.strategy)
    declared = {one.name: one for one in declare.exchanges.list()}
    risks = tuple(declare.risks.get(name) for name in strategy.risks)
    mode: Mode = "paper" if session.mode == "paper" else "live"
    return Job(strategy, declared.get(exchange) or Exchange(exchange), risks, symbol, mode)


def _say_missing(session: bk.Session) -> None:
    for sentence in dict.fromkeys(session.missing):
        typer.echo(f"missing: {_printable(sentence)}", err=True)


def _show(session: bk.Session, outcome: Rerun, *, as_json: bool) -> None:
    divergence = outcome.divergence
    if as_json:
        names = ("matched", "lost", "restarts", "minutes", "skipped", "elapsed_s")
        said = {name: getattr(outcome, name) for name in names}
        found = None if divergence is None else {name: getattr(divergence, name) for name in divergence.__slots__}
        typer.echo(json.dumps({**said, "notes": list(outcome.notes), "divergence": found}, default=str))
        return
    for note in outcome.notes:
        typer.echo(_printable(note), err=True)
    speed = outcome.minutes * 60 / outcome.elapsed_s if outcome.elapsed_s else 0.0
    typer.echo(
        f"{session.strategy} ({session.mode}) from {minute_text(session.start)}: {outcome.minutes} minutes of "
        f"{len(session.contexts)} contexts, {outcome.matched} writes equal, {outcome.restarts} restarts, "
        f"{outcome.skipped} minutes that the recorded processes left out; {outcome.elapsed_s:.1f} s, "
        f"{speed:,.0f} times real time"
    )
    if divergence is None:
        lost = f", but {outcome.lost} writes were not compared: the log no longer has what they wrote"
        typer.echo(f"every decision is equal{lost if outcome.lost else ''}")
        return
    for line in divergence.lines():
        typer.echo(_printable(line))


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
