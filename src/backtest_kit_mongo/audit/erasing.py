"""Erasing what records hold, without breaking the chain: in place of the payload, the digest that the seal has.

The only change that is ever made to a record. `payload` becomes null, and the field `erased` says when, by whom, why,
and the digest of the record as it was. `verify` goes on from that digest, and counts what was erased. So what is left
proves that there was this record and no other, and tells nothing of what it held. The other fields of an erased record
are no longer proven: who may write to the whole database could change them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, cast

from bson.raw_bson import RawBSONDocument
from pymongo.database import Database

from backtest_kit_mongo.audit.log import AuditLog
from backtest_kit_mongo.audit.records import DELETE, ERASED, GAP, RAW, sealed_digest
from backtest_kit_mongo.backends.mongo.errors import writing
from backtest_kit_mongo.coherence.record import Key, Shape
from backtest_kit_mongo.connect import DURABLE
from backtest_kit_mongo.errors import CallerError
from backtest_kit_mongo.stored import AUDIT_ITEMS as ITEMS

__all__ = ["erase", "is_recorded"]

KEPT: Final = (DELETE, GAP)
"""Operations whose records hold nothing of anybody's: who deleted, and why something is lost."""


def erase(
    database: Database[dict[str, Any]],
    key: Key,
    note: Mapping[str, str],
    on_done: Callable[[], None] = lambda: None,
) -> int:
    """Erase the payloads of all records of a key; returns how many had one. May be repeated.

    Args:
        note: who, and why.

    Raises:
        CallerError: records of candles hold no values.
        ServerUnreachable, WriteRefused, WriteOutcomeUnknown: run it again.
    """
    if key.domain.shape is Shape.SERIES:
        raise CallerError(f"{key}: the audit log has ranges of candles, not their values. Nothing was erased.")
    stored = cast("Database[RawBSONDocument]", database)
    items = stored.get_collection(ITEMS, codec_options=RAW, write_concern=DURABLE)
    count = 0
    for query in AuditLog(database).queries(key):
        for record in items.find({**query, ERASED: {"$exists": False}, "operation": {"$nin": list(KEPT)}}):
            if record.get("payload") is None:
                continue
            mark = {"digest": sealed_digest(record), "at": datetime.now(UTC), **note}
            with writing(key):
                items.update_one({"_id": record["_id"], ERASED: None}, {"$set": {"payload": None, ERASED: mark}})
            count += 1
            on_done()
    return count


def is_recorded(database: Database[dict[str, Any]], key: Key) -> bool:
    """Whether the key's deletion has its record, so that none of its values is still on its way to the log."""
    log = AuditLog(database)
    return any(
        database[ITEMS].find_one({**query, "operation": DELETE}, {"_id": 1}) is not None for query in log.queries(key)
    )
