"""The identity that a database gives to whatever is cached of it: one document, `cache-identity`.

    deployment   made by whoever comes first
    partitions, mode, widest   what the strategies that were started last use, and the most partitions ever used
    openMs       how long a new incarnation of the cache stays closed at least: set by the first step
    collections  of the cached domains: names and UUIDs, which change when one is dropped or restored
    eras         in force: name, count, when it was last raised
    ended        the newest eras that were ended on purpose, and why
    restores     the newest times that revisions went back, with the last entries of the feed's streams of then
    restoring    which backup is being put in force, and since when; `restored` counts those that were
    peers        processes that raised an era in the last minutes, and their settings that must agree

All times are MongoDB's own (`$$NOW`). What the rules are is said in `coherence/eras.py`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import pymongo
from pymongo import ReturnDocument
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError, OperationFailure
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.mongo.flags import Flags
from backtest_kit_mongo.coherence.eras import REPLACED, RESTORED, Ended, Noted, Restored
from backtest_kit_mongo.connect import DURABLE
from backtest_kit_mongo.stored import CACHE_IDENTITY as COLLECTION

logger = locks.logger(__name__)

IDENTITY: Final = "identity"
IDLE_MS: Final = 10_000
"""An era that nobody has raised for so long, while somebody raised another one, is over: its Redis may miss writes."""
PEER_MS: Final = 180_000
"""A process that has not been heard of for so long has ended: it speaks each minute."""
PEERS_MAX: Final = 200
KEPT: Final = 100
"""Ended eras and restores that are remembered."""
UNAUTHORIZED: Final = 13
_OF_THE_DATABASE: Final = ("deployment", "partitions", "mode", "widest", "openMs", "restores")
_EVER: Final = 2**53
"""No era counts so far."""

Document = dict[str, Any]


class Start(NamedTuple):
    """The settings of a process that is being started: they are in force from then on.

    Attributes:
        lease_ms, version: the others that all processes should share; `bkm doctor` compares them.
        who: host and process; empty for one that does not say.
    """

    partitions: int
    mode: str
    lease_ms: int = 0
    version: str = ""
    who: str = ""


class IdentityDocument:
    """Thread-safe.

    Args:
        database: called late, because stores connect on first use.
        collections: of the domains whose documents are cached.
        timeout_s: bound on each operation.
    """

    def __init__(
        self, database: Callable[[], Database[Document]], collections: Sequence[str], timeout_s: float
    ) -> None:
        self._get_database = database
        self._names = sorted(collections)
        self._timeout_s = timeout_s
        self.flags = Flags(database, timeout_s)
        self._may_list = True
        self._saw_all = False

    @property
    def collection(self) -> Collection[Document]:
        # Whatever the connection string says: an era that a failover takes back would be a restore.
        return self._get_database().get_collection(
            COLLECTION,
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("local"),
            write_concern=DURABLE,
        )

    def read(self) -> Document:
        """The document as it is; empty before the first opening."""
        with pymongo.timeout(self._timeout_s):
            return self.collection.find_one({"_id": IDENTITY}) or {}

    def note(self, settings: Start, reported: Mapping[str, int] | None = None, *, starting: bool = False) -> Noted:
        """Raise the counts of eras, where they are in force.

        Args:
            reported: those eras, and how far their Redis was told that they had counted. One that has not counted
            so far is of a database that was set back, and is not raised: whoever finds that out may die, or time out,
            before another era has begun, and after some such attempts its count would be what it was.
            settings: put in force if `starting`, which ends all eras if they differ from those that are.

        Raises:
            PyMongoError: unknown whether it was done; raising once more does no harm.
        """
        with pymongo.timeout(self._timeout_s):
            found = self._update(_noting(settings, reported or {}, self._listed(), starting=starting))
        return Noted(
            str(found["deployment"]), int(found["partitions"]), str(found["mode"]), int(found["widest"]),
            {era["era"]: int(era["count"]) for era in found["eras"]},
            {era["era"]: Ended(str(era["why"]), int(era.get("counted", 0))) for era in found["ended"]},
            int(found.get("openMs", 0)),
        )  # fmt: skip

    def begin(
        self, era: str, over: Sequence[str], restored: Mapping[str, Restored], who: str, ends: Mapping[str, str]
    ) -> None:
        """Put another era in force instead of those that are over. `ends`: the last entries of the feed's streams."""
        streams = _places(ends)
        restores = [
            {"over": name, "next": era, "told": found.noted_count, "why": found.why, "by": who, "streams": streams}
            for name, found in restored.items()
        ]
        with pymongo.timeout(self._timeout_s):
            self._update(_beginning(era, sorted(over), restores))

    def report(self, over: str, era: str, who: str, ends: Mapping[str, str]) -> None:
        """A process that goes on was in an era of a database that is gone: this one was made, or restored, in its
        place.
        """
        found = {"over": over, "next": era, "told": 0, "why": REPLACED, "by": who, "streams": _places(ends)}
        with pymongo.timeout(self._timeout_s):
            self._update([{"$set": {"restores": _kept("restores", _unknown([found]))}}])

    def end_all(self, why: str) -> None:
        """End every era: whatever any Redis holds of this database is worthless."""
        with pymongo.timeout(self._timeout_s):
            self._update([{"$set": {"ended": _kept("ended", _ended(_all("eras"), why)), "eras": []}}])

    def stretch(self, open_ms: int) -> None:
        """From now on new incarnations stay closed so long at least. All eras end, so whoever uses the cache knows
        it.
        """
        ended = {"ended": _kept("ended", _ended(_all("eras"), "steps")), "eras": [], "openMs": open_ms}
        with pymongo.timeout(self._timeout_s):
            self.collection.find_one_and_update(
                {"_id": IDENTITY, "openMs": {"$not": {"$gte": open_ms}}}, [{"$set": ended}]
            )

    def place(self, over: Sequence[str], streams: Mapping[str, str]) -> None:
        """Keep where the streams stood when the era after a restore was claimed, beside where they stood before."""
        with pymongo.timeout(self._timeout_s):
            self.collection.update_one(
                {"_id": IDENTITY},
                {"$push": {"restores.$[of].streams": {"$each": _places(streams)}}},
                array_filters=[{"of.over": {"$in": list(over)}}],
            )

    def unrecorded(self) -> list[Document]:
        """Restores that no worker has recorded."""
        return [found for found in self.read().get("restores", ()) if not found.get("recorded")]

    def record(self, over: str) -> None:
        """A worker has recorded it."""
        with pymongo.timeout(self._timeout_s):
            self.collection.update_one(
                {"_id": IDENTITY}, {"$set": {"restores.$[of].recorded": True}}, array_filters=[{"of.over": over}]
            )

    def begin_restore(self, stored: Mapping[str, Any], backup: str) -> None:
        """A backup is being put in force. A database without an identity takes over the stored one, so that a Redis of
        then is known as its own; the eras of then are over.
        """
        eras = [{"era": one["era"], "why": RESTORED, "counted": _EVER} for one in stored.get("eras", ())]
        first = {name: stored[name] for name in _OF_THE_DATABASE if name in stored}
        if first:
            first |= {"eras": [], "ended": [*stored.get("ended", ()), *eras][-KEPT:]}
        with pymongo.timeout(self._timeout_s):
            self.collection.update_one({"_id": IDENTITY}, {"$setOnInsert": first or {"eras": []}}, upsert=True)
            self._update([{"$set": {"restoring": {"$ifNull": ["$restoring", {"backup": backup, "at": "$$NOW"}]}}}])

    def end_restore(self, backup: str, taken_at: datetime, era: str, who: str, ends: Mapping[str, str]) -> None:
        """It is in force: a worker records it. What others reported of it meanwhile is the same restore."""
        found = {
            "over": secrets.token_hex(8), "next": era, "told": 0, "why": RESTORED, "by": who,
            "streams": _places(ends), "backup": backup, "takenAt": taken_at,
        }  # fmt: skip
        is_before = {"$or": ["$$this.recorded", {"$lt": ["$$this.at", "$restoring.at"]}]}
        mine = [{"$mergeObjects": [{"$literal": found}, {"at": "$$NOW"}]}]
        earlier = _filter(_all("restores"), is_before)
        listed = self._listed()
        done: Document = {
            "restores": {"$slice": [{"$concatArrays": [earlier, mine]}, -KEPT]},
            "restored": {"$add": [{"$ifNull": ["$restored", 0]}, 1]},
        }
        with pymongo.timeout(self._timeout_s):
            if listed is not None:
                done["collections"] = {"$literal": listed}
            self._update([{"$set": done}, {"$unset": "restoring"}])

    def _update(self, pipeline: list[Document]) -> Document:
        for _ in range(2):
            try:
                found: Document | None = self.collection.find_one_and_update(
                    {"_id": IDENTITY}, pipeline, upsert=True, return_document=ReturnDocument.AFTER
                )
                assert found is not None  # An upsert that returns the document after it always has one.
                return found
            except DuplicateKeyError:
                continue  # Two were first; now there is one.
        raise AssertionError("an upsert by _id collides once at most")

    def _listed(self) -> list[Document] | None:
        """Names and UUIDs of the cached domains' collections; None if this user may not know."""
        if not self._may_list:
            return None
        try:
            cursor = self._get_database().list_collections(filter={"name": {"$in": self._names}})
            listed = [{"name": found["name"], "uuid": found["info"]["uuid"].hex()} for found in cursor]
        except (OperationFailure, KeyError) as cause:
            if isinstance(cause, OperationFailure) and cause.code != UNAUTHORIZED:
                raise
            self._may_list = False
            logger.warning("collections cannot be listed (%s): one that is dropped or replaced is not noticed", cause)
            return None
        # Who has never seen them all may see them being made.
        self._saw_all = self._saw_all or len(listed) == len(self._names)
        return listed if self._saw_all else None


def _places(ends: Mapping[str, str]) -> list[Document]:
    return [{"name": name, "last": last} for name, last in ends.items()]


def _all(field: str) -> Document:
    return {"$ifNull": [f"${field}", []]}


def _filter(items: Any, condition: Any) -> Document:
    return {"$filter": {"input": items, "cond": condition}}


def _ended(eras: Any, why: Any) -> Document:
    return {"$map": {"input": eras, "in": {"era": "$$this.era", "why": why, "counted": "$$this.count", "at": "$$NOW"}}}


def _kept(field: str, more: Any) -> Document:
    return {"$slice": [{"$concatArrays": [_all(field), more]}, -KEPT]}


def _noting(
    settings: Start, reported: Mapping[str, int], listed: Sequence[Document] | None, *, starting: bool
) -> list[Document]:
    mine: Document = {"partitions": settings.partitions, "mode": {"$literal": settings.mode}}
    first: Document = {
        "deployment": {"$ifNull": ["$deployment", secrets.token_hex(8)]},
        **{name: {"$ifNull": [f"${name}", value]} for name, value in mine.items()},
        "eras": _all("eras"),
        "restores": _all("restores"),
    }
    is_named = {"$in": ["$$this.era", {"$literal": sorted(reported)}]}
    has_counted = [
        {"$and": [{"$eq": ["$$this.era", {"$literal": era}]}, {"$gte": ["$$this.count", count]}]}
        for era, count in sorted(reported.items())
    ]
    is_raised = {"$or": has_counted}
    raised = {"era": "$$this.era", "count": {"$add": ["$$this.count", 1]}, "at": "$$NOW"}
    left = _filter("$eras", {"$not": [{"$in": ["$$this.era", "$over.era"]}]})
    return [
        {"$set": {**first, **_compared(listed)}},
        {"$set": {"why": _why(mine, starting=starting)}},
        {"$set": {"over": {"$cond": [{"$ne": ["$why", "idle"]}, "$eras", _idle(is_named) if reported else []]}}},
        {
            "$set": {
                "ended": _kept("ended", _ended("$over", "$why")),
                "eras": {"$map": {"input": left, "in": {"$cond": [is_raised, raised, "$$this"]}}},
                **(mine if starting else {}),
                "widest": {"$max": ["$widest", "$partitions", *([settings.partitions] if starting else [])]},
            }
        },
        *([{"$set": {"peers": _peers(settings)}}] if settings.who else []),
        {"$unset": ["why", "over", "replaced"]},
    ]


def _peers(settings: Start) -> Document:
    me = {"$literal": settings._asdict()}
    is_other = {"$ne": ["$$this.who", {"$literal": settings.who}]}
    is_heard = {"$gt": ["$$this.at", {"$subtract": ["$$NOW", PEER_MS]}]}
    others = _filter(_all("peers"), {"$and": [is_other, is_heard]})
    return {"$slice": [{"$concatArrays": [others, [{"$mergeObjects": [me, {"at": "$$NOW"}]}]]}, -PEERS_MAX]}


def _why(mine: Document, *, starting: bool) -> Document:
    """Why all eras end now; `idle`: they do not, only those that nobody raises."""
    differs: Document = {"$or": [{"$ne": [f"${name}", value]} for name, value in mine.items()]}
    branches: list[Document] = [
        {"case": "$replaced", "then": REPLACED},
        {"case": {"$and": [starting, differs]}, "then": "settings"},
    ]
    return {"$switch": {"branches": branches, "default": "idle"}}


def _idle(is_named: Document) -> Document:
    is_old = {"$lt": ["$$this.at", {"$subtract": ["$$NOW", IDLE_MS]}]}
    return _filter("$eras", {"$and": [{"$not": [is_named]}, is_old]})


def _compared(listed: Sequence[Document] | None) -> Document:
    """Whether collections that were there before are other ones now or gone, and those to compare with next time."""
    if listed is None:
        return {"replaced": False, "collections": _all("collections")}
    now = {"$literal": list(listed)}
    return {"replaced": {"$not": [{"$setIsSubset": [_all("collections"), now]}]}, "collections": now}


def _beginning(era: str, over: Sequence[str], restores: Sequence[Document]) -> list[Document]:
    is_over = {"$in": ["$$this.era", {"$literal": list(over)}]}
    return [
        {
            "$set": {
                "ended": _kept("ended", _ended(_filter(_all("eras"), is_over), "replaced")),
                "eras": {
                    "$concatArrays": [
                        _filter(_all("eras"), {"$not": [is_over]}),
                        [{"era": {"$literal": era}, "count": 1, "at": "$$NOW"}],
                    ]
                },
                "restores": _kept("restores", _unknown(restores)),
            }
        }
    ]


def _unknown(restores: Sequence[Document]) -> Document:
    """Those that are not in the document yet: several processes notice one restore."""
    known = {"$in": ["$$this.over", {"$map": {"input": _all("restores"), "in": "$$this.over"}}]}
    return {
        "$map": {
            "input": _filter({"$literal": list(restores)}, {"$not": [known]}),
            "in": {"$mergeObjects": ["$$this", {"at": "$$NOW"}]},
        }
    }
