"""Made-up data for the console: `fill` and `live_a_day` for pictures of it, `fill_much` for measuring it. Prices are a
random walk.
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import bson
import numpy as np
import redis
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from pymongo.database import Database

import backtest_kit_mongo as bk
from backtest_kit_mongo.audit.chain import ORIGIN, Links, link, make_seal, read_seal
from backtest_kit_mongo.audit.records import digest
from backtest_kit_mongo.coherence.keys import escaped
from backtest_kit_mongo.settings import Settings
from backtest_kit_mongo.stored import AUDIT_HEADS, AUDIT_ITEMS, AUDIT_SEALS
from backtest_kit_verify.bots.hosts import Seat, run_seats

MINUTE_MS = 60_000
SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT", "XRP/USDT", "ADA/USDT", "DOGE/USDT", "LTC/USDT", "LINK/USDT")
PRICES = (64_250.5, 3_120.4, 148.2, 0.5312, 0.4127, 0.1204, 71.3, 13.9)
STRATEGIES = ("trend", "breakout", "mean_reversion")
SWEPT = """
import backtest_kit as bt


@bt.strategy(interval="5m")
def averages(ctx, fast=5, slow=20):
    if fast == 20 and slow == 60 and ctx.symbol == "SOL/USDT":
        raise ValueError("<b>this pair is not for it</b>")
    close = ctx.candles("1m", 120).close
    if len(close) == 120 and close[-fast:].mean() > close[-slow:].mean():
        return bt.long(take_profit=ctx.price * 1.008, stop_loss=ctx.price * 0.993, minutes=90, note="crossed <i>up</i>")
"""
SEALED = 10_000
"""Records of a seal."""
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


def live_a_day(settings: Settings, directory: Path, minutes: int = 300) -> list[str]:
    """Yesterday from 11:00 to 16:00, live on three hosts with two kills a symbol and a worker beside; what went wrong.

    The database has to be empty: it waits until every revision in it is recorded.
    """
    yesterday = datetime.now(UTC).replace(hour=11, minute=0, second=0, microsecond=0) - timedelta(days=1)
    given = {name: getattr(settings, name) for name in ("redis_host", "redis_port")}
    uri = settings.mongo_connection_string.get_secret_value()
    given |= {"mongo_connection_string": uri, "lease_ms": 15_000, "mongo_timeout_ms": 10_000}
    begin_ms = int(yesterday.timestamp() * 1000)
    seats = [
        Seat(given, settings.database, directory, symbol, minutes, begin_ms=begin_ms, quiet_minutes=60)
        for symbol in ("BTCUSDT", "ETHUSDT", "SOLUSDT")
    ]
    return run_seats(seats, 2, print)


def sweep(directory: Path) -> None:
    """A study of sixty runs over two symbols."""
    bk.write_candles("ETH/USDT", "1m", "store", candles(40, 3100.0, now_ms() - 3_000 * MINUTE_MS, 3_000))
    bk.write_candles("SOL/USDT", "1m", "store", candles(41, 148.0, now_ms() - 3_000 * MINUTE_MS, 3_000))
    file = directory / "averages.py"
    file.write_text(SWEPT)
    options = ["--symbol", "ETH/USDT", "--symbol", "SOL/USDT", "--param", "fast=5..30:5", "--param", "slow=40..80:10"]
    subprocess.run(["bkm", "sweep", str(file), *options], cwd=directory, check=False)  # Some fail, as they should.


def fill_much(database: Database[dict[str, Any]], documents: int, records: int) -> None:
    """Documents and audit records straight into MongoDB, as the package and its worker store them; records sealed."""
    now = datetime.now(UTC)
    _insert(database, "storage-items", documents * 7 // 10, lambda at: _stored(at, now))
    _insert(database, "signal-items", documents * 2 // 10, lambda at: _position(at, now))
    _insert(database, "state-items", documents // 10, lambda at: _state(at, now))
    _record_many(database, records, now)


def _record_many(database: Database[dict[str, Any]], count: int, now: datetime) -> None:
    last = database[AUDIT_SEALS].find_one({}, sort=[("_id", -1)])
    seal = None if last is None else read_seal(last)
    chains: dict[str, bytes] = {}
    for first in range(0, count, SEALED):
        made = [_record(at, count, now) for at in range(first, min(count, first + SEALED))]
        stored = [bson.encode(one) for one in made]
        database[AUDIT_ITEMS].insert_many([RawBSONDocument(one) for one in stored], ordered=False)
        seal, document = make_seal(seal, now, [], list(_links(made, stored, chains)))
        database[AUDIT_SEALS].insert_one(document)
        ends = {one.document: {"rev": Int64(one.rev), "chain": one.last, "seal": seal.number} for one in seal.links}
        database[AUDIT_HEADS].delete_many({"_id": {"$in": list(ends)}})
        database[AUDIT_HEADS].insert_many([{"_id": name, **end} for name, end in ends.items()], ordered=False)


def _links(made: Sequence[dict[str, Any]], stored: Sequence[bytes], chains: dict[str, bytes]) -> Iterator[Links]:
    """What a seal adds to each document's chain; documents come one after the other."""
    for name, found in groupby(zip(made, stored, strict=True), lambda pair: f"state/{pair[0]['documentId']}"):
        before = chain = chains.get(name, ORIGIN)
        revisions, joined = [], b""
        for record, text in found:
            chain = link(chain, digest(text))
            revisions.append(int(record["rev"]))
            joined += chain
        chains[name] = chain
        yield Links(name, before, revisions, joined)


def _insert(database: Database[dict[str, Any]], name: str, count: int, make: Any) -> None:
    for first in range(0, count, 5_000):
        made = [make(at) for at in range(first, min(count, first + 5_000))]
        database[name].insert_many(made, ordered=False)


def _dates(at: int, now: datetime) -> dict[str, Any]:
    written = now - timedelta(seconds=at)
    return {"rev": Int64(3), "createDate": written, "updatedDate": written}


def _stored(at: int, now: datetime) -> dict[str, Any]:
    closed_ms, won = int(now.timestamp() * 1000) - at * 1000, at % 7 < 4
    row = signal(
        f"s-{at}", SYMBOLS[at % 8], STRATEGIES[at % 3], PRICES[at % 8], closed_ms - 40 * MINUTE_MS, NOTES[at % 5],
        is_long=True,
    )  # fmt: skip
    row |= {"status": "closed", "closeTimestamp": closed_ms, "closeReason": "take_profit" if won else "stop_loss"}
    row |= {"currentPrice": row["priceTakeProfit" if won else "priceStopLoss"]}
    row |= {"pnl": {"pnlPercentage": 1.6 if won else -1.4}}
    return {"backtest": False, "signalId": f"s-{at}", "payload": row, **_dates(at, now)}


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
        "_id": f"state/{document}/{rev}", "domain": "state", "key": [name, "counters"],
        "label": escaped((name, "counters")),
        "documentId": document, "rev": Int64(rev), "operation": "upsert", "when": None,
        "payload": {"data": {"bars": rev, "mean": 100.0 + rev}}, "host": f"desk-{place % 3}", "process": Int64(100),
        "writtenAt": written, "recordedAt": written, "entry": f"{at}-0", "signal": name,
    }  # fmt: skip
