"""`BaseCRUD`: a user's own collections, with the original's methods and some more. Plain documents; no cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import pymongo
from bson import ObjectId
from bson.errors import BSONError, InvalidId
from pydantic import BaseModel
from pymongo import ReturnDocument
from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError, OperationFailure

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.mongo.decoding import RAW, Raw, decoded
from backtest_kit_mongo.backends.mongo.errors import brief, reading
from backtest_kit_mongo.backends.mongo.layout import own_collections
from backtest_kit_mongo.backends.mongo.paging import bounded
from backtest_kit_mongo.collections.changes import Change, Changes
from backtest_kit_mongo.collections.fields import REMOVED, Row, checked, fields_of, key_of, name_fault, now
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.errors import Conflict, CorruptData, InvalidPayload, InvalidSetting, LegacyIndex, NotFound
from backtest_kit_mongo.stored import STAGED

logger = locks.logger(__name__)

R = TypeVar("R")
Sort = Sequence[tuple[str, int]]
NEWEST_FIRST: Sort = (("updatedDate", -1), ("_id", -1))


class BaseCRUD:
    """Create, read and update documents of one collection. Rows carry `id`, the text of `_id`.

    Args:
        collection: the collection's name in the configured database.
        model: pydantic model that documents must fit, and whose defaults are stored; None accepts any fields.
        unique: fields (stored names) that no two documents may have in common. The index is built before this process's
            first write.
        events: publish a change event after each write, see `changes`.

    A document that `remove` was called for is not found any more, except with `removed=True`.

    Raises (the constructor): InvalidSetting: the collection is one of this package's own, which only its adapters may
    write, or MongoDB has no such names.

    Raises (all methods): NotSetUp before `setup()`; ServerUnreachable, WriteRefused, WriteOutcomeUnknown, ReadFailed,
    CorruptData as `errors.py` says. Writes: LegacyIndex if the index cannot be built, Conflict if another document has
    the unique fields; nothing was written.
    """

    def __init__(
        self,
        collection: str,
        model: type[BaseModel] | None = None,
        *,
        unique: Sequence[str] | str = (),
        events: bool = False,
    ) -> None:
        if (fault := name_fault(collection)) is not None:
            raise InvalidSetting(f"{collection!r:.80} cannot name a collection: {fault}. Nothing was written.")
        if collection in own_collections(DOMAINS) or collection.startswith(STAGED):
            raise InvalidSetting(
                f"{collection!r} is a collection of this package: written past its adapters, caches and audit log "
                "would not know. Choose another name. Nothing was written."
            )
        self.name = collection
        self._model = model
        self.unique = key_of(unique, model)
        self._changes = Changes(collection) if events else None
        self._indexed_by: object = None
        """The client that has seen the index."""

    @property
    def _collection(self) -> Collection[Raw]:
        from backtest_kit_mongo.setup import get_config, get_mongo

        database: Any = get_mongo()[get_config().database]
        collection: Collection[Raw] = database.get_collection(self.name, codec_options=RAW)
        return collection

    @staticmethod
    def _bound_s() -> float:
        from backtest_kit_mongo.setup import get_config

        return get_config().mongo_bound_ms / 1000

    def _bounded(self) -> AbstractContextManager[None]:
        """Every operation has a bound of its own, as the adapters' have: an interrupt may have left half a one behind
        in the driver's context of this thread.
        """
        return pymongo.timeout(self._bound_s())

    def _write(self, send: Callable[[dict[str, Any]], R]) -> R:
        from backtest_kit_mongo.setup import live_truth

        truth = live_truth()
        if self.unique and self._indexed_by is not truth.client:
            self._build_index()
            self._indexed_by = truth.client
        try:
            return truth.write_in_time(self.name, send)
        except LegacyIndex as cause:
            if self.unique and isinstance(cause.__cause__, DuplicateKeyError):
                raise Conflict(
                    f"{self.name}: another document, perhaps a removed one, has the same {', '.join(self.unique)}. "
                    "Nothing was written; upsert() changes that one."
                ) from cause
            raise

    def _build_index(self) -> None:
        try:
            with reading(self.name), self._bounded():
                self._collection.create_index([(name, 1) for name in self.unique], unique=True)
        except Exception as cause:
            if isinstance(cause.__cause__, OperationFailure) and not cause.__cause__.timeout:
                raise LegacyIndex(
                    f"{self.name}: the unique index on {', '.join(self.unique)} cannot be built, nothing was written: "
                    f"{brief(cause.__cause__)}"
                ) from cause
            raise

    def _written(self, operation: str, stored: Raw | None, id: str) -> Row:  # noqa: A002 - the original's name
        row = self._found(stored, id)
        if self._changes is not None:
            self._changes.publish(operation, row)
        return row

    def create(self, dto: Mapping[str, Any] | BaseModel) -> Row:
        """Insert one document; returns it with its `id`. `createDate` and `updatedDate` are set."""
        at = now()
        given, defaults = checked(self.name, self._model, dto)
        document: Row = {"_id": ObjectId(), **given, **defaults, "createDate": at, "updatedDate": at}
        collection = self._collection
        # What `insert_one` does, which does not know when it is too late (`backends/mongo/deadline.py`).
        self._write(lambda let: collection.replace_one({"_id": document["_id"]}, document, upsert=True, let=let))
        row = {**document, "id": str(document["_id"])}
        if self._changes is not None:
            self._changes.publish("upsert", row)
        return row

    def upsert(self, dto: Mapping[str, Any] | BaseModel) -> Row:
        """Create the document, or change the given fields of the one that has the same unique fields, also if it was
        removed: then it is there again. One atomic operation; returns the whole new document.

        Raises:
            InvalidPayload: a unique field is missing.
        """
        given, defaults = checked(self.name, self._model, dto)
        if lacking := [name for name in self.unique or ("unique=(..) of the constructor",) if name not in given]:
            raise InvalidPayload(f"{self.name}: upsert() needs {', '.join(lacking)}. Nothing was written.")
        if dotted := [name for name in given if "." in name]:
            raise InvalidPayload(f"{self.name}: names of fields hold a dot: {dotted}. Nothing was written.")
        at = now()
        which = {name: {"$eq": given[name]} for name in self.unique}
        change: dict[str, Any] = {
            "$set": {**{name: value for name, value in given.items() if name not in self.unique}, "updatedDate": at},
            "$setOnInsert": {**defaults, "createDate": at},
        }
        if REMOVED not in (*given, *defaults):
            change["$unset"] = {REMOVED: ""}
        return self._change("upsert", which, change, upsert=True)

    def update(self, id: str, dto: Mapping[str, Any] | BaseModel) -> Row:  # noqa: A002 - the original's name
        """Set the given fields; returns the whole new document. `id` and `_id` in `dto` are ignored.

        Raises:
            NotFound: there is no such document; nothing was written.
        """
        fields = fields_of(dto)
        if self._model is not None:
            whole, _ = checked(self.name, self._model, {**self.find_by_id(id), **fields})
            fields = {name: whole[name] for name in fields}
        return self._change("upsert", self._live_id(id), {"$set": {**fields, "updatedDate": now()}}, id)

    def remove(self, id: str) -> Row:  # noqa: A002 - the original's name
        """Remove it softly: it stays where it is and is not found any more. Returns it.

        Raises:
            NotFound: there is no such document; nothing was written.
        """
        return self._change("remove", self._live_id(id), {"$set": {REMOVED: True, "updatedDate": now()}}, id)

    def delete(self, id: str) -> Row:  # noqa: A002 - the original's name
        """Delete it for good, whether it was removed or not. Returns what it was.

        Raises:
            NotFound: there is no such document; nothing was written.
        """
        collection, which = self._collection, {"_id": self._object_id(id)}
        return self._written("delete", self._write(lambda let: collection.find_one_and_delete(which, let=let)), id)

    def _change(
        self,
        operation: str,
        which: Mapping[str, Any],
        change: Row,
        id: str = "",  # noqa: A002 - the original's name
        *,
        upsert: bool = False,
    ) -> Row:
        collection = self._collection

        def send(let: dict[str, Any]) -> Raw | None:
            return collection.find_one_and_update(
                which, change, upsert=upsert, return_document=ReturnDocument.AFTER, let=let
            )

        return self._written(operation, self._write(send), id)

    def changes(self, after: str = "", *, limit: int = 1_000) -> list[Change]:
        """Changes that were published (`events=True`) after a position, oldest first; the first call takes none, the
        next the last one's `position`. Redis keeps about the last 100,000 of a collection. A process that dies between
        its write and the event publishes none.
        """
        if self._changes is None:
            raise InvalidSetting(f"{self.name}: no events are published: BaseCRUD(.., events=True)")
        return self._changes.after(after, limit)

    def _live_id(self, id: str) -> Mapping[str, Any]:  # noqa: A002 - the original's name
        return _live({"_id": self._object_id(id)})

    def find_by_id(self, id: str) -> Row:  # noqa: A002 - the original's name
        """One document.

        Raises:
            NotFound: there is no such document.
        """
        with reading(self.name), self._bounded():
            return self._found(self._collection.find_one(self._live_id(id)), id)

    def find_by_filter(
        self, query: Mapping[str, Any], sort: Sort | None = None, *, removed: bool = False
    ) -> Row | None:
        """The first document that matches, or None."""
        with reading(self.name), self._bounded():
            document = self._collection.find_one(_live(query, removed), sort=sort)
        return None if document is None else self._row(document)

    def find_all(
        self, query: Mapping[str, Any] | None = None, *, limit: int | None = None, removed: bool = False
    ) -> list[Row]:
        """All documents that match, newest `updatedDate` first; never cut unless `limit` says so. What holds something
        that Python has no value for is left out, and named in the log.
        """
        return [] if limit == 0 else list(self._each(_live(query, removed), NEWEST_FIRST, limit or 0))

    def iterate(
        self, query: Mapping[str, Any] | None = None, sort: Sort | None = None, *, removed: bool = False
    ) -> Iterator[Row]:
        """Documents one by one, in bounded memory."""
        return self._each(_live(query, removed), sort, 0)

    def _each(self, query: Mapping[str, Any], sort: Sort | None, limit: int) -> Iterator[Row]:
        with reading(self.name):
            found = self._collection.find(query, sort=sort, limit=limit)
            yield from self._rows(bounded(found, self._bound_s()))

    def paginate(
        self,
        query: Mapping[str, Any] | None = None,
        *,
        limit: int,
        offset: int = 0,
        sort: Sort | None = None,
        removed: bool = False,
    ) -> dict[str, Any]:
        """One page as {"rows": [...], "total": n}; both come from one query, and the order has a tie-breaker, so pages
        do not overlap.
        """
        order = dict(sort or NEWEST_FIRST)
        order.setdefault("_id", -1)
        page: list[Row] = (
            [{"$sort": order}, {"$skip": offset}, {"$limit": limit}] if limit else [{"$match": {"_id": None}}]
        )
        pipeline: list[Row] = [
            {"$match": _live(query, removed)},
            {"$facet": {"rows": page, "total": [{"$count": "n"}]}},
        ]
        with reading(self.name), self._bounded():
            answer = next(iter(self._collection.aggregate(pipeline)))
        total = answer["total"][0]["n"] if answer["total"] else 0
        return {"rows": list(self._rows(answer["rows"])), "total": total}

    def _object_id(self, id: str) -> ObjectId:  # noqa: A002 - the original's name
        try:
            return ObjectId(id)
        except (InvalidId, TypeError) as cause:
            raise NotFound(f"{self.name}: {id!r:.80} is not a document id") from cause

    def _found(self, document: Raw | None, id: str) -> Row:  # noqa: A002 - the original's name
        if document is None:
            raise NotFound(f"{self.name} {id} not found")
        return self._row(document)

    def _row(self, stored: Raw) -> Row:
        """A document as it is stored: an object with `$ref` and `$id` is that object, and no `DBRef`.

        Raises:
            CorruptData: it holds what has no counterpart in Python.
        """
        try:
            document = decoded(stored.raw)
        except (ValueError, OverflowError, BSONError) as cause:
            raise CorruptData(
                f"{self.name}: the document {stored.get('_id')!r:.60} holds what cannot be read here: {cause}. It was "
                "left as it is."
            ) from cause
        return {**document, "id": str(document["_id"])}

    def _rows(self, stored: Iterable[Raw]) -> Iterator[Row]:
        """Those that can be read; one that cannot costs itself."""
        for each in stored:
            try:
                row = self._row(each)
            except CorruptData as cause:
                logger.warning("left out: %s", cause)
            else:
                yield row


def _live(query: Mapping[str, Any] | None, removed: bool = False) -> Mapping[str, Any]:
    """A query without what was removed softly, unless that is wanted."""
    if removed:
        return query or {}
    return {"$and": [query, {REMOVED: {"$ne": True}}]} if query else {REMOVED: {"$ne": True}}
