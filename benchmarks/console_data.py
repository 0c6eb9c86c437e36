"""Made-up data for the console: `fill` for pictures of it, `fill_much` for measuring it. Prices are a random walk."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import redis
from bson.int64 import Int64
from pymongo.database import Database

import backtest_kit_mongo as bk

MINUTE_MS = 60_000
SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT", "XRP/USDT", "ADA/USDT", "DOGE/USDT", "LTC/USDT", "LINK/USDT")
PRICES = (64_250.5, 3_120.4, 148.2, 0.5312, 0.4127, 0.1204, 71.3, 13.9)
STRATEGIES = ("trend", "breakout", "mean_reversion")
NOTES = (
    "close above the mean of 60",
    "range of 20 hours broken upwards",
    "RSI below 25; <b>bold</b> of a stranger",
    "second entry after a pull-back, half size, because the spread was wide",
    "",
)


def now_ms() -> int:
    return int(datetime.now(UTC).timestamp() * 1000) // MINUTE_MS * MINUTE_MS


def candles(seed: int, price: float, since_ms: int, count: int) -> dict[str, Any]:
    """Minutes of a random walk."""
    draw = np.random.default_rng(seed)
    close = price * np.exp(np.cumsum(draw.normal(0, 0.0006, count)))
    opened = np.concatenate([[price], close[:-1]])
    reach = np.abs(draw.normal(0, 0.0004, count)) * close
    return {
        "timestamp": since_ms + MINUTE_MS * np.arange(count, dtype=np.int64),
        "open": opened,
        "high": np.maximum(opened, close) + reach,
        "low": np.minimum(opened, close) - reach,
        "close": close,
        "volume": draw.exponential(12, count),
    }


def signal(
    name: str, symbol: str, strategy: str, price: float, at_ms: int, note: str, *, is_long: bool
) -> dict[str, Any]:
    """A row as the engine stores it."""
    way = 1 if is_long else -1
    return {
        "id": name, "symbol": symbol, "exchangeName": "binance", "strategyName": strategy, "frameName": "",
        "position": "long" if is_long else "short", "note": note, "priceOpen": price,
        "priceTakeProfit": round(price * (1 + 0.02 * way), 6), "priceStopLoss": round(price * (1 - 0.01 * way), 6),
        "minuteEstimatedTime": 720, "cost": 100.0, "scheduledAt": at_ms, "pendingAt": at_ms, "timestamp": at_ms,
    }  # fmt: skip


def fill(hours: int = 30) -> None:
    """Candles with gaps, open positions, closed ones, orders that wait, and states; through the adapters."""
    draw, now = random.Random(7), now_ms()
    since = now - hours * 60 * MINUTE_MS
    for at, (symbol, price) in enumerate(zip(SYMBOLS, PRICES, strict=True)):
        made = candles(at, price, since, hours * 60)
        keep = np.ones(hours * 60, bool)
        if at in (0, 3):
            keep[-95:-80] = False
            keep[700:704] = False
        bk.write_candles(symbol, "1m", "binance", {name: column[keep] for name, column in made.items()})
        for strategy in STRATEGIES[: 1 + at % 3]:
            _live_a_while(draw, symbol, strategy, price, now)


def _live_a_while(draw: random.Random, symbol: str, strategy: str, price: float, now: int) -> None:
    context = (symbol, strategy, "binance")
    for turn in range(draw.randint(1, 4)):
        at, is_long = now - draw.randint(20, 900) * MINUTE_MS, draw.random() < 0.6
        name = f"{strategy}-{symbol[:3].lower()}-{turn}"
        row = signal(
            name, symbol, strategy, round(price * draw.uniform(0.99, 1.01), 5), at, draw.choice(NOTES), is_long=is_long
        )
        bk.PersistSignalAdapter.write_signal_data(row, *context)
        row["_trailingPriceStopLoss"] = round(row["priceOpen"] * (0.995 if is_long else 1.005), 5)
        bk.PersistSignalAdapter.write_signal_data(row, *context)
        bk.PersistStateAdapter.write_state_data({"data": {"bars": turn, "mean": price}}, name, "counters", when=at)
        if draw.random() < 0.4:
            bk.PersistSignalAdapter.write_signal_data(None, *context)
    if draw.random() < 0.3:
        row = signal(
            f"{strategy}-{symbol[:3].lower()}-w", symbol, strategy, round(price * 0.98, 5), now, "", is_long=True
        )
        bk.PersistScheduleAdapter.write_schedule_data(row, *context)


def park(client: redis.Redis, stream: str) -> None:
    """Entries that no worker can read, for dead letters."""
    client.xadd(stream, {"e": b"\xc1 this is no event", "p": b""})
    client.xadd(stream, {"note": "<script>alert(1)</script> of a stranger"})


def fill_much(database: Database[dict[str, Any]], documents: int, records: int) -> None:
    """Documents and audit records straight into MongoDB, as the package and its worker store them."""
    now = datetime.now(UTC)
    _insert(database, "storage-items", documents * 7 // 10, lambda at: _stored(at, now))
    _insert(database, "signal-items", documents * 2 // 10, lambda at: _position(at, now))
    _insert(database, "state-items", documents // 10, lambda at: _state(at, now))
    _insert(database, "audit-items", records, lambda at: _record(at, records, now))


def _insert(database: Database[dict[str, Any]], name: str, count: int, make: Any) -> None:
    for first in range(0, count, 5_000):
        made = [make(at) for at in range(first, min(count, first + 5_000))]
        database[name].insert_many(made, ordered=False)


def _dates(at: int, now: datetime) -> dict[str, Any]:
    written = now - timedelta(seconds=at)
    return {"rev": Int64(3), "createDate": written, "updatedDate": written}


def _stored(at: int, now: datetime) -> dict[str, Any]:
    row = signal(f"s-{at}", SYMBOLS[at % 8], STRATEGIES[at % 3], 100.0, now_ms(), NOTES[at % 5], is_long=True)
    return {"backtest": False, "signalId": f"s-{at}", "payload": {**row, "status": "closed"}, **_dates(at, now)}


def _position(at: int, now: datetime) -> dict[str, Any]:
    """Of fifty contexts one has an open position."""
    context = {"symbol": f"S{at}/USDT", "strategyName": STRATEGIES[at % 3], "exchangeName": "binance"}
    row = signal(f"p-{at}", f"S{at}/USDT", STRATEGIES[at % 3], 100.0, now_ms(), NOTES[at % 5], is_long=at % 2 == 0)
    return {**context, "payload": None if at % 50 else row, **_dates(at, now)}


def _state(at: int, now: datetime) -> dict[str, Any]:
    return {
        "signalId": f"s-{at}",
        "bucketName": "counters",
        "payload": {"data": {"bars": at}},
        "when": None,
        **_dates(at, now),
    }


def _record(at: int, count: int, now: datetime) -> dict[str, Any]:
    """Of a thousandth of all one key with a long history; the others with ten revisions each."""
    many = count // 10
    place, rev = (0, at + 1) if at < many else (1 + (at - many) // 10, 1 + (at - many) % 10)
    document, name = f"{place:024x}", f"s-{place}"
    written = now - timedelta(milliseconds=count - at)
    return {
        "_id": f"state/{document}/{rev}", "domain": "state", "key": [name, "counters"], "label": f"{name}:counters",
        "documentId": document, "rev": Int64(rev), "operation": "upsert", "when": None,
        "payload": {"data": {"bars": rev, "mean": 100.0 + rev}}, "host": f"desk-{place % 3}", "process": Int64(100),
        "writtenAt": written, "recordedAt": written, "entry": f"{at}-0", "signal": name,
    }  # fmt: skip
