"""Whoever may write MongoDB and append to the feed, and writes what no client does."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import bson
import pymongo
import redis
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from pymongo.write_concern import WriteConcern

from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_verify.chaos.odd import forged, odd_document, odd_entries
from backtest_kit_verify.chaos.workload import DOMAINS, LIST, payload_of

__all__ = ["FORGED", "NUMBER", "Forged", "Strangers"]

FORGED: Final = "forged."
"""Begins the mark of what a forged event tells."""
AHEAD_MAX: Final = 40
"""So many revisions ahead is a forged event at most; every other one is of the next."""
NUMBER: Final = b"n"
"""Field of an odd entry that tells it from all others."""
HUGE_BYTES: Final = 2 * 2**20
HUGE_SHARE: Final = 0.05
NOBODYS_SHARE: Final = 0.1
FAR_AHEAD: Final = ("9999999999999-0", f"{2**64 - 1}-0", f"{2**64 - 1}-{2**64 - 1}")
"""Ids of entries: after the first all that Redis makes are of the year 2286, after the last it makes none."""
TIMEOUT_S: Final = 1.0


class Forged(NamedTuple):
    """A revision that an event informed of and no writer made, or not so."""

    domain: str
    document: str
    rev: int


@dataclass
class Strangers:
    """What they did.

    Args:
        keys: documents that events are forged of.

    Attributes:
        forged: revisions.
        entries: when those were appended that are no events (CLOCK_MONOTONIC ns), by the number that each carries.
    """

    client: MongoClient[Any]
    redis: Any
    database: str
    streams: Sequence[str]
    keys: Sequence[Key]
    forged: set[Forged] = field(default_factory=set)
    entries: dict[int, int] = field(default_factory=dict)
    _count: int = 0
    _odd_entries: Sequence[dict[bytes, bytes]] = field(default_factory=lambda: tuple(odd_entries()))

    def insert_odd(self, rng: random.Random) -> bool:
        """A document that no client wrote, under a key of its own."""
        self._count += 1
        domain = rng.choice((*DOMAINS, LIST))
        odd = RawBSONDocument(bson.encode(odd_document(domain, self._count, rng.choice)))
        concern = WriteConcern("majority", j=True)
        try:
            with pymongo.timeout(TIMEOUT_S):
                database = self.client[self.database]
                database.get_collection(collection_of(domain), write_concern=concern).insert_one(odd)
        except (PyMongoError, BSONError):
            # MongoDB is away, or has the name, which may be one that the driver cannot read. What was stored all the
            # same is found at the end.
            return False
        return True

    def forge(self, rng: random.Random) -> bool:
        """An event of a coming revision of a document, with another payload; or of a document that there is not."""
        self._count += 1
        key = rng.choice(self.keys)
        if rng.random() < NOBODYS_SHARE:
            return self._forge(rng, key, f"nobody{self._count}", rng.choice((1, 10**9)))
        try:
            with pymongo.timeout(TIMEOUT_S):
                found = self.client[self.database][collection_of(key.domain)].find_one(key.query(), {"rev": 1})
        except PyMongoError:
            return False
        if found is None:
            return False
        rev = int(found["rev"]) + (1 if rng.random() < 0.5 else rng.randrange(AHEAD_MAX))
        return self._forge(rng, key, str(found["_id"]), rev)

    def _forge(self, rng: random.Random, key: Key, document: str, rev: int) -> bool:
        filler = {"filler": "x" * HUGE_BYTES} if rng.random() < HUGE_SHARE else {}
        payload = payload_of(key, f"{FORGED}{self._count}", **filler)
        self.forged.add(Forged(key.domain.name, document, rev))  # Before: it may be executed without an answer.
        return self._append(rng, forged(key.domain.name, key.parts, document, rev, pack(payload)))

    def append_odd(self, rng: random.Random) -> bool:
        """An entry that is no event."""
        self._count += 1
        if not self._append(rng, {**rng.choice(self._odd_entries), NUMBER: b"%d" % self._count}):
            return False
        self.entries[self._count] = time.monotonic_ns()
        return True

    def append_ahead(self, rng: random.Random) -> bool:
        """An entry whose id is of another time."""
        return self._append(rng, {b"e": b"from the future"}, at=rng.choice(FAR_AHEAD))

    def _append(self, rng: random.Random, fields: dict[bytes, bytes], at: str = "*") -> bool:
        try:
            self.redis.xadd(rng.choice(self.streams), fields, id=at)
        except (redis.RedisError, OSError):
            return False
        return True

    def close(self) -> None:
        self.client.close()
