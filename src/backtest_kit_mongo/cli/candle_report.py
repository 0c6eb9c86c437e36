"""What `bkm candles list`, `check` and `conflicts` say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from backtest_kit_mongo.candles.calendar import CALENDARS, gaps_within
from backtest_kit_mongo.candles.columns import FIELDS
from backtest_kit_mongo.candles.frame import Gap
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.errors import NotFound
from backtest_kit_mongo.operate.compaction import summarize
from backtest_kit_mongo.terminal import echo, escape

from .candle_store import CandleStore, Chosen, Span, moment_text

__all__ = ["Checked", "check", "print_checks", "print_conflicts", "print_list"]


def print_list(store: CandleStore, chosen: Chosen, messages: Console, *, as_json: bool) -> None:
    """One line a series."""
    with messages.status("Reading candles ..."):
        rows = [_summary(store, key, span) for key, span in store.spans(chosen).items()]
    if as_json:
        echo(json.dumps(rows, indent=2))
        return
    table = Table()
    for heading in ("exchange", "symbol", "interval", "first", "last", "candles", "gaps", "missing", "blocks"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        names = [escape(row[name]) for name in ("exchange", "symbol", "interval")]
        times = [moment_text(row[name]) for name in ("first", "last")]
        numbers = [f"{row[name]:,}" for name in ("candles", "gaps", "missing")]
        share = f"{row['blocks']:,} ({row['inBlocks'] * 100 // max(row['candles'], 1)} %)"
        table.add_row(*names, *times, *numbers, share)
    Console().print(table if rows else "No candles.")


def _summary(store: CandleStore, series: Key, span: Span) -> dict[str, Any]:
    exchange, symbol, interval = series.parts
    candles, blocks = store.read(series, span), summarize(store.database, series)
    return {
        "exchange": exchange,
        "symbol": symbol,
        "interval": interval,
        "first": span.first,
        "last": span.last,
        "candles": len(candles),
        "gaps": len(candles.gaps),
        "missing": sum(gap.count for gap in candles.gaps),
        "blocks": blocks.blocks,
        "inBlocks": blocks.candles,
    }


@dataclass(frozen=True, slots=True)
class Checked:
    """A series beside a calendar.

    Attributes:
        gaps: runs of expected candles that are missing.
        unexpected: candles that are there although the market was closed.
    """

    series: Key
    candles: int
    gaps: tuple[Gap, ...]
    unexpected: int

    @property
    def missing(self) -> int:
        return sum(gap.count for gap in self.gaps)


def check(store: CandleStore, chosen: Chosen, calendar: str, since: str | None, until: str | None) -> Iterator[Checked]:
    """Check each series, from its first candle to its last unless limits are given; not those wholly outside the
    limits.

    Raises:
        NotFound: there is nothing to check.
    """
    is_open, is_any = CALENDARS[calendar], False
    for key, span in store.spans(chosen, required=True).items():
        candles = store.read(key, span, since, until)
        if candles.since >= candles.until:
            continue
        is_any = True
        gaps = candles.gaps if calendar == "always" else gaps_within(candles.gaps, span.grid, is_open)
        unexpected = int(np.count_nonzero(~is_open(candles.timestamp, span.grid.after(candles.timestamp))))
        yield Checked(key, len(candles), gaps, unexpected)
    if not is_any:
        raise NotFound(f"No open time of {chosen} lies within the limits, so nothing was checked.")


def print_checks(checks: Iterable[Checked], shown_max: int, *, as_json: bool) -> bool:
    """Print what was found; returns whether nothing is missing. `shown_max` gaps a series are named."""
    complete = True
    for checked in checks:
        complete = complete and not checked.gaps
        exchange, symbol, interval = map(str, checked.series.parts)
        if as_json:
            one: dict[str, Any] = {
                "exchange": exchange,
                "symbol": symbol,
                "interval": interval,
                "candles": checked.candles,
            }
            one |= {"missing": checked.missing, "unexpected": checked.unexpected}
            echo(json.dumps({**one, "gaps": [asdict(gap) for gap in checked.gaps]}))
            continue
        more = f", {checked.unexpected:,} while the market is closed" if checked.unexpected else ""
        kept = f"{checked.missing:,} missing in {len(checked.gaps):,} gaps" if checked.gaps else "no gaps"
        echo(f"{exchange} {symbol} {interval}: {checked.candles:,} candles{more}, {kept}")
        for gap in checked.gaps[:shown_max]:
            last = f" to {moment_text(gap.last)}" if gap.count > 1 else ""
            echo(f"  {moment_text(gap.first)}{last}: {gap.count:,}")
        if len(checked.gaps) > shown_max:
            echo(f"  and {len(checked.gaps) - shown_max:,} more; --json prints all")
    return complete


def print_conflicts(rows: Iterable[Mapping[str, Any]], *, as_json: bool) -> None:
    """Both versions of candles that were offered with other values than the stored ones."""
    if as_json:
        for row in rows:
            seen = {name: row[name].isoformat() for name in ("firstSeen", "lastSeen")}
            echo(json.dumps({**row, **seen}, default=str))
        return
    table = Table()
    for heading in ("exchange", "symbol", "interval", "opens", "stored, offered", "count", "last seen", "host"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        names = (str(row[name]) for name in ("exchangeName", "symbol", "interval"))
        last = [str(row["count"]), f"{row['lastSeen']:%Y-%m-%d %H:%M:%S}", str(row["host"])]
        table.add_row(*map(escape, (*names, moment_text(int(row["timestamp"])), _difference(row), *last)))
    Console().print(table if table.rows else "No conflicts.")


def _difference(row: Mapping[str, Any]) -> str:
    stored, offered = row["stored"], row["offered"]
    return ", ".join(f"{name} {stored[name]} -> {offered[name]}" for name in FIELDS if stored[name] != offered[name])
