"""`bkm candles blocks`: the column blocks that make reading candles fast, derived from the candles' documents.

What a program may want goes to standard output, everything said to the user to standard error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from backtest_kit_mongo.backends.mongo.documents import MongoTruth
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.table import CANDLE
from backtest_kit_mongo.errors import NotFound
from backtest_kit_mongo.exits import ExitCode
from backtest_kit_mongo.settings import Settings
from backtest_kit_mongo.terminal import echo, escape

from .opening import opened

if TYPE_CHECKING:
    # At run time only where it is used: NumPy takes longer to import than all other commands need to start.
    from pymongo.database import Database

    from backtest_kit_mongo.operate.compaction import BlockRange, Compactor

__all__ = ["blocks"]

blocks = typer.Typer(
    name="blocks",
    help="The blocks that make reading candles fast: list, rebuild, verify.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    # Values of local variables in a traceback could be connection strings with passwords.
    pretty_exceptions_show_locals=False,
)

Exchange = Annotated[str | None, typer.Option("--exchange", help="Only this exchange.")]
Symbol = Annotated[str | None, typer.Option("--symbol", help="Only this symbol, for example BTC/USDT.")]
Interval = Annotated[str | None, typer.Option("--interval", help="Only this interval, for example 1m.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@blocks.callback()
def _group() -> None:
    """The blocks that make reading candles fast: list, rebuild, verify.

    A block holds some thousand candles of a series column by column. It is derived: reads take what blocks have and ask
    the documents for the rest, so a missing or old block makes reading slower, never wrong. The worker's role
    [bold]blocks[/] makes blocks of new candles by itself.
    """


@blocks.command(name="list")
def list_(exchange: Exchange = None, symbol: Symbol = None, interval: Interval = None, as_json: AsJson = False) -> None:
    """Show what blocks each series has. "to do" counts ranges that wait for the worker.

    [bold]Examples[/]

    [cyan]bkm candles blocks list[/]

    [cyan]bkm candles blocks list --symbol BTC/USDT --json | jq .candles[/]

    Exit status: 0; 1 when the servers cannot be asked.
    """
    with opened(_workshop) as workshop:
        shown = [workshop.described(scope) for scope in workshop.chosen(exchange, symbol, interval)]
    if as_json:
        for one in shown:
            echo(json.dumps(one))
        return
    if not shown:
        Console(stderr=True).print("There are no candles.")
        return
    table = Table()
    for heading in ("exchange", "symbol", "interval", "blocks", "candles", "MiB", "from", "until", "to do"):
        table.add_column(heading, overflow="fold")
    for one in shown:
        numbers = (f"{one['blocks']:,}", f"{one['candles']:,}", f"{one['bytes'] / 2**20:,.1f}")
        times = (_short(one["since"]), _short(one["until"]))
        table.add_row(
            *(escape(one[name]) for name in ("exchange", "symbol", "interval")), *numbers, *times, f"{one['toDo']:,}"
        )
    Console().print(table)


@blocks.command()
def rebuild(exchange: Exchange = None, symbol: Symbol = None, interval: Interval = None) -> None:
    """Make blocks of all candles, and remove those that differ from their documents.

    Needed for candles that the worker did not see: those that other programs wrote, and those that are older than the
    worker's role [bold]blocks[/]. It may be interrupted and run again: blocks that are right and whole are left alone.
    It may run beside writers and workers. Programs that had read a block which is removed keep their copy until they
    are restarted.

    [bold]Examples[/]

    [cyan]bkm candles blocks rebuild[/]

    [cyan]bkm candles blocks rebuild --exchange binance --interval 1m[/]

    Exit status: 0 when all blocks are made, 1 when not.
    """
    messages = Console(stderr=True)
    made_count = removed_count = right_count = 0
    with opened(_workshop) as workshop:
        ranges = workshop.ranges(workshop.chosen(exchange, symbol, interval))
        for each in _watched(ranges, "rebuilding", messages):
            rebuilt = workshop.compactor.rebuild(each)
            if rebuilt.fault:
                messages.print(f"[yellow]removed[/] the block of {escape(f'{each}: {rebuilt.fault}')}", soft_wrap=True)
            removed_count += bool(rebuilt.fault)
            made_count += rebuilt.is_made
            right_count += not (rebuilt.fault or rebuilt.is_made)
    echo(f"{made_count:,} blocks made, {removed_count:,} wrong ones removed, {right_count:,} were right and whole")


@blocks.command()
def verify(
    exchange: Exchange = None, symbol: Symbol = None, interval: Interval = None, as_json: AsJson = False
) -> None:
    """Compare every block with its documents: checksum, count, values. Changes nothing.

    A block that lacks candles is no fault, reads take those from the documents; such ranges are counted.

    [bold]Examples[/]

    [cyan]bkm candles blocks verify[/]

    [cyan]bkm candles blocks verify --json | jq .faults[/]

    Exit status: 0 when no block differs, 4 when one does (rebuild mends it), 1 when that could not be found out.
    """
    with opened(_workshop) as workshop:
        ranges = workshop.ranges(workshop.chosen(exchange, symbol, interval))
        every = [workshop.compactor.verify(each) for each in _watched(ranges, "verifying", Console(stderr=True))]
    faults = [(str(one.range), one.fault) for one in every if one.fault]
    block_count = sum(one.in_block is not None for one in every)
    open_count = sum(not one.fault and not one.is_whole for one in every)
    if as_json:
        found = [{"block": name, "fault": fault} for name, fault in faults]
        echo(json.dumps({"blocks": block_count, "notWhole": open_count, "faults": found}, indent=2))
    else:
        for name, fault in faults:
            echo(f"differs: {name}: {fault}")
        echo(f"{block_count:,} blocks compared, {len(faults):,} differ from their documents")
        echo(f"{open_count:,} ranges have candles that are in documents only")
    if faults:
        raise typer.Exit(ExitCode.DIFFERS)


class _Workshop(NamedTuple):
    """What these commands work with."""

    database: Database[dict[str, Any]]
    compactor: Compactor

    def chosen(self, exchange: str | None, symbol: str | None, interval: str | None) -> list[Key]:
        """The series that the options name.

        Raises:
            NotFound: they name some, but there is none.
        """
        from backtest_kit_mongo.operate.compaction import find_series

        found = find_series(self.database, exchange, symbol, interval)
        named = [part for part in (exchange, symbol, interval) if part is not None]
        if named and not found:
            raise NotFound(f"no series of {', '.join(named)}: `bkm candles blocks list` shows which there are")
        return found

    def ranges(self, series: Sequence[Key]) -> list[BlockRange]:
        from backtest_kit_mongo.operate.compaction import find_ranges

        return [each for scope in series for each in find_ranges(self.database, scope)]

    def described(self, scope: Key) -> dict[str, Any]:
        from backtest_kit_mongo.operate.compaction import ToDo, summarize

        exchange, symbol, interval = scope.parts
        summary = summarize(self.database, scope)
        return {
            "exchange": exchange,
            "symbol": symbol,
            "interval": interval,
            "blocks": summary.blocks,
            "candles": summary.candles,
            "bytes": summary.bytes,
            "since": summary.since,
            "until": summary.until,
            "madeAt": None if summary.made_at is None else summary.made_at.isoformat(timespec="milliseconds"),
            "toDo": ToDo(self.database).count(scope),
        }


@contextmanager
def _workshop(settings: Settings) -> Iterator[_Workshop]:
    from backtest_kit_mongo.operate.compaction import Compactor

    uri = settings.mongo_connection_string.get_secret_value()
    truth = MongoTruth(uri, settings.database, (CANDLE,), settings.mongo_bound_ms, settings.mongo_arrival_ms)
    try:
        truth.open()
        database = truth.client[settings.database]
        yield _Workshop(database, Compactor(truth.series, database))
    finally:
        truth.close()


def _watched(ranges: Sequence[BlockRange], what: str, messages: Console) -> Iterator[BlockRange]:
    """The ranges, with a progress bar."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=messages, transient=True) as progress:
        yield from progress.track(ranges)


def _short(moment_ms: int | None) -> str:
    """A time for the table; foreign documents may hold what no calendar has."""
    if moment_ms is None:
        return "-"
    try:
        return f"{datetime.fromtimestamp(moment_ms / 1000, UTC):%Y-%m-%d %H:%M}"
    except (OverflowError, ValueError, OSError):
        return str(moment_ms)
