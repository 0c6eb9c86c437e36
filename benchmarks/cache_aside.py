"""What the protocol is compared with: the cache-aside that most programs have, in its two usual forms, on bare drivers.

Read: GET; on a miss find_one, then SET with a TTL. Write: find_one_and_update, then SET the new value, or DEL the
entry. It is as good as it can be without a protocol: one atomic write that counts revisions, the same write concern,
msgpack values.
"""

from __future__ import annotations

from typing import Any, Literal

import msgpack
import redis
from pymongo import MongoClient, ReturnDocument
from pymongo.write_concern import WriteConcern

TTL_S = 7 * 24 * 3_600
COLUMNS = ("symbol", "strategyName", "exchangeName")


class CacheAside:
    """Signals under keys of three parts. Thread-safe.

    Args:
        after_write: what a write does to the entry.
        with_event: append to a stream too, in the same packet as the SET.
    """

    def __init__(
        self,
        mongo: MongoClient[dict[str, Any]],
        client: redis.Redis,
        database: str,
        after_write: Literal["SET", "DEL"] = "SET",
        *,
        with_event: bool = False,
    ) -> None:
        majority = WriteConcern("majority", j=True)
        self._signals = mongo.get_database(database, write_concern=majority)["signal-items"]
        self._signals.create_index([(column, 1) for column in COLUMNS], unique=True)
        self._redis: Any = client
        self._database = database
        self._after_write = after_write
        self._with_event = with_event

    def _entry(self, parts: tuple[str, ...]) -> str:
        return f"aside:{self._database}:{':'.join(parts)}"

    def read(self, parts: tuple[str, ...]) -> tuple[int, Any]:
        """Revision and payload."""
        held = self._redis.get(self._entry(parts))
        if held is not None:
            rev, payload = msgpack.unpackb(held)
            return rev, payload
        rev, payload = self.truth(parts)
        self._redis.set(self._entry(parts), msgpack.packb((rev, payload)), ex=TTL_S)
        return rev, payload

    def truth(self, parts: tuple[str, ...]) -> tuple[int, Any]:
        """Revision and payload from MongoDB."""
        found = self._signals.find_one(dict(zip(COLUMNS, parts, strict=True)), {"rev": 1, "payload": 1})
        return (0, None) if found is None else (int(found["rev"]), found["payload"])

    def write(self, parts: tuple[str, ...], payload: Any) -> int:
        """The revision that the write made."""
        stored: Any = self._signals.find_one_and_update(
            dict(zip(COLUMNS, parts, strict=True)),
            {"$set": {"payload": payload}, "$inc": {"rev": 1}},
            projection={"rev": 1},
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        rev = int(stored["rev"])
        if self._after_write == "DEL":
            self._redis.delete(self._entry(parts))
            return rev
        body = msgpack.packb((rev, payload))
        if not self._with_event:
            self._redis.set(self._entry(parts), body, ex=TTL_S)
            return rev
        packet = self._redis.pipeline(transaction=False)
        packet.set(self._entry(parts), body, ex=TTL_S)
        packet.xadd(f"aside:{self._database}:stream", {"e": msgpack.packb((*parts, rev)), "p": body})
        packet.execute()
        return rev

    def evict(self, parts: tuple[str, ...]) -> None:
        """Delete the entry, as an eviction would."""
        self._redis.delete(self._entry(parts))
