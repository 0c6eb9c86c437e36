"""What is asked for when documents are listed, so that an index answers: none is looked at in vain, and none sorted in
memory.

all            the context, in the order of creation
limit, since   (context, updatedDate, _id), the newest first
where          (context, field, updatedDate, _id)
ids            the unique key; the few that are found are ordered here
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final

from pymongo.collection import Collection

from backtest_kit_mongo.backends.mongo.decoding import Raw, fields, listed, record_or_unread
from backtest_kit_mongo.backends.mongo.layout import BY_CHANGE, payload_field
from backtest_kit_mongo.backends.mongo.paging import bounded, pages
from backtest_kit_mongo.coherence.codec import EPOCH
from backtest_kit_mongo.coherence.lists import ALL, Only
from backtest_kit_mongo.coherence.record import Key, Part, Record

BY_CREATION: Final = [("createDate", 1), ("_id", 1)]


def query(scope: Key, when: int | None, only: Only) -> dict[str, Any]:
    domain = scope.domain
    wanted: dict[str, Any] = dict(scope.query())
    if domain.has_removed:
        wanted["removed"] = {"$ne": True}
    if when is not None and domain.has_when:
        wanted["$or"] = [{"when": {"$lte": when}}, {"when": None}]
    if only.since_ms is not None:
        wanted["updatedDate"] = {"$gte": EPOCH + timedelta(milliseconds=only.since_ms)}
    return wanted | {f"{payload_field(domain)}.{name}": text for name, text in only.where}


def scan(
    reader: Collection[Raw],
    scope: Key,
    timeout_s: float,
    *,
    when: int | None,
    limit: int | None,
    keys_only: bool,
    only: Only,
) -> Iterator[Record]:
    """As `Truth.scan`. The caller translates errors."""
    column = scope.domain.columns[-1]
    projection = {"when": 1, "rev": 1, column: 1} if keys_only else {**fields(scope.domain), column: 1}
    wanted = query(scope, when, only)
    if limit == 0:
        return
    if only.items is not None:
        found = _named(reader, wanted, column, only.items, {**projection, "updatedDate": 1}, timeout_s)
        newest = sorted(found, key=_changed, reverse=True)
        yield from listed(scope, newest[:limit], keys_only=keys_only)
        return
    order = BY_CREATION if limit is None and only == ALL else list(BY_CHANGE)
    found = reader.find(wanted, projection).sort(order).limit(limit or 0)
    yield from listed(scope, bounded(found, timeout_s), keys_only=keys_only)


def rows(reader: Collection[Raw], scope: Key, items: tuple[Part, ...], timeout_s: float) -> dict[Part, Record]:
    """The named documents that exist, also those that cannot be read."""
    column = scope.domain.columns[-1]
    found = _named(reader, scope.query(), column, items, {**fields(scope.domain), column: 1}, timeout_s)
    return {raw[column]: record_or_unread(scope.child(raw[column]), raw) for raw in found}


def _named(
    reader: Collection[Raw],
    wanted: dict[str, Any],
    column: str,
    items: tuple[Part, ...],
    projection: dict[str, int],
    timeout_s: float,
) -> Iterator[Raw]:
    for page in pages(items):
        yield from bounded(reader.find({**wanted, column: {"$in": page}}, projection), timeout_s)


def _changed(raw: Raw) -> tuple[str, str]:
    return str(raw.get("updatedDate")), str(raw["_id"])
