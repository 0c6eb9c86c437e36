"""`bkm candles`: candles in and out of the store, and what is there.

What a program may want goes to standard output, everything said to the user to standard error. Commands import what
needs NumPy when they run: it takes longer than the rest of the program.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from backtest_kit_mongo.exits import ExitCode

from .candle_blocks import blocks
from .candle_removal import remove
from .opening import opened

if TYPE_CHECKING:
    from .candle_store import CandleStore

__all__ = ["candles"]


candles = typer.Typer(
    name="candles",
    help="Candles in and out of the store, and what is there.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    # Values of local variables in a traceback could be connection strings with passwords.
    pretty_exceptions_show_locals=False,
)
candles.add_typer(blocks)
candles.command()(remove)

Exchange = Annotated[str | None, typer.Option("--exchange", help="Only this exchange.")]
OfExchange = Annotated[str, typer.Option("--exchange", help="Name of the exchange in the store.")]
Symbol = Annotated[str | None, typer.Option("--symbol", help="Only this symbol, for example BTCUSDT.")]
Interval = Annotated[str | None, typer.Option("--interval", help="Only this interval, for example 1m.")]
Since = Annotated[
    str | None,
    typer.Option(
        metavar="T", help="First open time: milliseconds, or a date as 2024-01-01. Default: the first candle."
    ),
]
Until = Annotated[
    str | None, typer.Option(metavar="T", help="Only candles that open before it. Default: up to the last candle.")
]
Sparse = Annotated[
    bool,
    typer.Option(
        "--sparse", help="They are of this interval, although the distances between them are a coarser one's."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@candles.callback()
def _group() -> None:
    """Candles in and out of the store, and what is there. Servers come from the CC_ variables.

    The first candle that is stored for an open time stays: importing or fetching again is harmless, and a candle with
    other values is kept aside ([bold]conflicts[/]). The way back is [bold]remove[/], and [bold]import --replace[/].
    """


@contextmanager
def _store() -> Iterator["CandleStore"]:
    from .candle_store import open_candles

    with opened(open_candles) as store:
        yield store


@candles.command("import")
def import_(
    paths: Annotated[list[Path], typer.Argument(metavar="DIR|FILE...", show_default=False)],
    exchange: OfExchange,
    symbol: Annotated[
        str | None, typer.Option("--symbol", help="What the files hold, if their names do not say it.")
    ] = None,
    interval: Annotated[
        str | None, typer.Option("--interval", help="What the files hold, if their names do not say it.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--format", metavar="KIND", help="Which kind of files, if they are not recognised.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Columns in their order: time,open,high,.. or by name: open=First,.."),
    ] = None,
    unit: Annotated[str | None, typer.Option(metavar="s|ms|us|ns", help="Of times that are numbers.")] = None,
    timezone: Annotated[
        str | None, typer.Option(metavar="ZONE", help="Of dates that say none, as Europe/Berlin. Default: UTC.")
    ] = None,
    separator: Annotated[str | None, typer.Option(metavar="CHAR", help="Between columns.")] = None,
    offset: Annotated[
        str | None,
        typer.Option(metavar="16h", help="How much later than midnight or the hour they open: stored as 1d+16h."),
    ] = None,
    sparse: Sparse = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace stored candles that have other values. Says first how many.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --replace: do it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Store the candles of files as exchanges, programs and [bold]export[/] write them; - is standard input.

    Binance Vision, CryptoDataDownload, Kraken, Yahoo, HistData, Dukascopy, TradingView, MetaTrader, freqtrade, ccxt and
    files with named columns are recognised; what was recognised or assumed is said. CSV, TSV, JSON (also packed, .gz or
    .zip), Parquet and Feather. Names such as BTCUSDT-1m.csv.gz or BTCUSDT-1m-2024-02.zip say symbol and interval;
    BTC%2FUSDT-1m.csv holds BTC/USDT, unless --symbol says otherwise.

    A file with a fault is left out as a whole; line and column are named. Interrupted? Run it again: what is stored is
    recognised. A candle that is not closed yet is refused.

    [bold]Examples[/]

    [cyan]bkm candles import ./data --exchange binance[/]

    [cyan]bkm candles import prices.csv --exchange binance --symbol BTC/USDT --interval 1h --timezone Europe/Berlin[/]

    [cyan]bkm candles import bars.csv --exchange x --symbol X --interval 1m --columns time,open,high,low,close,volume[/]

    [cyan]bkm candles import BTCUSDT-1m.csv --exchange binance --replace --yes[/]

    What lies in a directory, looks like data and cannot be used is named with the reason.

    Exit status: 0 when every file was imported, 1 when one was not or was left out, 2 when an argument is wrong.
    """
    messages = Console(stderr=True)
    with _store() as store:
        from backtest_kit_mongo.candles.layouts import Said

        from .candle_transfer import How, import_files, named_files

        said = Said(kind, columns, unit, timezone, separator)
        named, left_out = named_files(paths, symbol, interval, offset)
        how = How(said, sparse=sparse, replace=replace, dry_run=replace and not yes)
        if not import_files(store, named, left_out, exchange, messages, how, as_json=as_json):
            raise typer.Exit(ExitCode.FAILED)


@candles.command()
def export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where files go; - is standard output.")],
    exchange: OfExchange,
    symbol: Symbol = None,
    interval: Interval = None,
    since: Since = None,
    until: Until = None,
    file_format: Annotated[
        Literal["csv.gz", "csv", "parquet"], typer.Option("--format", help="parquet needs the extra `parquet`.")
    ] = "csv.gz",
) -> None:
    """Write candles to files that [bold]import[/] reads: one a series, complete when it appears, replaced if it is
    there.

    [bold]Examples[/]

    [cyan]bkm candles export ./data --exchange binance[/]

    [cyan]bkm candles export - --exchange binance --symbol BTCUSDT --interval 1m --since 2024-01-01 > btc.csv[/]
    """
    with _store() as store:
        from .candle_store import Chosen
        from .candle_transfer import export_files, export_text

        chosen = Chosen(exchange, symbol, interval)
        if str(directory) == "-":
            export_text(store, chosen, since, until)
        else:
            export_files(store, chosen, directory, f".{file_format}", since, until)


@candles.command(name="list")
def list_(exchange: Exchange = None, symbol: Symbol = None, interval: Interval = None, as_json: AsJson = False) -> None:
    """Show which series there are: first and last candle, gaps, and how much of them is in blocks.

    [bold]Examples[/]

    [cyan]bkm candles list[/]

    [cyan]bkm candles list --json | jq -r '.[] | select(.missing > 0) | .symbol'[/]
    """
    with _store() as store:
        from .candle_report import print_list
        from .candle_store import Chosen

        print_list(store, Chosen(exchange, symbol, interval), Console(stderr=True), as_json=as_json)


@candles.command()
def check(
    exchange: Exchange = None,
    symbol: Symbol = None,
    interval: Interval = None,
    since: Since = None,
    until: Until = None,
    calendar: Annotated[
        Literal["always", "weekdays", "forex"],
        typer.Option(help="When candles are expected: always, Monday to Friday (UTC), or while forex is traded."),
    ] = "always",
    shown_max: Annotated[int, typer.Option("--gaps", min=0, help="Name so many gaps of a series.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Find missing candles. With --json one object a series, with all gaps.

    A gap says the first and the last open time that is missing, and how many expected candles are.

    [bold]Examples[/]

    [cyan]bkm candles check[/]

    [cyan]bkm candles check --symbol EURUSD --calendar forex[/]

    [cyan]bkm candles check --since 2024-01-01 --until 2025-01-01 --json | jq .gaps[/]

    Exit status: 0 when no candle is missing, 4 when one is, 1 when that could not be found out.
    """
    with _store() as store:
        from .candle_report import check as checks
        from .candle_report import print_checks
        from .candle_store import Chosen

        found = checks(store, Chosen(exchange, symbol, interval), calendar, since, until)
        if not print_checks(found, shown_max, as_json=as_json):
            raise typer.Exit(ExitCode.DIFFERS)


@candles.command()
def conflicts(
    exchange: Exchange = None,
    symbol: Symbol = None,
    interval: Interval = None,
    limit: Annotated[int, typer.Option(min=1, help="How many of those seen last.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Show candles that were offered again with other values than the stored ones, which stay.

    Common causes: two sources under one exchange name, or an exchange that corrected its history.

    [bold]Examples[/]

    [cyan]bkm candles conflicts[/]

    [cyan]bkm candles conflicts --symbol BTCUSDT --json | jq '[.stored.close, .offered.close]'[/]
    """
    with _store() as store:
        from .candle_report import print_conflicts
        from .candle_store import Chosen

        print_conflicts(store.conflicts(Chosen(exchange, symbol, interval), limit), as_json=as_json)


@candles.command()
def fetch(
    symbol: Annotated[str, typer.Argument(metavar="SYMBOL", help="As ccxt names it, for example BTC/USDT.")],
    market: Annotated[str, typer.Option("--from", metavar="EXCHANGE", help="As ccxt names it, for example binance.")],
    interval: Annotated[str, typer.Option("--interval", help="For example 1m.")],
    since: Annotated[str, typer.Option(metavar="T", help="First open time: milliseconds, or a date as 2024-01-01.")],
    until: Annotated[
        str | None, typer.Option(metavar="T", help="Only candles that open before it. Default: all that are closed.")
    ] = None,
    exchange: Annotated[
        str | None, typer.Option("--exchange", help="Name of the exchange in the store. Default: the one of --from.")
    ] = None,
    stored_as: Annotated[
        str | None,
        typer.Option("--as", metavar="SYMBOL", help="Symbol in the store. Default: the one that is fetched."),
    ] = None,
    page: Annotated[
        int | None, typer.Option(min=1, help="Candles of one request. Default: what the exchange gives.")
    ] = None,
    sparse: Sparse = False,
) -> None:
    """Fetch missing candles from an exchange through ccxt, within its rate limit. Needs the extra `ccxt`.

    Only gaps are asked for, and each page is stored before the next one is asked for: run it again to go on, or from
    time to time to stay up to date. The last candle is left out until it is closed, by the slower of both clocks.

    [bold]Examples[/]

    [cyan]bkm candles fetch BTC/USDT --from binance --interval 1m --since 2024-01-01 --as BTCUSDT[/]

    Exit status: 0 when the exchange answered, even if it lacks candles; 1 when it or the store failed, or when rows
    were left out, which are named with the reason.
    """
    with _store() as store:
        from backtest_kit_mongo.operate.fetching import open_source

        from .candle_transfer import fetch_candles

        source = open_source(market, symbol, interval, page)
        messages = Console(stderr=True)
        names = (exchange or market, stored_as or symbol)
        fetched = fetch_candles(store, source, *names, since, until, messages, sparse=sparse)
        if fetched.invalid:
            raise typer.Exit(ExitCode.FAILED)
