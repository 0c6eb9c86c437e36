"""What `bkm park` and `bkm stream` share: connections to both servers, and errors as messages."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis
import typer
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import PyMongoError
from rich.console import Console
from rich.markup import escape

from backtest_kit_mongo.coherence.keys import streams
from backtest_kit_mongo.errors import BacktestKitError
from backtest_kit_mongo.feed.parked import ParkedItems
from backtest_kit_mongo.settings import load
from backtest_kit_mongo.setup import redis_client, resolve

from .servers import ExitCode

__all__ = ["FeedServers", "connected"]


@dataclass(frozen=True, slots=True)
class FeedServers:
    """Both servers and the feed's streams."""

    database: Database[dict[str, Any]]
    redis: redis.Redis
    streams: tuple[str, ...]

    @property
    def parked(self) -> ParkedItems:
        return ParkedItems(self.database, self.redis, self.streams)


@contextmanager
def connected() -> Iterator[FeedServers]:
    """Servers as the CC_ variables name them. Any failure becomes a message and exit status 1."""
    try:
        settings = resolve(load())
        with (
            MongoClient[dict[str, Any]](
                settings.mongo_connection_string.get_secret_value(),
                tz_aware=True,
                timeoutMS=settings.mongo_bound_ms,
            ) as mongo,
            redis_client(settings) as client,
        ):
            yield FeedServers(mongo[settings.database], client, streams(settings.database, settings.partitions))
    except (BacktestKitError, redis.RedisError, PyMongoError) as error:
        Console(stderr=True).print(f"[red]Error:[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(ExitCode.FAILED) from error
