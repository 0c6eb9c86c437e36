"""What tests of the file backend share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from backtest_kit_mongo.adapters.instances import CandleInstance
from backtest_kit_mongo.backends.files.documents import FileTruth
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.ports import NoCache

T: Final = 1_704_067_200_000
"""2024-01-01T00:00Z, long closed."""
MINUTE_MS: Final = 60_000


def store_of(dump: Path) -> Store:
    """A store of its own over a dump, as another process would have."""
    return Store("files", FileTruth(dump), NoCache())


def candle(number: int, close: float = 1.0) -> dict[str, Any]:
    return {"timestamp": T + number * MINUTE_MS, "open": 1.0, "high": 2.0, "low": 0.5, "close": close, "volume": 3.0}


def series(store: Store) -> CandleInstance:
    return CandleInstance(store, "BTC", "1m", "okx")
