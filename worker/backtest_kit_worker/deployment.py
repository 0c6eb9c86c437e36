"""What every role and service of one worker process works with: the settings, and one client for each server."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from typing import Any

import redis
from pymongo import MongoClient
from pymongo.database import Database

from backtest_kit_mongo.coherence.keys import streams
from backtest_kit_mongo.settings import Settings
from backtest_kit_mongo.setup import redis_client


@dataclass(frozen=True, slots=True)
class Deployment:
    """Clients are thread-safe and shared.

    Attributes:
        redis: never retries by itself: what was executed must be known.
        consumer: this process's name in consumer groups and leases; no other process, past or present, has it.
    """

    settings: Settings
    mongo: MongoClient[dict[str, Any]]
    redis: redis.Redis
    consumer: str

    @property
    def database(self) -> Database[dict[str, Any]]:
        return self.mongo[self.settings.database]

    @property
    def streams(self) -> tuple[str, ...]:
        """The feed's streams, one per partition."""
        return streams(self.settings.database, self.settings.partitions)

    def close(self) -> None:
        self.redis.close()
        self.mongo.close()


def connect(settings: Settings, *, block_ms: int = 0) -> Deployment:
    """Make the clients; they connect on first use.

    Args:
        block_ms: how long a blocking read of the feed may take beyond `redis_timeout_ms`.
    """
    uri = settings.mongo_connection_string.get_secret_value()
    patient = settings.model_copy(update={"redis_timeout_ms": settings.redis_timeout_ms + block_ms})
    return Deployment(
        settings,
        MongoClient(uri, tz_aware=True, appname="backtest-kit-worker"),
        redis_client(patient),
        # Containers share process ids, and with the host's network its name too.
        f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}",
    )
