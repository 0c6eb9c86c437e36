"""What a run came to: trades, equity, statistics."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from backtest_kit.events import Event
from backtest_kit.identity import MINUTE_MS, ContextId
from backtest_kit.moments import minute_text

__all__ = ["Equity", "Result", "Stats", "Trade"]

REASONS_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class Trade:
    """A position from its opening to its close.

    Attributes:
        opened_at, closed_at: simulated minutes, epoch ms.
        price_open, price_close: as traded; `price_open` is that of all entries together.
        pnl_percent: of what was invested, after fees and slippage.
        pnl: the same in the quote currency.
        invested: sum of the entries, quote currency.
        reason: take_profit stop_loss time_expired closed.
        entries, partials: how many purchases and partial closes there were.
        best_percent, worst_percent: net PnL at the best and the worst minute.
    """

    id: str
    symbol: str
    position: str
    opened_at: int
    closed_at: int
    price_open: float
    price_close: float
    take_profit: float
    stop_loss: float
    pnl_percent: float
    pnl: float
    invested: float
    reason: str
    entries: int
    partials: int
    best_percent: float
    worst_percent: float
    note: str

    @property
    def minutes(self) -> int:
        return (self.closed_at - self.opened_at) // MINUTE_MS

    @classmethod
    def of(cls, event: Event, symbol: str) -> Trade:
        """From the event of its close."""
        signal, pnl = event.signal, event.pnl
        assert signal is not None
        assert pnl is not None
        return cls(
            signal.id, symbol, signal.position, signal.pending_at, event.at, signal.price_open, event.price,
            signal.take_profit, signal.stop_loss, pnl.percent, pnl.cost, pnl.invested, event.reason or "",
            len(signal.entries), len(signal.partials), signal.peak.percent, signal.fall.percent, signal.note,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Equity:
    """Sum of the PnL of all closed trades, in the quote currency, after each of them.

    Attributes:
        at: epoch ms of the closes; the first is the start of the run, where both values are 0.
        drawdown: how far the value lies below its highest so far, quote currency, 0 or negative.
    """

    at: NDArray[np.int64]
    value: NDArray[np.float64]
    drawdown: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.at)

    @classmethod
    def of(cls, start: int, trades: Sequence[Trade]) -> Equity:
        """From trades in the order of their closes, and the start of the run."""
        at = np.array([start, *(trade.closed_at for trade in trades)], np.int64)
        value = np.cumsum([0.0, *(trade.pnl for trade in trades)])
        return cls(at, value, value - np.maximum.accumulate(value))


@dataclass(frozen=True, slots=True)
class Stats:
    """Money in the quote currency. A ratio that cannot be said (no trade, no loss, ..) is None.

    Attributes:
        win_rate_percent: share of trades that earned money.
        pnl_percent_sum: sum of the trades' percents.
        profit_factor: what winners earned over what losers lost.
        sharpe_per_trade: mean over standard deviation of the trades' percents; not annualized.
        max_drawdown: deepest fall of the equity, 0 or negative.
        exposure_percent: share of the run's minutes in which a position was open.
    """

    trades: int
    wins: int
    losses: int
    win_rate_percent: float | None
    pnl: float
    pnl_percent_sum: float
    pnl_percent_mean: float | None
    best_percent: float | None
    worst_percent: float | None
    profit_factor: float | None
    sharpe_per_trade: float | None
    max_drawdown: float
    minutes_mean: float | None
    exposure_percent: float

    def to_dict(self) -> dict[str, float | None]:
        """Plain data; what is not finite is None."""
        return {name: _finite(getattr(self, name)) for name in self.__slots__}


@dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """One-minute closes of the run, for the report."""

    at: NDArray[np.int64]
    close: NDArray[np.float64]


@dataclass(eq=False)
class Result:
    """Attributes:
    start, end: first and last simulated minute, epoch ms.
    events: all that trades are made of, in order.
    asked: how often get_signal was asked.
    elapsed_s: wall time of the replay.
    notes: what was left out, filled or converted.
    """

    identity: ContextId
    start: int
    end: int
    events: Sequence[Event] = ()
    asked: int = 0
    elapsed_s: float = 0.0
    notes: tuple[str, ...] = ()
    run_id: str = ""
    prices: Prices | None = field(default=None, repr=False)

    @cached_property
    def trades(self) -> tuple[Trade, ...]:
        return tuple(Trade.of(event, self.identity.symbol) for event in self.events if event.action == "closed")

    @cached_property
    def equity(self) -> Equity:
        return Equity.of(self.start, self.trades)

    @cached_property
    def stats(self) -> Stats:
        percents = np.array([trade.pnl_percent for trade in self.trades], float)
        money = np.array([trade.pnl for trade in self.trades], float)
        won, lost = money[money > 0], -float(money[money < 0].sum())
        count, wins = len(percents), len(won)
        mean = float(percents.mean()) if count else None
        best, worst = (float(percents.max()), float(percents.min())) if count else (None, None)
        spread = float(percents.std(ddof=1)) if count > 1 else 0.0
        has_spread = spread > 1e-9 * max(abs(best or 0.0), abs(worst or 0.0))
        open_minutes = sum(trade.minutes for trade in self.trades)
        span = max(1, (self.end - self.start) // MINUTE_MS + 1)
        return Stats(
            trades=count,
            wins=wins,
            losses=count - wins,
            win_rate_percent=wins / count * 100 if count else None,
            pnl=float(money.sum()),
            pnl_percent_sum=float(percents.sum()),
            pnl_percent_mean=mean,
            best_percent=best,
            worst_percent=worst,
            profit_factor=float(won.sum()) / lost if lost else None,
            sharpe_per_trade=mean / spread if mean is not None and has_spread else None,
            max_drawdown=float(self.equity.drawdown.min()),
            minutes_mean=open_minutes / count if count else None,
            exposure_percent=open_minutes / span * 100,
        )

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """How many events of each action there were."""
        return Counter(event.action for event in self.events)

    @cached_property
    def refusals(self) -> tuple[str, ...]:
        """Why proposals came to nothing, the most frequent first, at most five. What differs by numbers alone is one,
        reported as the first was.
        """
        counts, first = Counter[str](), dict[str, str]()
        for event in self.events:
            if event.action in ("rejected", "invalid"):
                reported = f"{'risk' if event.action == 'rejected' else 'invalid'}: {event.reason}"
                kind = re.sub(r"\d+(\.\d+)?", "#", reported)
                counts[kind] += 1
                first.setdefault(kind, reported)
        return tuple(f"{count} x {first[kind]}" for kind, count in counts.most_common(REASONS_MAX))

    def trades_frame(self) -> Any:
        """The trades as a pandas DataFrame; moments are UTC timestamps.

        Raises:
            ImportError: pandas is not installed.
        """
        frames = pandas()
        names = [*Trade.__slots__, "minutes"]
        rows = [[getattr(trade, name) for name in names] for trade in self.trades]
        table = frames.DataFrame(rows, columns=names)
        for name in ("opened_at", "closed_at"):
            table[name] = frames.to_datetime(table[name], unit="ms", utc=True)
        return table

    def equity_frame(self) -> Any:
        """The equity as a pandas DataFrame indexed by time."""
        frames = pandas()
        index = frames.to_datetime(self.equity.at, unit="ms", utc=True)
        return frames.DataFrame({"value": self.equity.value, "drawdown": self.equity.drawdown}, index=index)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "mode": self.identity.mode,
            "strategy": self.identity.strategy,
            "symbol": self.identity.symbol,
            "exchange": self.identity.exchange,
            "frame": self.identity.frame,
            "start": self.start,
            "end": self.end,
            "run": self.run_id,
            "asked": self.asked,
            "elapsed_s": round(self.elapsed_s, 3),
            "stats": self.stats.to_dict(),
            "trades": [{**asdict(trade), "minutes": trade.minutes} for trade in self.trades],
            "refusals": list(self.refusals),
            "notes": list(self.notes),
        }

    def report(self, path: Any) -> None:
        """Write a page of its own: equity, drawdown, trades on the price, the table."""
        from backtest_kit.report import write_report

        write_report(self, path)

    def __repr__(self) -> str:
        one, stats = self.identity, self.stats
        span = f"{minute_text(self.start)} to {minute_text(self.end)}"
        return f"<{one.strategy} {one.symbol} {span}: {stats.trades} trades, {stats.pnl:+.2f}>"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def pandas() -> Any:
    """The library, if it is installed."""
    try:
        return import_module("pandas")
    except ModuleNotFoundError as cause:
        raise ImportError("This needs pandas: pip install 'backtest-kit-mongo[pandas]'.", name="pandas") from cause
