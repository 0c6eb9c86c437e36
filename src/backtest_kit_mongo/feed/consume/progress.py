"""How far a group is, in MongoDB: what Redis may lose, and what is not in Redis at all.

One document per group in `feed-groups`. `replay` is what is still to be read from the audit log; None most of the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pymongo
from pymongo import ReturnDocument
from pymongo.database import Database
from pymongo.read_concern import ReadConcern

from backtest_kit_mongo.backends.mongo.errors import reading, writing
from backtest_kit_mongo.connect import DURABLE
from backtest_kit_mongo.feed.consume.groups import Span, order
from backtest_kit_mongo.stored import FEED_GROUPS as COLLECTION

Position = tuple[datetime, str, int]
"""A record's place in the order of a replay: writtenAt, documentId, rev."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be read from the audit log.

    Attributes:
        after: every record up to here has been acknowledged.
        left: `_id`s of the records that have not been, once all have been read; None until then.
    """

    spans: tuple[Span, ...]
    after: Position | None = None
    left: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class State:
    """A group's document.

    Attributes:
        since: the group is not interested in what was written before.
        created: its groups in Redis were made once; if they are missing, Redis lost them.
        positions: where they were made.
        reached_ms: everything older was acknowledged, in Redis' time.
    """

    since: datetime | None
    created: bool
    positions: Mapping[str, str]
    reached_ms: int
    job: Job | None


class Progress:
    """The document of one group. Every method is one atomic operation.

    Raises (all methods): ServerUnreachable, ReadFailed, WriteRefused, WriteOutcomeUnknown; repeating is safe.
    """

    def __init__(self, database: Database[dict[str, Any]], group: str, holder: str, timeout_ms: int) -> None:
        self._groups = database.get_collection(COLLECTION, write_concern=DURABLE, read_concern=ReadConcern("local"))
        self._group = group
        self._holder = holder
        self._timeout_s = timeout_ms / 1000

    def load(self) -> State | None:
        with reading(self._what), pymongo.timeout(self._timeout_s):
            found = self._groups.find_one({"_id": self._group})
        return None if found is None else _state(found)

    @property
    def _what(self) -> str:
        return f"the progress of group {self._group!r}"

    def begin(self, state: State) -> State:
        """Store a new group's state, unless another process was faster; returns what is stored."""
        fresh = {
            "since": state.since,
            "created": False,
            "positions": [list(item) for item in state.positions.items()],
            "reachedMs": state.reached_ms,
            "replay": None if state.job is None else _document(state.job),
            "createDate": datetime.now(UTC),
        }
        with writing(self._what), pymongo.timeout(self._timeout_s):
            stored = self._groups.find_one_and_update(
                {"_id": self._group}, {"$setOnInsert": fresh}, upsert=True, return_document=ReturnDocument.AFTER
            )
        assert stored is not None  # An upsert that returns the document after it always has one.
        return _state(stored)

    def made(self) -> None:
        """The groups exist in Redis."""
        self._set({"created": True})

    def request_replay(self, spans: Iterable[Span]) -> None:
        """Ask for a replay of more; what an unfinished one had not delivered is part of it."""
        state = self.load()
        merged = {span.stream: span for span in spans}
        for held in state.job.spans if state is not None and state.job is not None else ():
            other = merged.setdefault(held.stream, held)
            merged[held.stream] = Span(held.stream, min(held.lower, other.lower, key=order), other.position)
        self._set({"replay": _document(Job(tuple(merged.values())))})

    def hold(self, lease_ms: int) -> bool:
        """Be the one process that replays, for `lease_ms` from now in MongoDB's time. Again: go on being it.

        False if another process is, or if there is nothing to replay.
        """
        free = {"$or": [{"$eq": ["$holder", self._holder]}, {"$lt": [{"$ifNull": ["$heldUntil", None]}, "$$NOW"]}]}
        until = {"$add": ["$$NOW", lease_ms]}
        with writing(self._what), pymongo.timeout(self._timeout_s):
            answer = self._groups.update_one(
                {"_id": self._group, "replay": {"$ne": None}, "$expr": free},
                [{"$set": {"holder": self._holder, "heldUntil": until}}],
            )
        return answer.matched_count == 1

    def release(self) -> None:
        """Let another process go on with the replay at once."""
        self._set({"holder": None, "heldUntil": None}, {"holder": self._holder})

    def save(self, job: Job) -> bool:
        """Store how far the replay is (with nothing left: that it is over).

        False if another process has taken it over, or asked for another one.
        """
        document = _document(job)
        mine = {"holder": self._holder, "replay.spans": document["spans"]}
        if job.left == ():
            return self._set({"replay": None, "holder": None, "heldUntil": None}, mine)
        return self._set({"replay": document}, mine)

    def reached(self, reached_ms: int) -> None:
        with writing(self._what), pymongo.timeout(self._timeout_s):
            self._groups.update_one({"_id": self._group}, {"$max": {"reachedMs": reached_ms}})

    def forget(self) -> bool:
        with writing(self._what), pymongo.timeout(self._timeout_s):
            return self._groups.delete_one({"_id": self._group}).deleted_count == 1

    def _set(self, change: Mapping[str, Any], condition: Mapping[str, Any] | None = None) -> bool:
        with writing(self._what), pymongo.timeout(self._timeout_s):
            answer = self._groups.update_one({"_id": self._group, **(condition or {})}, {"$set": change})
        return answer.matched_count == 1


def _state(document: Mapping[str, Any]) -> State:
    replay = document["replay"]
    job = None
    if replay is not None:
        after, left = replay["after"], replay["left"]
        job = Job(
            tuple(Span(*span) for span in replay["spans"]),
            None if after is None else (after[0], after[1], int(after[2])),
            None if left is None else tuple(left),
        )
    return State(document["since"], document["created"], dict(document["positions"]), int(document["reachedMs"]), job)


def _document(job: Job) -> dict[str, Any]:
    return {
        "spans": [list(span) for span in job.spans],
        "after": None if job.after is None else list(job.after),
        "left": None if job.left is None else list(job.left),
    }
