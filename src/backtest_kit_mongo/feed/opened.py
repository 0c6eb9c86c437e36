"""Both servers of a deployment, as whoever looks at it from outside uses them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis
from pymongo.database import Database

from backtest_kit_mongo.coherence.keys import streams
from backtest_kit_mongo.feed.dead_letters import DeadLetters
from backtest_kit_mongo.servers import Servers
from backtest_kit_mongo.settings import Settings


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
    with Servers(settings, "backtest-kit-mongo cli", operation_ms=settings.mongo_bound_ms) as servers:
        yield FeedServers(settings, servers.database, servers.redis)
