"""Dead letters: what no role could apply, kept whole in `parked-items`, one row per (stream, role, entry).

A row's ways: parked -> replayed -> handled, or parked -> dropped. Replaying appends the entry to its stream again. All
groups see that, and all but the one it was parked for have handled the same change already: a change is known by
(document, revision), so they do nothing. That is simpler than a way of delivery for one group, and it cannot lose. Rows
that are handled or dropped lose their bytes but stay: trimming has to know that the original entry is accounted for.
Bytes that are too many for a document stand beside it, in GridFS under the row's id.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import bson
import redis
from bson.binary import Binary
from gridfs import GridFSBucket
from gridfs.errors import NoFile
from pymongo.database import Database

from backtest_kit_mongo.coherence.events import Event, UnknownEvent, decode
from backtest_kit_mongo.connect import DURABLE
from backtest_kit_mongo.errors import CallerError, NotFound
from backtest_kit_mongo.feed.positions import EntryId, text
from backtest_kit_mongo.stored import PARKED_ITEMS as COLLECTION

PARKED, REPLAYED, HANDLED, DROPPED = "parked", "replayed", "handled", "dropped"
LOG = "mongodb"
"""The `stream` of what was set aside from MongoDB's log instead: changes that recovery cannot understand."""
_OPEN = {"state": {"$nin": [HANDLED, DROPPED]}}


def letter_id(stream: str, role: str, entry: str) -> str:
    return f"{stream}/{role}/{entry}"


def whole() -> dict[str, Any]:
    """A condition: rows that hold the entry's bytes or need not any more. (Releases before kept those of large entries
    in the stream only.)
    """
    return {"oversize": {"$ne": True}}


def pairs(fields: Mapping[bytes, bytes]) -> list[list[Binary]]:
    """Fields of an entry as MongoDB keeps them: names may be any bytes."""
    return [[Binary(name), Binary(value)] for name, value in fields.items()]


def _apart(database: Database[dict[str, Any]]) -> GridFSBucket:
    return GridFSBucket(database, COLLECTION, write_concern=DURABLE)


def keep_apart(database: Database[dict[str, Any]], letter: str, fields: Mapping[bytes, bytes]) -> None:
    """Keep the bytes of a large entry. May be repeated: whoever did it before may have died within.

    Raises:
        PyMongoError: some of them may be kept; call again.
    """
    bucket = _apart(database)
    with suppress(NoFile):
        bucket.delete(letter)
    bucket.upload_from_stream_with_id(letter, letter, bson.encode({"fields": pairs(fields)}))


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter.

    Attributes:
        id: "{stream}/{role}/{entry}".
        cause: the error of the last attempt.
        count: how often it was parked (more than once after a replay of the group).
        replayed_as: id of the entry that replaying appended.
        fields: of the entry; of a large one only where it was asked for by name.
        apart: its bytes are too many for a document, and kept beside it.
        oversize: one of a release before, whose bytes are in the stream only, which is not trimmed past it.
    """

    id: str
    stream: str
    role: str
    entry: str
    state: str
    cause: str
    count: int
    first_seen: datetime
    last_seen: datetime
    fields: dict[bytes, bytes]
    replayed_as: str | None
    oversize: bool
    apart: bool

    @property
    def event(self) -> Event | None:
        """The change, if this version can read it."""
        try:
            return decode(self.fields)
        except UnknownEvent:
            return None


class DeadLetters:
    """The operator's side of parking."""

    def __init__(self, database: Database[dict[str, Any]], client: redis.Redis, streams: Sequence[str]) -> None:
        self._rows = database.get_collection(COLLECTION, write_concern=DURABLE)
        self._apart = _apart(database)
        self._redis: Any = client
        self._streams = frozenset(streams)

    def list(self, role: str | None = None, count_max: int = 1_000) -> Iterator[DeadLetter]:
        """What waits for a decision or for being handled, oldest first."""
        wanted = _OPEN if role is None else {**_OPEN, "role": role}
        for row in self._rows.find(wanted).sort("firstSeen", 1).limit(count_max):
            yield _parked(row)

    def find(self, name: str) -> DeadLetter:
        """By id, or by an end of it that is unique, such as "audit/1700000000000-0".

        Raises:
            NotFound: there is none.
            CallerError: there are several.
        """
        escaped = re.escape(name).replace("\0", r"\x00")  # MongoDB takes no pattern with a zero byte.
        pattern = f"(^|/){escaped}$"
        found = [_parked(row) for row in self._rows.find({"_id": {"$regex": pattern}}).limit(10)]
        if not found:
            raise NotFound(f"no dead letter {name!r}; `bkm park list` shows them")
        if len(found) > 1:
            raise CallerError(f"{name!r} is ambiguous: {', '.join(item.id for item in found)}. Nothing was changed.")
        return replace(found[0], fields=self._fields(found[0]))

    def _fields(self, item: DeadLetter) -> dict[bytes, bytes]:
        if not item.apart or item.fields:
            return item.fields
        with self._apart.open_download_stream(item.id) as stream:
            return _plain(bson.decode(stream.read())["fields"])

    def replay(self, items: Sequence[DeadLetter]) -> dict[str, str]:
        """Append entries to their streams again; returns the new entry's id by row id. One entry that several roles
        parked is appended once.

        Interrupted between the two servers it may append an entry twice, which every role recognises.

        Raises:
            CallerError: an item cannot be replayed; those before it in the list were.
        """
        appended: dict[tuple[str, str], str] = {}
        for item in items:
            self.require_replayable(item)
            known = appended.get((item.stream, item.entry))
            new = known or self._redis.xadd(item.stream, self._fields(item)).decode()
            appended[item.stream, item.entry] = new
            self._rows.update_many(
                {"stream": item.stream, "entry": item.entry, **_OPEN},
                {"$set": {"state": REPLAYED, "replayedAs": new, "replayedAt": datetime.now(UTC)}},
            )
        return {item.id: appended[item.stream, item.entry] for item in items}

    def require_replayable(self, item: DeadLetter) -> None:
        """
        Raises:
            CallerError: it cannot be appended again; says why.
        """
        if item.stream == LOG:
            raise CallerError(
                f"{item.id} is a change of MongoDB's log and no entry of the feed: look at the document that it "
                "names, write it again if it should be other, then `bkm park drop` it. Nothing was appended."
            )
        if item.stream not in self._streams:
            raise CallerError(
                f"{item.id}: no worker reads stream {item.stream} (was CC_PARTITIONS changed?). Nothing was appended."
            )
        if not (item.fields or item.apart):
            where = "only in the stream" if item.oversize else f"given up with its being {item.state}"
            raise CallerError(f"{item.id}: its bytes are not kept here but {where}. Nothing was appended.")

    def drop(self, items: Sequence[DeadLetter]) -> None:
        """Give entries up for good. Their bytes are deleted; what they were and why they were parked stays."""
        self._close([item.id for item in items], DROPPED)

    def settle(self) -> int:
        """Close the rows whose replayed entry was acknowledged by the role; returns how many. May be repeated."""
        waiting = [_parked(row) for row in self._rows.find({"state": REPLAYED}).limit(1_000)]
        handled = [item.id for item in waiting if self._is_acknowledged(item)]
        self._close(handled, HANDLED)
        return len(handled)

    def _is_acknowledged(self, item: DeadLetter) -> bool:
        if item.replayed_as is None:
            return False
        try:
            groups = self._redis.xinfo_groups(item.stream)
            delivered = {text(group["name"]): EntryId.parse(group["last-delivered-id"]) for group in groups}
            reached = delivered.get(item.role)
            if reached is None or reached < EntryId.parse(item.replayed_as):
                return False
            return not self._redis.xpending_range(item.stream, item.role, item.replayed_as, item.replayed_as, 1)
        except redis.ResponseError:
            return False  # The stream or the group is gone; nothing says that the entry was handled.

    def _close(self, names: Sequence[str], state: str) -> None:
        if not names:
            return
        chosen = {"_id": {"$in": list(names)}}
        large = [row["_id"] for row in self._rows.find({**chosen, "apart": True}, {"_id": 1})]
        closed = {"state": state, "fields": [], "closedAt": datetime.now(UTC)}
        self._rows.update_many(chosen, {"$set": closed, "$unset": {"oversize": "", "apart": ""}})
        for name in large:
            with suppress(NoFile):
                self._apart.delete(name)


def _parked(row: dict[str, Any]) -> DeadLetter:
    return DeadLetter(
        id=row["_id"],
        stream=row["stream"],
        role=row["role"],
        entry=row["entry"],
        state=row.get("state", PARKED),
        cause=row["cause"],
        count=row["count"],
        first_seen=row["firstSeen"],
        last_seen=row["lastSeen"],
        fields=_plain(row["fields"]),
        replayed_as=row.get("replayedAs"),
        oversize=bool(row.get("oversize")),
        apart=bool(row.get("apart")),
    )


def _plain(stored: Sequence[Sequence[bytes]]) -> dict[bytes, bytes]:
    return {bytes(name): bytes(value) for name, value in stored}


def count_open(database: Database[dict[str, Any]]) -> dict[str, int]:
    """How many rows wait for an operator or for being handled, by role."""
    stages: list[dict[str, Any]] = [{"$match": _OPEN}, {"$group": {"_id": "$role", "count": {"$sum": 1}}}]
    return {row["_id"]: row["count"] for row in database[COLLECTION].aggregate(stages)}
