"""A result on a terminal."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from backtest_kit.moments import minute_text
from backtest_kit.results import Result, Stats, Trade

WIDE: Final = 100
"""Columns of a terminal that has room for notes."""

__all__ = ["STAT_NAMES", "number_text", "print_result", "stat_text"]

STAT_NAMES: Final = {
    "trades": "trades",
    "win_rate_percent": "won, %",
    "pnl": "profit",
    "pnl_percent_sum": "sum of trades, %",
    "pnl_percent_mean": "mean of a trade, %",
    "best_percent": "best trade, %",
    "worst_percent": "worst trade, %",
    "profit_factor": "profit factor",
    "sharpe_per_trade": "Sharpe ratio per trade",
    "max_drawdown": "deepest drawdown",
    "minutes_mean": "minutes in a trade",
    "exposure_percent": "time in the market, %",
}
"""What people are shown of the statistics, and how it is called."""


def stat_text(stats: Stats, name: str) -> str:
    return number_text(getattr(stats, name))


def number_text(value: float | None) -> str:
    """A statistic for people."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def print_result(result: Result, console: Console, trades_max: int) -> None:
    """Trades, statistics, and whatever was refused, filled or left out."""
    one = result.identity
    span = f"{minute_text(result.start)} to {minute_text(result.end)}"
    console.print(f"[bold]{escape(one.strategy)}[/] {escape(one.symbol)} at {escape(one.exchange)}, {span}")
    shown = result.trades[-trades_max:] if trades_max else ()
    if shown:
        console.print(_trades(shown, with_notes=console.width >= WIDE))
    if len(shown) < len(result.trades):
        console.print(f"{len(result.trades) - len(shown):,} earlier trades are not shown (--trades, --json, --report)")
    if result.trades:
        table = Table(box=None, show_header=False)
        for name, title in STAT_NAMES.items():
            table.add_row(title, stat_text(result.stats, name))
        console.print(table)
    else:
        console.print("no trade")
    for refusal in result.refusals:
        console.print(f"[yellow]refused[/] {escape(refusal)}", soft_wrap=True)
    for note in result.notes:
        console.print(f"[yellow]note[/] {escape(note)}", soft_wrap=True)
    minutes = (result.end - result.start) // 60_000 + 1
    rate = minutes / result.elapsed_s if result.elapsed_s else 0
    console.print(
        f"get_signal was asked {result.asked:,} times; {minutes:,} minutes in {result.elapsed_s:.2f} s ({rate:,.0f}/s)"
    )


def _trades(trades: tuple[Trade, ...], *, with_notes: bool) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    titles = ("opened", "", "entry", "exit", "reason", "minutes", "%", "profit", *(("note",) if with_notes else ()))
    for title in titles:
        is_number = title in ("entry", "exit", "minutes", "%", "profit")
        table.add_column(title, justify="right" if is_number else "left", no_wrap=title != "note")
    for trade in trades:
        colour = "green" if trade.pnl > 0 else "red"
        note = escape("".join(letter for letter in trade.note if letter.isprintable()))
        table.add_row(
            minute_text(trade.opened_at), trade.position, f"{trade.price_open:.7g}", f"{trade.price_close:.7g}",
            trade.reason,
            f"{trade.minutes:,}", f"[{colour}]{trade.pnl_percent:+.2f}[/]", f"[{colour}]{trade.pnl:+.2f}[/]",
            *((note,) if with_notes else ()),
        )  # fmt: skip
    return table
