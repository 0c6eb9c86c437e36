"""`bkm candles remove`: the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from backtest_kit_mongo.terminal import echo

from .moments import when_ms
from .opening import opened

if TYPE_CHECKING:
    from backtest_kit_mongo.operate.removal import Removed

__all__ = ["remove"]


def remove(
    exchange: Annotated[str, typer.Option("--exchange", help="Name of the exchange in the store.")],
    symbol: Annotated[str, typer.Option("--symbol", help="For example BTCUSDT.")],
    interval: Annotated[str, typer.Option("--interval", help="For example 1m.")],
    since: Annotated[
        str | None, typer.Option(metavar="T", help="Only candles that open at it or later: milliseconds or a date.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="T", help="Only candles that open before it.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove them. Without it only say what would be removed.")] = False,
) -> None:
    """Remove stored candles of one series, with their conflicts and blocks. Says first what it would remove.

    For candles that should never have been stored. Every process follows before this returns. The feed reports no
    removal, and replicas keep what they have until they are copied anew.

    [bold]Examples[/]

    [cyan]bkm candles remove --exchange binance --symbol BTCUSDT --interval 1m[/]

    [cyan]bkm candles remove --exchange binance --symbol BTCUSDT --interval 1m --since 2024-01-01 --until 2024-01-02
    --yes[/]

    Exit status: 0; 1 when MongoDB failed (run it again), 2 when an argument is wrong.
    """
    from .candle_store import open_candles, require_range

    with opened(open_candles) as store:
        first = None if since is None else when_ms(since, "--since")
        end = None if until is None else when_ms(until, "--until")
        if first is not None and end is not None:
            require_range(first, end, interval)
        removal = store.removal(store.instance(exchange, symbol, interval))
        found = removal.remove(first, end) if yes else removal.look(first, end)
    reported = f"{exchange} {symbol} {interval}: {_reported(found)}"
    echo(f"{reported} removed" if yes else f"{reported} would be removed; nothing was, add --yes")


def _reported(found: Removed) -> str:
    from .candle_store import moment_text

    if found.first is None or found.last is None:
        return "0 candles"
    span = f"from {moment_text(found.first)} to {moment_text(found.last)}"
    return f"{found.candles:,} candles {span}, {found.conflicts:,} conflicts and {found.blocks:,} blocks"
