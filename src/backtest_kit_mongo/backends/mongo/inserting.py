"""Inserting documents with a deadline (`deadline.py`).

The `insert` command knows no condition. `aggregate` does, and hands many documents to the same insertion for a fifth
more of the server's time, where an upsert of each costs seven times as much.

It also knows the index without which one key could get two documents: `on` names the key, and where no unique index
covers it the server refuses the command. So nobody can drop it between a look and an insertion, only within the
microseconds that one command takes to begin; `bkm repair` mends what might come of that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import pymongo.errors as pe
from bson.raw_bson import RawBSONDocument
from pymongo import ReturnDocument
from pymongo.client_session import ClientSession
from pymongo.collection import Collection

from backtest_kit_mongo.backends.mongo.deadline import Let
from backtest_kit_mongo.backends.mongo.encoding import first_row
from backtest_kit_mongo.backends.mongo.errors import NO_UNIQUE_INDEX, may_be_partial, own_duplicate
from backtest_kit_mongo.backends.mongo.layout import hint
from backtest_kit_mongo.backends.mongo.paging import pages
from backtest_kit_mongo.coherence.record import Change, Domain, Record
from backtest_kit_mongo.errors import WriteOutcomeUnknown

PART_BYTES: Final = 8 << 20
"""Of documents in one command, which may hold twice as much."""
_LOSSES_MAX: Final = 1
"""Connections that may break before the caller has its answer. The driver does not repeat this command."""


def insert(
    domain: Domain, collection: Collection[dict[str, Any]], documents: Sequence[RawBSONDocument], let: Let
) -> set[int]:
    """Insert new documents, each with its `_id`, in any order; returns the positions of those that met an existing key.

    Args:
        documents: they differ in the last column of the domain's key only.

    Raises:
        WriteOutcomeUnknown, LegacyIndex: some may have been inserted.
        and pymongo's errors.
    """
    met: set[int] = set()
    for start, part in _parts(documents):
        try:
            met.update(start + position for position in _Insertion(domain, collection, part).run(let))
        except pe.OperationFailure as cause:
            if start and cause.code == NO_UNIQUE_INDEX:
                raise WriteOutcomeUnknown(
                    f"{domain.name}: the unique index was dropped meanwhile, some rows were written; repeat the write"
                ) from cause
            raise
    return met


def insert_one(collection: Collection[dict[str, Any]], change: Change, now: datetime, let: Let) -> Record | None:
    """Insert one row unless there is one, in one command. None: there is."""
    key, update = change.key, first_row(change, now)
    stored = collection.find_one_and_update(
        key.query(),
        update,
        projection={"_id": 1},
        upsert=True,
        return_document=ReturnDocument.AFTER,
        hint=hint(key.domain),
        let=let,
    )
    assert stored is not None  # An upsert that returns the document after it always has one.
    is_new = stored["_id"] == update["$setOnInsert"]["_id"]
    return Record(key, 1, change.payload, change.when, False, str(stored["_id"])) if is_new else None


def _parts(documents: Sequence[RawBSONDocument]) -> Iterator[tuple[int, list[RawBSONDocument]]]:
    start, size, part = 0, 0, list[RawBSONDocument]()
    for position, document in enumerate(documents):
        if part and size + len(document.raw) > PART_BYTES:
            yield start, part
            start, size, part = position, 0, []
        part.append(document)
        size += len(document.raw)
    if part:
        yield start, part


def stages(
    collection: str, documents: Sequence[Mapping[str, Any]], key: Sequence[str] = ("_id",)
) -> list[dict[str, Any]]:
    """Insert these. (`$documents` would be shorter, and needs a right that those who may insert need not have.)"""
    return [
        {"$match": {"_id": {"$in": []}}},
        {"$facet": {"one": [{"$limit": 1}]}},  # One document, of nothing.
        {"$project": {"new": {"$literal": documents}}},
        {"$unwind": "$new"},
        {"$replaceWith": "$new"},
        {"$merge": {"into": collection, "on": list(key), "whenMatched": "fail", "whenNotMatched": "insert"}},
    ]


class _Insertion:
    """The server names one document that met a key, of many that may be stored. So it is asked which are there, and
    what is absent is sent again.
    """

    def __init__(
        self, domain: Domain, collection: Collection[dict[str, Any]], documents: list[RawBSONDocument]
    ) -> None:
        self._domain, self._collection = domain, collection
        self._left = dict(enumerate(documents))
        self._met: set[int] = set()
        self._loss_count = 0

    def run(self, let: Let) -> set[int]:
        # What is read in one session is not older than what was written in it, and is on as many members.
        with self._collection.database.client.start_session() as session:
            while self._left and not self._send(let, session):
                self._look(session)
        return self._met

    def _send(self, let: Let, session: ClientSession) -> bool:
        """Whether all were inserted."""
        try:
            self._collection.aggregate(
                stages(self._collection.name, list(self._left.values()), self._domain.columns),
                session=session,
                let=let,
            )
            return True
        except pe.DuplicateKeyError as cause:
            own_duplicate(self._domain, cause.details or {}, cause)
        except pe.AutoReconnect as cause:
            self._loss_count += 1
            if self._loss_count > _LOSSES_MAX or isinstance(cause, pe.ServerSelectionTimeoutError):
                raise
        except pe.OperationFailure as cause:
            if may_be_partial(cause):
                raise WriteOutcomeUnknown(
                    f"{self._domain.name}: some rows may have been written, some were refused: {cause!s:.300}"
                ) from cause
            raise
        return False

    def _look(self, session: ClientSession) -> None:
        """Keep what is absent."""
        first, last = next(iter(self._left.values())), self._domain.columns[-1]
        query: dict[str, Any] = {name: first[name] for name in self._domain.columns[:-1]}
        found: list[Mapping[str, Any]] = []
        for items in pages([document[last] for document in self._left.values()]):
            found += self._collection.find({**query, last: {"$in": items}}, {last: 1}, session=session)
        stored = {each[last]: each["_id"] for each in found}
        self._met.update(
            place for place, each in self._left.items() if stored.get(each[last], each["_id"]) != each["_id"]
        )
        self._left = {place: each for place, each in self._left.items() if each[last] not in stored}
