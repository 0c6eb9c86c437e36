"""Flags of clients that write past a Redis that they cannot reach: one document beside `cache-identity`'s own, so that
a look can be linearizable. The rules are in `coherence/bypass.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pymongo
from pymongo import ReturnDocument
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference

from backtest_kit_mongo.backends.mongo.concerns import read_concerns
from backtest_kit_mongo.coherence.bypass import Flag
from backtest_kit_mongo.connect import DURABLE
from backtest_kit_mongo.stored import CACHE_IDENTITY as COLLECTION

FLAGS: Final = "flags"
LOOK_S: Final = 0.25
"""What a look may take at least. One that takes longer than D opens nothing."""
Document = dict[str, Any]


class Flags:
    """Thread-safe. Errors are pymongo's.

    Args:
        database: called late.
        timeout_s: bound on each operation but the look, which has its own.
    """

    def __init__(self, database: Callable[[], Database[Document]], timeout_s: float) -> None:
        self._database = database
        self._timeout_s = timeout_s
        self._concern: ReadConcern | None = None

    @property
    def _collection(self) -> Collection[Document]:
        return self._database().get_collection(
            COLLECTION, read_preference=ReadPreference.PRIMARY, write_concern=DURABLE
        )

    def look(self, timeout_s: float = LOOK_S) -> list[Flag]:
        """All flags that were acknowledged before this was called."""
        with pymongo.timeout(timeout_s):
            if self._concern is None:
                # A primary that was deposed a moment ago would not know of a flag that its successor has.
                self._concern = read_concerns(self._database().client.admin.command("hello"), DURABLE)[1]
            found = self._collection.with_options(read_concern=self._concern).find_one({"_id": FLAGS}) or {}
        return [
            Flag(str(one["owner"]), str(one["scope"]), int(one["beat"]), int(one["rest_ms"]))
            for one in found.get("flags", ())
        ]

    def hold(self, owner: str, scope: str, rest_ms: int) -> bool:
        """Raise a flag, or its beat; acknowledged by a majority. Whether it was there before."""
        mine = {"$and": [{"$eq": ["$$this.owner", owner]}, {"$eq": ["$$this.scope", scope]}]}
        flags: Document = {"$ifNull": ["$flags", []]}
        others = {"$filter": {"input": flags, "cond": {"$not": [mine]}}}
        raised = [{"owner": owner, "scope": scope, "beat": "$beats", "rest_ms": rest_ms}]
        # Of all flags, so that no flag that comes again has a beat that somebody has seen rest.
        beats = {"$add": [{"$ifNull": ["$beats", 0]}, 1]}
        before = self._update([{"$set": {"beats": beats}}, {"$set": {"flags": {"$concatArrays": [others, raised]}}}])
        return any((one["owner"], one["scope"]) == (owner, scope) for one in before.get("flags", ()))

    def lower(self, flag: Flag, *, any_beat: bool = False) -> None:
        """Take a flag away, if nobody has raised it since."""
        found: Document = {"owner": flag.owner, "scope": flag.scope} | ({} if any_beat else {"beat": flag.beat})
        with pymongo.timeout(self._timeout_s):
            self._collection.update_one({"_id": FLAGS}, {"$pull": {"flags": found}})

    def _update(self, pipeline: list[Document]) -> Document:
        with pymongo.timeout(self._timeout_s):
            for _ in range(2):
                try:
                    return (
                        self._collection.find_one_and_update(
                            {"_id": FLAGS}, pipeline, upsert=True, return_document=ReturnDocument.BEFORE
                        )
                        or {}
                    )
                except DuplicateKeyError:
                    continue  # Two were first; now there is one.
        raise AssertionError("an upsert by _id collides once at most")
