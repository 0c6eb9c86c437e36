"""How records lie in MongoDB (the npm package's documents, plus `rev`), and the one command that stores a record."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import bson
import pymongo.errors as pe
from bson import ObjectId
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from pymongo import ReturnDocument, UpdateOne
from pymongo.client_session import ClientSession
from pymongo.collection import Collection

from backtest_kit_mongo.backends.mongo.decoding import whole
from backtest_kit_mongo.backends.mongo.errors import NoRevision
from backtest_kit_mongo.backends.mongo.layout import hint, payload_field
from backtest_kit_mongo.coherence.lists import Expected
from backtest_kit_mongo.coherence.record import Change, Key, Record
from backtest_kit_mongo.errors import Conflict, Contended

Document = dict[str, Any]
ONE = Int64(1)
_OBJECT = b"\x03"
_HEAD = 4 + len(b"\x03payload\0")
"""What stands before the payload: the length of all, its type and its name."""


def _stored(change: Change) -> Document:
    """The columns that a write replaces."""
    domain = change.key.domain
    # An object's bytes, where the check of its size has made them; anything else is encoded with its document.
    is_made = change.bson[4:5] == _OBJECT
    columns: Document = {payload_field(domain): RawBSONDocument(change.bson[_HEAD:-1]) if is_made else change.payload}
    if domain.has_when or change.when is not None:
        columns["when"] = None if change.when is None else Int64(change.when)
    if domain.has_removed:
        columns["removed"] = change.removed
    return columns


_UNDATED = {"$unset": {"when": ""}}
"""Domains whose contract knows no time carry one only where a write had one; an older one must not stay."""


def replacement(change: Change, now: datetime) -> Document:
    columns = _stored(change)
    return {
        "$set": {**columns, "updatedDate": now},
        "$inc": {"rev": ONE},
        "$setOnInsert": {"createDate": now, "__v": 0},
        **({} if "when" in columns else _UNDATED),
    }


def first_row(change: Change, now: datetime) -> Document:
    """Of a row's upsert that must not change one that is there; the `_id` tells whether there was one."""
    return {"$setOnInsert": _new(change, now)}


def _new(change: Change, now: datetime) -> Document:
    return {"_id": ObjectId(), **_stored(change), "createDate": now, "updatedDate": now, "__v": 0, "rev": ONE}


def new_row(change: Change, now: datetime) -> RawBSONDocument:
    return RawBSONDocument(bson.encode({**_new(change, now), **change.key.query()}))


def row_update(row: Expected, now: datetime) -> UpdateOne:
    assert row.rev is not None
    change = row.change
    seen = {**change.key.query(), "rev": row.rev or None}  # A foreign document has no revision; None matches that.
    columns = _stored(change)
    update = {
        "$set": {**columns, "updatedDate": now, "rev": Int64(row.rev + 1)},
        "$setOnInsert": {"createDate": now, "__v": 0},
        **({} if "when" in columns else _UNDATED),
    }
    return UpdateOne(seen, update, upsert=True, hint=hint(change.key.domain))


def only(expected_rev: int | None) -> Document:
    """What a filter needs so that only this revision is met."""
    if expected_rev is None:
        return {}
    return {"rev": expected_rev or {"$exists": False}}


def was_first(key: Key, expected_rev: int) -> Conflict:
    return Conflict(
        f"{key}: revision {expected_rev} was expected, and it has another: another writer was first. Nothing was "
        "written."
    )


_COUNTS: Final = [
    {"$in": [{"$type": "$rev"}, ["int", "long", "double"]]},
    {"$gte": ["$rev", -(2.0**63)]},
    {"$lt": ["$rev", 2.0**63]},
]
UNCOUNTED: Final[Document] = {"rev": {"$exists": True}, "$expr": {"$not": [{"$and": _COUNTS}]}}
"""Documents whose revision `counted` refuses."""


def counted(key: Key, document: Mapping[str, Any]) -> int:
    """The revision that a write has made.

    Raises:
        NoRevision: MongoDB counts on from more than revisions are. The write happened; it is to be done again.
    """
    try:
        return whole("rev", document["rev"])
    except TypeError as cause:
        raise NoRevision(f"{key}: the stored revision does not count: {cause}") from None


def store(
    collection: Collection[Document],
    change: Change,
    expected_rev: int | None,
    let: Mapping[str, Any],
    session: ClientSession | None = None,
    *,
    now: datetime | None = None,
) -> Record:
    """Upsert one document.

    Args:
        now: dates the write, by default the time.

    Raises:
        Conflict: it has another revision than is expected.
        Contended: in a transaction another one inserts the document too.
        NoRevision: what is stored cannot be counted on.
        and pymongo's errors.
    """
    key = change.key
    wanted: Document = {**key.query()}
    if expected_rev is not None:
        wanted |= only(expected_rev)
    try:
        document = collection.find_one_and_update(
            wanted,
            replacement(change, now or datetime.now(UTC)),
            projection={"rev": 1},
            upsert=not expected_rev,
            return_document=ReturnDocument.AFTER,
            hint=hint(key.domain),
            let=let,
            session=session,
        )
    except pe.DuplicateKeyError as cause:
        if (cause.details or {}).get("keyPattern", {}).keys() - set(key.domain.columns) or (
            session is None and expected_rev is None
        ):
            raise
        if expected_rev is not None:
            raise was_first(key, expected_rev) from cause
        raise Contended(f"{key}: another step inserts it too, nothing was written") from cause
    if document is None:
        raise was_first(key, expected_rev or 0)
    return Record(key, counted(key, document), change.payload, change.when, change.removed, str(document["_id"]))
