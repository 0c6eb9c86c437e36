"""Deleting a document for good, in two commands that each refuse to be late.

The first one writes who deletes and why in the place of the payload, as an ordinary revision: so a worker that reads
MongoDB's own log can tell it, whoever dies, and nobody reads the value any more. The second one removes the document
unless somebody has written it meanwhile. Where only the first was done, the next deletion of the key does the second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from bson.int64 import Int64
from pymongo import DeleteOne, ReturnDocument, UpdateOne
from pymongo.collection import Collection

from backtest_kit_mongo.backends.mongo.deadline import Let
from backtest_kit_mongo.backends.mongo.encoding import ONE, counted
from backtest_kit_mongo.backends.mongo.layout import payload_field
from backtest_kit_mongo.coherence.deletion import Delete, DeleteAll, deletion
from backtest_kit_mongo.coherence.record import Domain, Key, Record
from backtest_kit_mongo.errors import ServerUnreachable, WriteOutcomeUnknown, WriteRefused

Document = dict[str, Any]
DELETED: Final = "deleted"
"""The field that says of a document that it is being deleted: by whom, and why."""
Write = Callable[[Key, Callable[[Let], Any], float | None], Any]


def delete(collection: Collection[Document], effect: Delete, write: Write) -> Record | None:
    """As `Truth.delete`. `write` sends a command in time, and once more where that helps."""
    key = effect.key
    _require_right(collection, key, effect.deadline_s, write)
    mark = _mark(key.domain, effect.note)

    def marked(let: Let) -> Document | None:
        one: Document | None = collection.find_one_and_update(
            key.query(), mark, projection={"rev": 1}, return_document=ReturnDocument.AFTER, let=let
        )
        if one is not None:
            counted(key, one)
        return one

    found = write(key, marked, effect.deadline_s)
    if found is None:
        return None
    query = {**key.query(), "_id": found["_id"], "rev": found["rev"]}
    try:
        write(key, lambda let: collection.find_one_and_delete(query, {"_id": 1}, let=let), effect.deadline_s)
    except (WriteRefused, ServerUnreachable) as cause:
        raise _half_done(key, cause) from cause
    return deletion(Record(key, int(found["rev"]) - 1, id=str(found["_id"])), effect.note)


def delete_all(collection: Collection[Document], effect: DeleteAll, write: Write) -> tuple[Record | None, ...]:
    """As many deletions, in one bulk of each of the two commands. A document is marked only over the revision that was
    read; those that somebody writes meanwhile are deleted one by one.
    """
    first = effect.keys[0]
    _require_right(collection, first, effect.deadline_s, write)
    marked: dict[Key, Document] = write(first, lambda let: _marked(collection, effect, let), effect.deadline_s)
    gone = {key: one for key, one in marked.items() if one["marked"]}
    if gone:
        removals = [DeleteOne({**key.query(), "_id": one["_id"], "rev": one["rev"]}) for key, one in gone.items()]
        try:
            write(first, lambda let: collection.bulk_write(removals, ordered=False, let=let), effect.deadline_s)
        except (WriteRefused, ServerUnreachable) as cause:
            raise _half_done(f"{len(gone)} documents, {first} the first of them", cause) from cause
    found: list[Record | None] = []
    for key in effect.keys:
        if key in gone:
            found.append(deletion(Record(key, int(gone[key]["rev"]) - 1, id=str(gone[key]["_id"])), effect.note))
        else:
            found.append(
                delete(collection, Delete(key, effect.note, effect.deadline_s), write) if key in marked else None
            )
    return tuple(found)


def _marked(collection: Collection[Document], effect: DeleteAll, let: Let) -> dict[Key, Document]:
    """Those that there are: `_id`, the revision of the mark, and whether it was written."""
    domain = effect.keys[0].domain
    asked = {key.parts: key for key in effect.keys}
    shown = dict.fromkeys((*domain.columns, "rev"), 1)
    found: dict[Key, Document] = {}
    for document in collection.find({"$or": [key.query() for key in effect.keys]}, shown):
        key = asked.get(tuple(document[name] for name in domain.columns))
        if key is not None:
            found[key] = {"_id": document["_id"], "rev": document.get("rev"), "marked": False}
    counted = {key: one for key, one in found.items() if type(one["rev"]) in (int, Int64)}
    if counted:
        mark = _mark(domain, effect.note)
        writes = [
            UpdateOne({**key.query(), "_id": one["_id"], "rev": one["rev"]}, mark) for key, one in counted.items()
        ]
        is_all = collection.bulk_write(writes, ordered=False, let=let).matched_count == len(writes)
        now = {} if is_all else _now(collection, [one["_id"] for one in counted.values()])
        for one in counted.values():
            one["rev"] += 1
            one["marked"] = is_all or now.get(one["_id"]) == (one["rev"], dict(effect.note))
    return found


def _now(collection: Collection[Document], ids: list[Any]) -> dict[Any, tuple[Any, Any]]:
    """Revisions and marks: of two that delete with the same note, either has."""
    documents = collection.find({"_id": {"$in": ids}}, {"rev": 1, DELETED: 1})
    return {one["_id"]: (one.get("rev"), one.get(DELETED)) for one in documents}


def _mark(domain: Domain, note: Mapping[str, str]) -> Document:
    kept = {"removed": True} if domain.has_removed else {}
    return {
        "$set": {payload_field(domain): None, DELETED: dict(note), "updatedDate": datetime.now(UTC), **kept},
        "$inc": {"rev": ONE},
    }


def _require_right(collection: Collection[Document], key: Key, deadline_s: float | None, write: Write) -> None:
    """See that this user may remove documents, before one is marked that then would stay.

    Raises:
        WriteRefused: he may not.
    """
    nothing: Document = {"_id": {"$in": []}}
    write(key, lambda let: collection.delete_one(nothing, let=let), deadline_s)


def _half_done(what: object, cause: Exception) -> WriteOutcomeUnknown:
    return WriteOutcomeUnknown(
        f"{what}: the value is gone, but the document that says so is still there. Repeat the deletion: {cause}"
    )
