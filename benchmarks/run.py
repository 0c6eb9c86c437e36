"""What the package costs over bare drivers, measured in one run against the same servers.

    python benchmarks/run.py [--json FILE] [--only signals|candles|lists]

Every row is measured in turns with its floor; measuring.py says how, and what is done about noise. Uses the servers of
the CC_ environment variables, or private ones of the `embedded` extra. Goals are printed beside the ratios; nothing is
judged by exit code.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgpack
import redis
from bson import ObjectId
from measuring import Case, measure, servers, show, wide_console
from pymongo import MongoClient, ReturnDocument, UpdateOne
from pymongo.write_concern import WriteConcern
from rich.progress import track

import backtest_kit_mongo as bk
from backtest_kit_mongo import stores
from backtest_kit_mongo.settings import Settings
from backtest_kit_mongo.testing.examples import example

DATABASE = "bkm-benchmark"
STEP_MS = 60_000
SINCE_MS = 1_704_067_200_000


class Bench:
    """The cases, over one connected package and bare clients with the same write concern."""

    def __init__(self, settings: Settings) -> None:
        self.mongo: MongoClient[dict[str, Any]] = MongoClient(settings.mongo_connection_string.get_secret_value())
        self.redis = redis.Redis(host=settings.redis_host, port=settings.redis_port)
        database = self.mongo.get_database(f"{DATABASE}-floor", write_concern=WriteConcern("majority", j=True))
        self.mongo.drop_database(f"{DATABASE}-floor")
        self.signals = database["signal-items"]
        self.signals.create_index([("symbol", 1), ("strategyName", 1), ("exchangeName", 1)], unique=True)
        self.candles = database["candle-items"]
        self.candles.create_index([("exchangeName", 1), ("symbol", 1), ("interval", 1), ("timestamp", 1)], unique=True)
        self.signal = example(bk_domain("signal"), "s1")
        self.settings = settings

    def close(self) -> None:
        self.mongo.close()
        self.redis.close()

    # -- signals

    def write(self, index: int) -> None:
        bk.PersistSignalAdapter.write_signal_data(self.signal, f"S{index % 64}", "bench", "binance")

    def floor_write(self, index: int) -> None:
        self.signals.find_one_and_update(
            {"symbol": f"S{index % 64}", "strategyName": "bench", "exchangeName": "binance"},
            {"$set": {"payload": self.signal}, "$inc": {"rev": 1}},
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )

    def read(self, index: int) -> None:
        bk.PersistSignalAdapter.read_signal_data(f"S{index % 64}", "bench", "binance")

    def floor_get(self, index: int) -> None:
        msgpack.unpackb(self.redis.get(f"floor:S{index % 64}"))

    def floor_find(self, index: int) -> None:
        self.signals.find_one({"symbol": f"S{index % 64}", "strategyName": "bench", "exchangeName": "binance"})

    def evict(self, index: int) -> None:
        self.redis.delete(f"{{bk:0}}:{DATABASE}:e:signal:S{index % 64}:bench:binance")

    def signal_cases(self) -> Iterator[Case]:
        for index in range(64):
            self.write(index)
            self.floor_write(index)
            self.redis.set(f"floor:S{index}", msgpack.packb(self.signal))
        for threads in (1, 16):
            count = 2_000 // threads
            suffix = f", {threads} threads" if threads > 1 else ""
            yield Case(
                f"signal write with event{suffix}",
                self.write,
                "find_one_and_update",
                self.floor_write,
                1.6,
                count // 2,
                threads,
            )
            yield Case(
                f"signal read, warm{suffix}", self.read, "redis GET + decode", self.floor_get, 1.25, count * 2, threads
            )
            yield Case(
                f"signal read, cold{suffix}",
                self.read,
                "find_one",
                self.floor_find,
                None,
                count // 2,
                threads,
                prepare=self.evict,
                # Other threads' evictions are at work beside a measured call; beside the floor's too, then.
                floor_prepare=self.evict,
            )

    # -- candles

    def batch(self, index: int) -> list[dict[str, float]]:
        start = SINCE_MS + index * 1_000 * STEP_MS
        return [
            {"timestamp": start + i * STEP_MS, "open": 1.0, "high": 2.0, "low": 0.5, "close": 1.5, "volume": 10.0 + i}
            for i in range(1_000)
        ]

    def write_candles(self, index: int) -> None:
        bk.PersistCandleAdapter.write_candles_data(self.batch(index), "BTCUSDT", "1m", "binance")

    def floor_upsert(self, index: int) -> None:
        key = {"exchangeName": "binance", "symbol": "BTCUSDT", "interval": "1m"}
        operations = []
        for row in self.batch(index):
            when = row.pop("timestamp")
            operations.append(
                UpdateOne({**key, "timestamp": when}, {"$setOnInsert": {"_id": ObjectId(), **row}}, upsert=True)
            )
        self.candles.bulk_write(operations, ordered=False)

    def read_candles(self, index: int) -> None:
        start = SINCE_MS + index * 1_000 * STEP_MS
        rows = bk.PersistCandleAdapter.read_candles_data(
            "BTCUSDT", "1m", "binance", 1_000, start, start + 1_000 * STEP_MS
        )
        assert rows is not None

    def floor_candles(self, index: int) -> None:
        start = SINCE_MS + index * 1_000 * STEP_MS
        query = {"exchangeName": "binance", "symbol": "BTCUSDT", "interval": "1m"}
        span = {"$gte": start, "$lt": start + 1_000 * STEP_MS}
        columns = {"_id": 0, "timestamp": 1, "open": 1, "high": 1, "low": 1, "close": 1, "volume": 1}
        list(self.candles.find({**query, "timestamp": span}, columns).sort("timestamp", 1))

    def candle_cases(self) -> Iterator[Case]:
        yield Case("1,000 candles written", self.write_candles, "bulk upsert, unordered", self.floor_upsert, 1.5, 20)
        yield Case("1,000 candles read", self.read_candles, "find into a list", self.floor_candles, 1.3, 20)

    # -- lists

    def list_cases(self) -> Iterator[Case]:
        rows = [example(bk_domain("storage"), f"row-{index}") for index in range(1_000)]

        def change_one(index: int) -> None:
            rows[index % 1_000] = {**rows[index % 1_000], "priority": index}
            bk.PersistStorageAdapter.write_storage_data(rows, True)

        change_one(0)
        yield Case("1 changed row of a 1,000-row list", change_one, "one signal write of ours", self.write, 3.0, 100)


def bk_domain(name: str) -> Any:
    from backtest_kit_mongo.domains.table import BY_NAME

    return BY_NAME[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    groups = ("signals", "candles", "lists")
    parser.add_argument("--only", choices=groups, action="append", help="only these rows; may be given again")
    arguments = parser.parse_args()
    console = wide_console()
    with servers(DATABASE) as found:
        settings = bk.setup(**found, lease_ms=3_000)
        bk.get_mongo().drop_database(DATABASE)
        bk.shutdown()
        settings = bk.setup(**found, lease_ms=3_000)
        time.sleep(3.2)  # A Redis seen for the first time caches nothing for one lease time.
        bench = Bench(settings)
        try:
            makers = zip(groups, (bench.signal_cases, bench.candle_cases, bench.list_cases), strict=True)
            cases = [case for group, make in makers if group in (arguments.only or groups) for case in make()]
            rows = [measure(case) for case in track(cases, "measuring", console=console, transient=True)]
        finally:
            bench.close()
            cache = stores.live_store().cache
            bk.shutdown()
    show(rows, "microseconds, p50 and p99; the floor is the bare driver in the same run", console)
    console.print(f"cache: {getattr(cache, 'counts', {})}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": [asdict(row) for row in rows]}, indent=2))


if __name__ == "__main__":
    main()
