"""How records lie in MongoDB: the npm package's documents, plus `rev`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import bson
from bson import ObjectId
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from pymongo import UpdateOne

from backtest_kit_mongo.backends.mongo.layout import hint, payload_field
from backtest_kit_mongo.coherence.effects import Expected
from backtest_kit_mongo.coherence.record import Change

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
