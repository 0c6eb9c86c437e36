"""What the cache needs to know of the settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from backtest_kit_mongo.coherence.events import Origin


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """Times are milliseconds.

    Attributes:
        trace: the trace that the write at hand belongs to, as a W3C `traceparent`; empty for none.
    """

    database: str
    partitions: int
    lease_ms: int
    write_ms: int
    ttl_ms: int
    retry_ms: int
    bypass: bool
    origin: Origin
    trace: Callable[[], str] = str
