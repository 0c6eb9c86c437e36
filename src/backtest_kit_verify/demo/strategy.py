"""The strategy: trade with the trend after two moving averages crossed, entering at a limit price. Pure functions.

A crossing schedules a limit entry a little better than the close; the entry is cancelled when it is not reached in
time. A position takes half its profit half-way, moves its stop to the entry price on the way there (breakeven), and
ends at its take profit, its stop, after `HOLD_BARS`, or when the averages cross back.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf

from backtest_kit_verify.demo.book import FRAME, Book, Event, Host, Row

__all__ = ["ATR_BARS", "COST_USD", "VARIANTS", "Rules", "advance", "average_range", "pnl", "progress_percent"]

ATR_BARS = 14
PATIENCE_BARS = 12
HOLD_BARS = 72
PULLBACK_RANGES = 0.25
STOP_RANGES = 2.0
TARGET_RANGES = 4.0
BREAKEVEN_PERCENT = 30.0
PARTIAL_PERCENT = 50.0
FEE_PERCENT = 0.01
COST_USD = 1000.0


@dataclass(frozen=True, slots=True)
class Rules:
    """Lengths of the two moving averages, in bars."""

    fast_bars: int
    slow_bars: int


VARIANTS = {"fast": Rules(5, 20), "medium": Rules(10, 40), "slow": Rules(20, 80)}


def average_range(candles: Sequence[Row]) -> float:
    """Mean of high minus low over the last bars."""
    last = candles[-ATR_BARS:]
    return float(sum(candle["high"] - candle["low"] for candle in last) / len(last))


def advance(book: Book, candle: Row, atr: float, host: Host) -> tuple[Book, tuple[Event, ...]]:
    """The book after one more bar, and what happened on it."""
    rules = VARIANTS[host.variant]
    first = book.bars == 0
    fast_ema = candle["close"] if first else _ema(book.fast_ema, candle["close"], rules.fast_bars)
    slow_ema = candle["close"] if first else _ema(book.slow_ema, candle["close"], rules.slow_bars)
    trend = _sign(fast_ema - slow_ema)
    crossed = trend if trend != _sign(book.fast_ema - book.slow_ema) else 0
    moved = replace(book, bars=book.bars + 1, fast_ema=fast_ema, slow_ema=slow_ema)
    if book.scheduled is not None:
        return _wait(moved, book.scheduled, candle, crossed)
    if book.position is not None:
        return _hold(moved, book.position, candle, crossed)
    if crossed and book.bars >= rules.slow_bars:
        row = _limit_entry(host, book.signals + 1, crossed, candle, atr)
        waiting = replace(moved, signals=book.signals + 1, since_bar=moved.bars, scheduled=row)
        return waiting, (Event("scheduled", row, candle["close"], candle["timestamp"]),)
    return moved, ()


def _ema(before: float, price: float, bars: int) -> float:
    return before + (price - before) * 2 / (bars + 1)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _direction(row: Row) -> int:
    return 1 if row["position"] == "long" else -1


def _limit_entry(host: Host, number: int, direction: int, candle: Row, atr: float) -> Row:
    price = candle["close"] - direction * PULLBACK_RANGES * atr
    time_ms = candle["timestamp"]
    return {
        "id": f"{host.account}.{number}",
        "symbol": host.symbol,
        "exchangeName": host.exchange,
        "strategyName": host.strategy,
        "frameName": FRAME,
        "position": "long" if direction > 0 else "short",
        "note": "averages crossed",
        "priceOpen": price,
        "priceTakeProfit": price + direction * TARGET_RANGES * atr,
        "priceStopLoss": price - direction * STOP_RANGES * atr,
        "minuteEstimatedTime": inf,
        "cost": COST_USD,
        "multiplier": 1.0,
        "isolated": True,
        "scheduledAt": time_ms,
        "pendingAt": time_ms,
        "timestamp": time_ms,
        "_isScheduled": True,
        "_partial": [],
        "_entry": [{"price": price, "cost": COST_USD, "timestamp": time_ms}],
        "_peak": _extreme(price, 0.0, price, time_ms),
        "_fall": _extreme(price, 0.0, price, time_ms),
    }


def _wait(book: Book, row: Row, candle: Row, crossed: int) -> tuple[Book, tuple[Event, ...]]:
    time_ms, price = candle["timestamp"], row["priceOpen"]
    if candle["low"] <= price <= candle["high"]:
        opened = {**row, "_isScheduled": False, "pendingAt": time_ms}
        holding = replace(book, since_bar=book.bars, scheduled=None, position=opened)
        return holding, (Event("opened", opened, price, time_ms),)
    if crossed or book.bars - book.since_bar >= PATIENCE_BARS:
        reason = "crossed back" if crossed else "not reached in time"
        return replace(book, scheduled=None), (Event("cancelled", row, candle["close"], time_ms, reason),)
    return book, ()


def _hold(book: Book, row: Row, candle: Row, crossed: int) -> tuple[Book, tuple[Event, ...]]:
    exit_ = _exit(book, row, candle, crossed)
    time_ms = candle["timestamp"]
    if exit_ is not None:
        price, reason = exit_
        percent = pnl(row, price)["pnlPercentage"]
        closed = replace(
            book,
            position=None,
            trades=book.trades + 1,
            wins=book.wins + (percent > 0),
            pnl_percent=book.pnl_percent + percent,
        )
        return closed, (Event("closed", row, price, time_ms, reason),)
    row = _with_extremes(row, candle)
    events = []
    for event in _milestones(row, candle):
        row = event.row
        events.append(event)
    return replace(book, position=row), tuple(events)


def _exit(book: Book, row: Row, candle: Row, crossed: int) -> tuple[float, str] | None:
    """Price and reason if the position ends on this bar. Which of two prices came first is unknown: the stop is
    assumed.
    """
    long = _direction(row) > 0
    stop: float = row["_trailingPriceStopLoss"] if "_trailingPriceStopLoss" in row else row["priceStopLoss"]
    if (candle["low"] <= stop) if long else (candle["high"] >= stop):
        return stop, "stop_loss"
    target = row["priceTakeProfit"]
    if (candle["high"] >= target) if long else (candle["low"] <= target):
        return target, "take_profit"
    if book.bars - book.since_bar >= HOLD_BARS:
        return candle["close"], "time_expired"
    return (candle["close"], "closed") if crossed else None


def _milestones(row: Row, candle: Row) -> Iterator[Event]:
    price, time_ms = candle["close"], candle["timestamp"]
    progress = progress_percent(row, price)
    if progress >= BREAKEVEN_PERCENT and "_trailingPriceStopLoss" not in row:
        row = {**row, "_trailingPriceStopLoss": row["priceOpen"]}
        yield Event("breakeven", row, price, time_ms)
    if progress >= PARTIAL_PERCENT and not row["_partial"]:
        part = {
            "type": "profit",
            "percent": PARTIAL_PERCENT,
            "currentPrice": price,
            "costBasisAtClose": COST_USD,
            "entryCountAtClose": 1,
            "timestamp": time_ms,
        }
        row = {**row, "_partial": [part]}
        yield Event("partial", row, price, time_ms)


def progress_percent(row: Row, price: float) -> float:
    """How far the price has come from the entry to the take profit."""
    return float((price - row["priceOpen"]) / (row["priceTakeProfit"] - row["priceOpen"]) * 100)


def pnl(row: Row, price: float) -> Row:
    """Result of the position if the rest of it were closed at the price, after fees."""
    shares = [(part["percent"], part["currentPrice"]) for part in row["_partial"]]
    shares.append((100.0 - sum(percent for percent, _ in shares), price))
    gained = sum(share * (out / row["priceOpen"] - 1) for share, out in shares)
    percent = _direction(row) * gained - FEE_PERCENT
    return _result(row["priceOpen"], percent, price)


def _result(price_open: float, percent: float, price: float) -> Row:
    return {
        "pnlPercentage": percent,
        "priceOpen": price_open,
        "priceClose": price,
        "pnlCost": percent / 100 * COST_USD,
        "pnlEntries": COST_USD,
    }


def _extreme(price_open: float, percent: float, price: float, time_ms: int) -> Row:
    return {**_result(price_open, percent, price), "price": price, "timestamp": time_ms}


def _with_extremes(row: Row, candle: Row) -> Row:
    price = candle["close"]
    percent = pnl(row, price)["pnlPercentage"]
    now = _extreme(row["priceOpen"], percent, price, candle["timestamp"])
    if percent > row["_peak"]["pnlPercentage"]:
        return {**row, "_peak": now}
    return {**row, "_fall": now} if percent < row["_fall"]["pnlPercentage"] else row
