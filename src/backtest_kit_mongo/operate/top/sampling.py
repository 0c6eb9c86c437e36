"""One look at both servers, for one frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pymongo
import redis
from pymongo.errors import PyMongoError

from backtest_kit_mongo.feed.dead_letters import count_open
from backtest_kit_mongo.feed.newest import newest
from backtest_kit_mongo.feed.opened import FeedServers
from backtest_kit_mongo.feed.positions import EntryId, StreamPosition, look
from backtest_kit_mongo.feed.workers import Consumer, ServiceLease, consumers, service_leases
from backtest_kit_mongo.operate.doctor.timing import Latency, latency
from backtest_kit_mongo.operate.top.rates import Rates, Recent, count, recent

WINDOW_MS: Final = 10_000
"""Rates are of so long."""
EVENTS_MAX: Final = 2_000
"""Events looked at in all streams together; when there are more, the rates are of a shorter time."""
PINGS_COUNT: Final = 3
MONGO_BOUND_S: Final = 2.0
"""A view that hangs shows nothing; Redis' client has its own bound."""


@dataclass(frozen=True, slots=True)
class RedisSample:
    """What Redis says.

    Attributes:
        hits, misses: of lookups of keys on the whole server since it started.
        key_count: keys on the whole server.
        groups, length: of the feed's streams.
    """

    ping: Latency
    hits: int
    misses: int
    key_count: int
    used_bytes: int
    streams: tuple[StreamPosition, ...]
    consumers: tuple[Consumer, ...]
    rates: Rates

    @property
    def length(self) -> int:
        return sum(position.length for position in self.streams)


@dataclass(frozen=True, slots=True)
class MongoSample:
    """What MongoDB says.

    Attributes:
        parked: entries that wait for an operator, by role.
    """

    ping: Latency
    parked: dict[str, int]
    leases: tuple[ServiceLease, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One look. A server that does not answer is None, and `trouble` has a line about it."""

    redis: RedisSample | None = None
    mongo: MongoSample | None = None
    trouble: tuple[str, ...] = field(default=())


def take(servers: FeedServers) -> Sample:
    """Ask both servers. Never fails; reads only."""
    trouble = []
    of_redis, of_mongo = None, None
    try:
        of_redis = _redis(servers)
    except (redis.RedisError, OSError) as cause:
        trouble.append(f"Redis at {servers.settings.redis_address}: {cause!s:.200}")
    try:
        with pymongo.timeout(MONGO_BOUND_S):
            of_mongo = _mongo(servers)
    except PyMongoError as cause:
        # Its text is a page long.
        trouble.append(f"MongoDB at {servers.settings.mongo_address}: {type(cause).__name__}")
    return Sample(of_redis, of_mongo, tuple(trouble))


def _redis(servers: FeedServers) -> RedisSample:
    asked: Any = servers.redis
    stats, memory = asked.info("stats"), asked.info("memory")
    found = (look(servers.redis, name) for name in servers.streams)
    positions = tuple(position for position in found if position is not None)
    groups = [group for position in positions for group in position.groups]
    return RedisSample(
        ping=latency(asked.ping, PINGS_COUNT),
        hits=stats["keyspace_hits"],
        misses=stats["keyspace_misses"],
        key_count=asked.dbsize(),
        used_bytes=memory["used_memory"],
        streams=positions,
        consumers=tuple(consumers(servers.redis, groups)),
        rates=count(_recent(servers, positions)),
    )


def _recent(servers: FeedServers, positions: Sequence[StreamPosition]) -> list[Recent]:
    count_max = max(1, EVENTS_MAX // max(1, len(positions)))
    found = []
    for position in positions:
        since = EntryId(max(0, position.now_ms - WINDOW_MS), 0)
        entries = [
            (entry.ms, event)
            for entry, event in newest(servers.redis, position.stream, count_max=count_max, since=since)
        ]
        found.append(recent(entries, now_ms=position.now_ms, window_ms=WINDOW_MS, count_max=count_max))
    return found


def _mongo(servers: FeedServers) -> MongoSample:
    database = servers.database
    ping = latency(lambda: database.client.admin.command("ping"), PINGS_COUNT)
    return MongoSample(ping, count_open(database), tuple(service_leases(database)))
