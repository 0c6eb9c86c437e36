"""What is stored in MongoDB, looked at without being loaded: the server tells how large a document is and whether a
read would give something of it. Nothing needs to be open or prepared, so foreign databases can be looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from math import inf, isfinite
from typing import Any, Final

from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.database import Database

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.mongo.decoding import TOLERANT
from backtest_kit_mongo.backends.mongo.errors import reading
from backtest_kit_mongo.backends.mongo.layout import collection_of, hint, payload_field
from backtest_kit_mongo.backends.mongo.paging import bounded
from backtest_kit_mongo.coherence.codec import EPOCH, millis
from backtest_kit_mongo.coherence.inventory import Census, Entry, Selection
from backtest_kit_mongo.coherence.record import Domain, Key, Part, Shape

logger = locks.logger(__name__)

Document = dict[str, Any]
_NOTHING: Final[list[Any]] = [None, [], {}]


class MongoBrowsing:
    """A part of `MongoTruth`, which has these."""

    _database_name: str
    _timeout_s: float

    @property
    def client(self) -> MongoClient[Document]:
        raise NotImplementedError

    def browse(self, domain: Domain, chosen: Selection) -> Iterator[Entry]:
        if not chosen.concerns(domain):
            return
        collection = _collection(self.client[self._database_name], domain)
        with reading(domain.name):
            if domain.shape is Shape.SERIES:
                yield from _series(collection, domain, chosen)
                return
            steps = [{"$match": query(domain, chosen)}, {"$sort": dict(hint(domain))}, {"$project": _looked_at(domain)}]
            skipped = 0
            for document in bounded(collection.aggregate(steps, allowDiskUse=True), self._timeout_s):
                key = key_of(domain, document)
                if key is None:
                    skipped += 1
                else:
                    yield _entry(key, document)
        if skipped:
            logger.warning("%s: %d document(s) have a key that no key of this package can be", domain.name, skipped)

    def census(self, domain: Domain, chosen: Selection) -> Census:
        if not chosen.concerns(domain):
            return Census()
        collection = _collection(self.client[self._database_name], domain)
        with reading(domain.name):
            if domain.shape is Shape.SERIES:
                count = sum(1 for _ in _series(collection, domain, chosen, counted=False))
                return Census(count, count)
            totals: Document = {
                "_id": None, "documents": {"$sum": 1}, "holding": {"$sum": {"$cond": ["$empty", 0, 1]}},
                "bytes": {"$sum": "$bytes"}, "first": {"$min": "$createDate"}, "last": {"$max": "$updatedDate"},
            }  # fmt: skip
            steps = [{"$match": query(domain, chosen)}, {"$project": _looked_at(domain)}, {"$group": totals}]
            for one in bounded(collection.aggregate(steps), self._timeout_s):
                return Census(one["documents"], one["holding"], one["bytes"], _ms(one["first"]), _ms(one["last"]))
        return Census()


def _collection(database: Database[Document], domain: Domain) -> Collection[Document]:
    return database.get_collection(collection_of(domain), TOLERANT)


def query(domain: Domain, chosen: Selection) -> Document:
    """The documents of a selection."""
    wanted: Document = dict(chosen.of_key(domain))
    for path, value in chosen.of_payload(domain).items():
        wanted[".".join((payload_field(domain), *path))] = value
    if chosen.text:
        some = {"$regex": re.escape(chosen.text), "$options": "i"}
        wanted["$or"] = [{column.name: some} for column in domain.key if column.type is str]
    if chosen.changed_before_ms is not None:
        wanted["updatedDate"] = {"$lt": EPOCH + timedelta(milliseconds=chosen.changed_before_ms)}
    return wanted


def _looked_at(domain: Domain) -> Document:
    """Key and bookkeeping of a document, and of its payload only whether it holds something."""
    holds = {"$ifNull": [f"${payload_field(domain)}", None]}
    removed: Document = {"$eq": ["$removed", True]}
    return {
        **dict.fromkeys((*domain.columns, "rev", "when", "removed", "createDate", "updatedDate"), 1),
        "empty": {"$or": [removed, {"$in": [holds, _NOTHING]}]},
        "bytes": {"$bsonSize": "$$ROOT"},
    }


def _entry(key: Key, document: Mapping[str, Any]) -> Entry:
    when, rev = document.get("when"), document.get("rev")
    return Entry(
        key,
        rev=int(rev) if isinstance(rev, int | float) and isfinite(rev) else 0,
        when=int(when) if isinstance(when, int | float) and isfinite(when) else None,
        removed=document.get("removed") is True,
        is_empty=bool(document["empty"]),
        created_ms=_ms(document.get("createDate")),
        changed_ms=_ms(document.get("updatedDate")),
        bytes=int(document["bytes"]),
        place=str(document["_id"]),
    )


def _ms(moment: Any) -> int | None:
    return millis(moment) if isinstance(moment, datetime) else None


def key_of(domain: Domain, document: Mapping[str, Any]) -> Key | None:
    """The key that a document's columns hold; None if one of them holds what a key cannot. The npm package stores whole
    numbers as doubles.
    """
    parts: list[Part] = []
    for column in domain.key:
        value = document.get(column.name)
        if column.type is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, column.type) or isinstance(value, bool) != (column.type is bool):
            return None
        parts.append(column.type(value))
    return Key(domain, tuple(parts))


def _series(
    collection: Collection[Document], domain: Domain, chosen: Selection, *, counted: bool = True
) -> Iterator[Entry]:
    names = domain.columns[:-1]
    for parts in scopes(collection, names, chosen.of_key(domain)):
        key = Key(domain, parts)
        if chosen.fits(key, None, None):
            if not counted:
                yield Entry(key, rows=None)
            elif (span := _span(collection, key)) is not None:
                yield Entry(key, rows=collection.count_documents(key.query()), span=span)


def _span(collection: Collection[Document], series: Key) -> tuple[int, int] | None:
    """Open times of the first and the last row; foreign rows may have times that are none."""
    name = series.domain.columns[-1]
    query = {**series.query(), name: {"$type": ["int", "long", "double"], "$gt": -inf, "$lt": inf}}
    found = [collection.find_one(query, {name: 1}, sort=[(name, order)]) for order in (1, -1)]
    times = [int(one[name]) for one in found if one is not None]
    return (times[0], times[1]) if len(times) == 2 else None


def scopes(
    collection: Collection[Document], names: Sequence[str], given: Mapping[str, Any]
) -> Iterator[tuple[str, ...]]:
    """What stands in the first columns of an index, where that is text. Each step leaps over the distinct values of one
    column, so its cost does not grow with the documents.
    """
    return _leaps(collection, names, given, ())


def _leaps(
    collection: Collection[Document], names: Sequence[str], given: Mapping[str, Any], found: tuple[str, ...]
) -> Iterator[tuple[str, ...]]:
    if len(found) == len(names):
        yield found
        return
    name = names[len(found)]
    so_far = dict(zip(names, found, strict=False))
    is_last = len(found) == len(names) - 1
    values = [given[name]] if name in given and not is_last else collection.distinct(name, so_far)
    for value in values:
        # Foreign documents may hold others than texts.
        if isinstance(value, str) and given.get(name, value) == value:
            yield from _leaps(collection, names, given, (*found, value))
