"""Both servers of a deployment, as whoever looks at it from outside uses them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis
from pymongo import MongoClient
from pymongo.database import Database

from backtest_kit_mongo.coherence.keys import streams
from backtest_kit_mongo.feed.dead_letters import DeadLetters
from backtest_kit_mongo.settings import Settings
from backtest_kit_mongo.setup import redis_client


@dataclass(frozen=True, slots=True)
class FeedServers:
    """Both servers and the feed's streams.

    Attributes:
        redis: never retries by itself.
    """

    settings: Settings
    database: Database[dict[str, Any]]
    redis: redis.Redis

    @property
    def streams(self) -> tuple[str, ...]:
        """The feed's streams, one per partition."""
        return streams(self.settings.database, self.settings.partitions)

    @property
    def parked(self) -> DeadLetters:
        return DeadLetters(self.database, self.redis, self.streams)


@contextmanager
def open_servers(settings: Settings) -> Iterator[FeedServers]:
    """Clients of both servers, closed at the end. They connect on first use; each operation on MongoDB is bounded."""
    uri = settings.mongo_connection_string.get_secret_value()
    with (
        MongoClient[dict[str, Any]](
            uri, tz_aware=True, timeoutMS=settings.mongo_bound_ms, appname="backtest-kit-mongo cli"
        ) as mongo,
        redis_client(settings) as client,
    ):
        yield FeedServers(settings, mongo[settings.database], client)
