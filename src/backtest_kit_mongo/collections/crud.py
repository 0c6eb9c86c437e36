"""`BaseCRUD`: a user's own collections, with the original's methods. Plain documents; no cache and no change feed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from enum import Enum
from typing import Any, TypeVar

import pymongo
from bson import ObjectId
from bson.errors import BSONError, InvalidId
from pydantic import BaseModel, ValidationError
from pymongo import ReturnDocument
from pymongo.collection import Collection

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.mongo.decoding import RAW, Raw, decoded
from backtest_kit_mongo.backends.mongo.errors import reading
from backtest_kit_mongo.backends.mongo.layout import own_collections
from backtest_kit_mongo.backends.mongo.paging import bounded
from backtest_kit_mongo.coherence.codec import dump
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.errors import CorruptData, InvalidPayload, InvalidSetting, NotFound

logger = locks.logger(__name__)

R = TypeVar("R")
Row = dict[str, Any]
Sort = Sequence[tuple[str, int]]
NAME_MAX_BYTES = 250
"""MongoDB's limit for a name with its database's is 255, of which the database and the dot take at least two."""
NEWEST_FIRST: Sort = (("updatedDate", -1), ("_id", -1))


class BaseCRUD:
    """Create, read and update documents of one collection. Rows carry `id`, the text of `_id`.

    Args:
        collection: the collection's name in the configured database.
        model: pydantic model that documents must fit; None accepts any fields.

    Raises (the constructor): InvalidSetting: the collection is one of this package's own, which only its adapters may
    write, or MongoDB has no such names.

    Raises (all methods): NotSetUp before `setup()`; ServerUnreachable, WriteRefused, WriteOutcomeUnknown, ReadFailed,
    CorruptData as `errors.py` says.
    """

    def __init__(self, collection: str, model: type[BaseModel] | None = None) -> None:
        if (fault := _name_fault(collection)) is not None:
            raise InvalidSetting(f"{collection!r:.80} cannot name a collection: {fault}. Nothing was written.")
        if collection in own_collections(DOMAINS):
            raise InvalidSetting(
                f"{collection!r} is a collection of this package: written past its adapters, caches and audit log "
                "would not know. Choose another name. Nothing was written."
            )
        self.name = collection
        self._model = model

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

        return live_truth().write_in_time(self.name, send)

    def create(self, dto: Mapping[str, Any] | BaseModel) -> Row:
        """Insert one document; returns it with its `id`. `createDate` and `updatedDate` are set."""
        now = _now()
        document: Row = {"_id": ObjectId(), **self._checked(dto), "createDate": now, "updatedDate": now}
        if operators := [name for name in document if name.startswith("$")]:
            raise InvalidPayload(f"{self.name}: names of fields begin with $: {operators}. Nothing was written.")
        collection = self._collection
        # What `insert_one` does, which does not know when it is too late (`backends/mongo/deadline.py`).
        self._write(lambda let: collection.replace_one({"_id": document["_id"]}, document, upsert=True, let=let))
        return {**document, "id": str(document["_id"])}

    def update(self, id: str, dto: Mapping[str, Any] | BaseModel) -> Row:  # noqa: A002 - the original's name
        """Set the given fields; returns the whole new document. `id` and `_id` in `dto` are ignored.

        Raises:
            NotFound: there is no such document; nothing was written.
        """
        fields = _fields(dto)
        if self._model is not None:
            whole = self._checked({**self.find_by_id(id), **fields})
            fields = {name: whole[name] for name in fields}
        collection, which = self._collection, {"_id": self._object_id(id)}
        change = {"$set": {**fields, "updatedDate": _now()}}

        def send(let: dict[str, Any]) -> Raw | None:
            return collection.find_one_and_update(which, change, return_document=ReturnDocument.AFTER, let=let)

        return self._found(self._write(send), id)

    def find_by_id(self, id: str) -> Row:  # noqa: A002 - the original's name
        """One document.

        Raises:
            NotFound: there is no such document.
        """
        with reading(self.name), self._bounded():
            return self._found(self._collection.find_one({"_id": self._object_id(id)}), id)

    def find_by_filter(self, query: Mapping[str, Any], sort: Sort | None = None) -> Row | None:
        """The first document that matches, or None."""
        with reading(self.name), self._bounded():
            document = self._collection.find_one(query, sort=sort)
        return None if document is None else self._row(document)

    def find_all(self, query: Mapping[str, Any] | None = None, *, limit: int | None = None) -> list[Row]:
        """All documents that match, newest `updatedDate` first; never cut unless `limit` says so. What holds something
        that Python has no value for is left out, and named in the log.
        """
        return [] if limit == 0 else list(self._each(query, NEWEST_FIRST, limit or 0))

    def iterate(self, query: Mapping[str, Any] | None = None, sort: Sort | None = None) -> Iterator[Row]:
        """Documents one by one, in bounded memory."""
        return self._each(query, sort, 0)

    def _each(self, query: Mapping[str, Any] | None, sort: Sort | None, limit: int) -> Iterator[Row]:
        with reading(self.name):
            found = self._collection.find(query or {}, sort=sort, limit=limit)
            yield from self._rows(bounded(found, self._bound_s()))

    def paginate(
        self, query: Mapping[str, Any] | None = None, *, limit: int, offset: int = 0, sort: Sort | None = None
    ) -> dict[str, Any]:
        """One page as {"rows": [...], "total": n}; both come from one query, and the order has a tie-breaker, so pages
        do not overlap.
        """
        order = dict(sort or NEWEST_FIRST)
        order.setdefault("_id", -1)
        page: list[Row] = (
            [{"$sort": order}, {"$skip": offset}, {"$limit": limit}] if limit else [{"$match": {"_id": None}}]
        )
        pipeline: list[Row] = [{"$match": query or {}}, {"$facet": {"rows": page, "total": [{"$count": "n"}]}}]
        with reading(self.name), self._bounded():
            answer = next(iter(self._collection.aggregate(pipeline)))
        total = answer["total"][0]["n"] if answer["total"] else 0
        return {"rows": list(self._rows(answer["rows"])), "total": total}

    def _checked(self, dto: Mapping[str, Any] | BaseModel) -> Row:
        """The fields as the model has them: what was checked is what is stored. Those that it does not know stay as
        given.
        """
        fields = _fields(dto)
        if self._model is None:
            return fields
        for name, field in self._model.model_fields.items():
            stored = field.serialization_alias or name
            if name in fields and stored != name:
                raise InvalidPayload(f"{self.name}: {name}: the stored name is {stored}. Nothing was written.")
        try:
            checked = dump(self._model.model_validate(fields))
        except ValidationError as cause:
            raise InvalidPayload(
                f"{self.name}: {cause.errors(include_url=False, include_input=False)}. Nothing was written."
            ) from cause
        return {name: _agreed(value, checked.get(name, value)) for name, value in fields.items()}

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


def _fields(dto: Mapping[str, Any] | BaseModel) -> Row:
    data = dump(dto) if isinstance(dto, BaseModel) else dict(dto)
    return {name: value for name, value in data.items() if name not in ("id", "_id")}


def _agreed(given: Any, checked: Any) -> Any:
    """What is stored: the value as given where the model took it as it is, otherwise what the model made of it."""
    plain = checked.value if isinstance(checked, Enum) else checked
    return given if plain == given else plain


def _now() -> datetime:
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def _name_fault(name: Any) -> str | None:
    """Why MongoDB would take it for no name of a user's collection. Reported when it is given, not at the first use."""
    if not isinstance(name, str) or not name:
        return "it must be a text that is not empty"
    if len(name.encode(errors="replace")) > NAME_MAX_BYTES:
        return f"it is longer than {NAME_MAX_BYTES} bytes"
    if "\0" in name or "$" in name:
        return "it holds a zero byte or $"
    if name.startswith((".", "system.")) or name.endswith(".") or ".." in name:
        return "its dots leave a part empty, or it begins with system."
    return None
