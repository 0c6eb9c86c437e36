"""Says at once, and for both servers, what cannot be reached, and what to do."""

from __future__ import annotations

import socket
from typing import Final

import pymongo
import redis
from pymongo.errors import ConnectionFailure, OperationFailure

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.mongo.documents import MongoTruth
from backtest_kit_mongo.backends.redis.link import UNREACHABLE
from backtest_kit_mongo.errors import ServerUnreachable
from backtest_kit_mongo.settings import Settings

logger = locks.logger(__name__)

WAYS_OUT: Final = (
    "Two ways out: `bkm up` starts private servers on this machine and prints the settings for them (or call "
    "setup(embedded=True)); `docker compose up -d --wait` starts the ones of the compose file. Otherwise check "
    "CC_MONGO_CONNECTION_STRING, CC_REDIS_HOST and "
    "CC_REDIS_PORT."
)
ASK_MS: Final = 5_000
UNRESOLVED: Final = tuple(
    f"[Errno {getattr(socket, name)}]"
    for name in ("EAI_NONAME", "EAI_AGAIN", "EAI_NODATA", "EAI_FAIL")
    if hasattr(socket, name)
)


def require_servers(settings: Settings, mongo: MongoTruth, client: redis.Redis) -> None:
    """Ask both servers; the Redis client is closed.

    Raises:
        ServerUnreachable: MongoDB, or Redis under CC_ON_REDIS_DOWN=fail. Otherwise a missing Redis is only reported: a
            bot that restarts while the cache is away must come up.
    """
    missing = [said] if (said := _missing_mongo(settings, mongo)) else []
    redis_missing = ""
    try:
        client.ping()
    except (*UNREACHABLE, redis.ResponseError) as cause:
        redis_missing = f"Redis at {settings.redis_address} did not answer: {cause}."
    finally:
        client.close()
    if redis_missing and (missing or settings.on_redis_down == "fail"):
        missing.append(redis_missing)
    if missing:
        raise ServerUnreachable(f"{' '.join(missing)} Nothing was written. {WAYS_OUT}")
    if redis_missing:
        logger.error(
            "%s Going on without the cache, slower but never wrong; change events are kept for later. %s",
            redis_missing,
            WAYS_OUT,
        )


def _missing_mongo(settings: Settings, mongo: MongoTruth) -> str:
    """What is wrong with MongoDB; empty if it answers."""
    bound_ms = min(settings.mongo_bound_ms, ASK_MS)
    where = f"MongoDB at {settings.mongo_address}"
    try:
        with pymongo.timeout(bound_ms / 1000):
            mongo.client.admin.command("ping")
    except ServerUnreachable as cause:
        return f"{cause}."
    except ConnectionFailure as cause:
        if any(sign in str(cause) for sign in UNRESOLVED):
            return f"{where}: a name could not be resolved (DNS)."
        return f"{where} did not answer within {bound_ms} ms."
    except OperationFailure as cause:
        return f"{where} refused: {(cause.details or {}).get('errmsg', 'unauthorized')}."
    return ""
