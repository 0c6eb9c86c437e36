"""Change events of a user's own collections: a stream of Redis for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import bson
import redis

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.mongo.decoding import decoded
from backtest_kit_mongo.coherence.keys import own_stream

logger = locks.logger(__name__)

KEPT: Final = 100_000
"""Entries of a stream, about."""


@dataclass(frozen=True, slots=True)
class Change:
    """One write.

    Attributes:
        position: where it stands in the stream; the next call of `changes` takes that of the last one.
        operation: `upsert`, `remove` (soft) or `delete`.
        row: the document after the write, for `delete` before it.
    """

    position: str
    operation: str
    row: dict[str, Any]


class Changes:
    """Of one collection."""

    def __init__(self, collection: str) -> None:
        self._collection = collection

    def _stream(self) -> str:
        from backtest_kit_mongo.setup import get_config

        return own_stream(get_config().database, self._collection)

    def publish(self, operation: str, row: dict[str, Any]) -> None:
        """Best effort: the write has happened, so what fails here is logged."""
        from backtest_kit_mongo.setup import get_redis

        body = bson.encode({name: value for name, value in row.items() if name != "id"})
        try:
            get_redis().xadd(self._stream(), {"op": operation, "row": body}, maxlen=KEPT, approximate=True)
        except redis.RedisError as cause:
            logger.warning("%s %s: its change event was not published: %s", self._collection, row["id"], cause)

    def after(self, position: str, limit: int) -> list[Change]:
        from backtest_kit_mongo.setup import get_redis

        found: Any = get_redis().xrange(self._stream(), f"({position}" if position else "-", "+", limit)
        return [_change(name.decode(), {**entry}) for name, entry in found]


def _change(position: str, entry: dict[bytes, bytes]) -> Change:
    row = decoded(entry[b"row"])
    return Change(position, entry[b"op"].decode(), {**row, "id": str(row["_id"])})
