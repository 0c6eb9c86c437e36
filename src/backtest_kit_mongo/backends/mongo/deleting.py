"""Deleting a document for good, in two commands that each refuse to be late.

The first one writes who deletes and why in the place of the payload, as an ordinary revision: so a worker that reads
MongoDB's own log can tell it, whoever dies, and nobody reads the value any more. The second one removes the document
unless somebody has written it meanwhile. Where only the first was done, the next deletion of the key does the second.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from pymongo import ReturnDocument
from pymongo.collection import Collection

from backtest_kit_mongo.backends.mongo.deadline import Let
from backtest_kit_mongo.backends.mongo.encoding import ONE
from backtest_kit_mongo.backends.mongo.layout import payload_field
from backtest_kit_mongo.coherence.deletion import Delete, deletion
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.errors import ServerUnreachable, WriteOutcomeUnknown, WriteRefused

Document = dict[str, Any]
DELETED: Final = "deleted"
"""The field that says of a document that it is being deleted: by whom, and why."""
Write = Callable[[Key, Callable[[Let], Any], float | None], Any]


def delete(collection: Collection[Document], effect: Delete, write: Write) -> Record | None:
    """As `Truth.delete`. `write` sends a command in time, and once more where that helps."""
    key = effect.key
    kept = {"removed": True} if key.domain.has_removed else {}
    mark = {
        "$set": {payload_field(key.domain): None, DELETED: dict(effect.note), "updatedDate": datetime.now(UTC), **kept},
        "$inc": {"rev": ONE},
    }

    def marked(let: Let) -> Document | None:
        return collection.find_one_and_update(
            key.query(), mark, projection={"rev": 1}, return_document=ReturnDocument.AFTER, let=let
        )

    found = write(key, marked, effect.deadline_s)
    if found is None:
        return None
    query = {**key.query(), "_id": found["_id"], "rev": found["rev"]}
    try:
        write(key, lambda let: collection.find_one_and_delete(query, {"_id": 1}, let=let), effect.deadline_s)
    except (WriteRefused, ServerUnreachable) as cause:
        raise WriteOutcomeUnknown(
            f"{key}: its value is gone, but the document that says so is still there. Repeat the deletion: {cause}"
        ) from cause
    return deletion(Record(key, int(found["rev"]) - 1, id=str(found["_id"])), effect.note)
