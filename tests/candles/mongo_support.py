"""One series in a real MongoDB, for a test each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from pymongo.database import Database

from backtest_kit_mongo.adapters.instances import CandleInstance
from backtest_kit_mongo.backends.mongo.candles import MongoCandles
from backtest_kit_mongo.backends.mongo.documents import MongoTruth
from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.candles.codec import BLOCK_ROWS
from backtest_kit_mongo.candles.frame import Candles
from backtest_kit_mongo.candles.intervals import grid_of
from backtest_kit_mongo.candles.plans import FindGeneration, FindRows, compact
from backtest_kit_mongo.coherence.events import decode
from backtest_kit_mongo.coherence.keys import streams
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.table import CANDLE
from backtest_kit_mongo.drivers.store import OneForAll, Store, drive
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.stored import CANDLE_CONFLICTS as CONFLICTS
from tests.integration.support import store_for

STEP_MS = 60_000
GRID = grid_of("1m")
START = 3_000 * BLOCK_ROWS * STEP_MS
"""Where a block begins."""
COLLECTION = collection_of(CANDLE)


def rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [
        {"timestamp": START + n * STEP_MS, "open": 10.0 + n, "high": 12.5 + n, "low": 9.5 + n, "close": 11.0 + n,
            "volume": 0.25 * n}
        for n in range(first, first + count)
    ]  # fmt: skip


class Bed:
    """One database. `series` is a new one for each test."""

    def __init__(self, servers: Endpoints, store: Store, name: str) -> None:
        self.servers = servers
        self.store = store
        assert isinstance(store.truth, MongoTruth)
        self.truth = store.truth
        self.scope = Key(CANDLE, ("binance", name, "1m"))
        self.instance = self.instance_of(store)

    def instance_of(self, store: Store) -> CandleInstance:
        return CandleInstance(store, str(self.scope.parts[1]), "1m", "binance")

    def beside(self, store: Store) -> Bed:
        """The same series in another store."""
        return Bed(self.servers, store, str(self.scope.parts[1]))

    @property
    def database(self) -> Database[dict[str, Any]]:
        return self.truth.client[self.truth._database_name]

    @property
    def candles(self) -> MongoCandles:
        return self.truth.series

    def documents(self) -> list[dict[str, Any]]:
        return list(self.database[COLLECTION].find(self.scope.query()).sort("timestamp", 1))

    def insert_foreign(self, given: list[dict[str, Any]]) -> None:
        """As the npm package's upsert leaves them: other order of fields, no revision, numbers as JavaScript has
        them.
        """
        now = datetime.now(UTC)
        self.database[COLLECTION].insert_many(
            [
                {**self.scope.query(), "timestamp": float(row["timestamp"]), "__v": 0, "close": row["close"],
                    "createDate": now}
                | {name: row[name] for name in ("high", "low", "open")} | {"updatedDate": now, "volume": row["volume"]}
                for row in given
            ]
        )  # fmt: skip

    def compact(self, block: int = 0) -> int:
        start = START + block * BLOCK_ROWS * STEP_MS

        def perform(effect: Any) -> Any:
            if isinstance(effect, FindGeneration):
                return self.candles.find_generation(effect)
            return self.candles.find_rows(effect) if isinstance(effect, FindRows) else self.candles.put_block(effect)

        return drive(compact(self.scope, GRID, start), OneForAll(perform)).count

    def read(self, count: int, first: int = 0) -> Candles:
        return self.instance.read_candles(START + first * STEP_MS, START + (first + count) * STEP_MS)

    def conflicts(self) -> list[dict[str, Any]]:
        return list(self.database[CONFLICTS].find(self.scope.query()).sort("_id", 1))

    def events(self, operation: str) -> list[Any]:
        (stream,) = streams(self.database.name, 1)
        with redis.Redis(port=self.servers.redis_port) as client:
            found = [decode(fields) for _, fields in client.xrange(stream)]
        return [event for event in found if event.operation == operation and event.key == self.scope.parts]


@pytest.fixture(scope="module")
def store(servers: Endpoints, new_database: Callable[[], str]) -> Iterator[Store]:
    with store_for(servers, new_database()) as opened:
        opened.open()
        yield opened


@pytest.fixture
def bed(servers: Endpoints, store: Store, request: pytest.FixtureRequest) -> Bed:
    return Bed(servers, store, request.node.name)
