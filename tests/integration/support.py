"""What the integration tests share: stores over the tests' own servers, and a way to wait without sleeping blindly."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.settings import Settings, load
from backtest_kit_mongo.setup import make_store

LEASE_MS = 1_500
"""Short, so that a test can wait for a new Redis to open."""


def settings_for(endpoints: Endpoints, database: str, **more: Any) -> Settings:
    values: dict[str, Any] = {
        "mongo_connection_string": endpoints.mongo_connection_string(database),
        "redis_host": endpoints.redis_host,
        "redis_port": endpoints.redis_port,
        "lease_ms": LEASE_MS,
        "redis_retry_ms": 1,
        "near_cache": "",
    }
    return load(**{**values, **more})


@contextmanager
def store_for(endpoints: Endpoints, database: str, **more: Any) -> Iterator[Store]:
    store = make_store(settings_for(endpoints, database, **more))
    try:
        yield store
    finally:
        store.close()


def eventually(holds: Callable[[], object], within_s: float = 15) -> None:
    """Wait until `holds()` is true; fail when it is not within the bound."""
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, f"did not come true within {within_s} s"
        time.sleep(0.01)
