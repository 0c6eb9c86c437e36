"""Clocks of this host, MongoDB and Redis. No rule of the protocol compares two of them; people and consumers do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from backtest_kit_mongo.feed.consume.membership import CLOCKS_MS
from backtest_kit_mongo.feed.opened import FeedServers
from backtest_kit_mongo.operate.doctor.findings import Finding, Level, duration
from backtest_kit_mongo.operate.doctor.timing import Skew, skew

NOTICED_MS: Final = 1_000
ASKED_COUNT: Final = 5


def mongo_clock(servers: FeedServers) -> Iterator[Finding]:
    """MongoDB's clock against this host's. (`hello` tells it to every user; serverStatus does not.)"""

    def ask_ms() -> float:
        return float(servers.database.client.admin.command("hello")["localTime"].timestamp() * 1000)

    yield judge("MongoDB", skew(ask_ms, ASKED_COUNT))


def redis_clock(servers: FeedServers) -> Iterator[Finding]:
    """Redis' clock, which leases and entry ids are made of, against this host's."""
    asked: Any = servers.redis

    def ask_ms() -> float:
        seconds, microseconds = asked.time()
        return float(seconds * 1000 + microseconds / 1000)

    yield judge("Redis", skew(ask_ms, ASKED_COUNT))


def judge(server: str, found: Skew) -> Finding:
    """What a difference of clocks means."""
    name = f"clock.{server.lower()}"
    way = "ahead of" if found.ahead_ms > 0 else "behind"
    seen = f"{duration(abs(found.ahead_ms))} {way} this host (±{duration(found.margin_ms)})"
    if found.certain_ms > CLOCKS_MS:
        return Finding(
            name,
            Level.ERROR,
            f"{seen}: a consumer that starts at a time may miss changes, and lags are shown wrong",
            _SYNC,
        )
    if found.certain_ms > NOTICED_MS:
        return Finding(name, Level.WARNING, f"{seen}: times in the audit log do not fit together", _SYNC)
    return Finding(name, Level.OK, seen)


_SYNC: Final = "synchronise the clocks (chrony or systemd-timesyncd) on the hosts of all servers and clients"
