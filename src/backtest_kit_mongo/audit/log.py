"""Reading the audit log: timelines, time travel, the newest records, following.

All reads ask the primary for what cannot be rolled back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymongo.database import Database

from backtest_kit_mongo.audit.keytext import columns, format_key, parse_key
from backtest_kit_mongo.audit.records import (
    CORRECTION,
    DELETE,
    FOREIGN,
    GAP,
    AuditRecord,
    RecordId,
    from_document,
    readable,
    split_id,
)
from backtest_kit_mongo.backends.mongo.errors import reading
from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.coherence.keys import escaped
from backtest_kit_mongo.coherence.moments import moment_ms
from backtest_kit_mongo.coherence.record import Domain, Key, Shape
from backtest_kit_mongo.domains.table import BY_NAME, DOMAINS
from backtest_kit_mongo.errors import CallerError
from backtest_kit_mongo.settings import Settings
from backtest_kit_mongo.stored import AUDIT_ITEMS as ITEMS

Document = dict[str, Any]
BATCH = 1_000
"""Records fetched at once. MongoDB's own batches of 16 MiB are a hundred when decoded."""
_HISTORY = [("documentId", 1), ("rev", 1), ("foreign", 1)]
_REVERSED = [(field, -1) for field, _ in _HISTORY]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a key held at some moment.

    Attributes:
        exists: False if nothing was stored, or it was removed.
        payload: None if it does not exist.
        record: the change that made it so; None if there was none.
        lost: revisions directly after it whose content and time are lost, a run of many as "first-last": one of them
            may already have been in force.
    """

    key: Key
    exists: bool
    payload: Any
    record: AuditRecord | None
    lost: tuple[int | str, ...] = ()


@dataclass(frozen=True, slots=True)
class Revisions:
    """A part of a key's timeline.

    Attributes:
        records: newest first.
        older: the one that came before them; None if there is none.
    """

    records: Sequence[AuditRecord]
    older: AuditRecord | None

    @property
    def next(self) -> str:
        """What the next part comes before; empty if there is none."""
        return self.records[-1].id if self.older is not None else ""


class AuditLog:
    """The audit log of one database, for reading.

    Every method raises InvalidKey (the key is not one), ServerUnreachable or ReadFailed.

    Args:
        database: for example `get_mongo()[get_config().database]`; `open_log()` makes its own connection.
    """

    def __init__(self, database: Database[Document]) -> None:
        self.database = database
        self._items = readable(database, ITEMS)

    def timeline(self, key: Key | str) -> Iterator[AuditRecord]:
        """All changes of a key, oldest first. If its document was deleted and made again, one document after the other;
        revisions then start again.
        """
        wanted = _key(key)
        with reading(wanted):
            for found in self.queries(wanted):
                yield from map(from_document, self._items.find(found, batch_size=BATCH).sort(_HISTORY))

    def revisions(self, key: Key | str, count: int, *, before: str = "") -> Revisions:
        """The newest changes of a key, newest first; however many there are, only these are read.

        Args:
            before: only those before this record (its id), for the next part.

        Raises:
            CallerError: `before` is no record's id.
        """
        wanted = _key(key)
        try:
            place = split_id(before) if before else None
        except ValueError as cause:
            raise CallerError(f"before: {cause}") from cause
        found: list[AuditRecord] = []
        with reading(wanted):
            for query in reversed(self.queries(wanted)):
                asked = query if place is None else _earlier(query, place)
                if asked is not None and len(found) <= count:
                    newest = self._items.find(asked).sort(_REVERSED).limit(count + 1 - len(found))
                    found += map(from_document, newest)
        return Revisions(found[:count], found[count] if len(found) > count else None)

    def asof(self, key: Key | str, *, when: int | datetime | None = None, at: datetime | None = None) -> Snapshot:
        """What a read of the key would have given.

        Args:
            when: by simulation time: the newest revision whose `when` is not later. It never looks ahead: a change that
                carries no `when` does not count.
            at: by the writers' wall clocks: the newest revision written not later.

        Raises:
            CallerError: not exactly one of the two, or the domain does not store what was asked for.
        """
        wanted = _key(key)
        query = _not_later(wanted.domain, when, at)
        with reading(wanted):
            documents = self.queries(wanted)
            for found in reversed(documents):
                last = self._items.find_one({**found, **query, "operation": {"$ne": GAP}}, sort=_REVERSED)
                if last is not None:
                    return self._snapshot(wanted, from_document(last))
        return Snapshot(wanted, exists=False, payload=None, record=None)

    def tail(self, count: int = 20, *, domain: str | None = None, symbol: str | None = None) -> list[AuditRecord]:
        """The newest records, oldest of them first, in the order in which they were recorded.

        Args:
            domain, symbol: only of this domain, only of keys with this symbol. What is rare is searched for backwards
                through the whole log.

        Raises:
            CallerError: there is no such domain, or it has no symbol.
        """
        query = selection(domain, symbol)
        with reading("the newest records"):
            newest = list(self._items.find(query).sort("$natural", -1).limit(count))
        return [from_document(stored) for stored in reversed(newest)]

    def follow(
        self,
        count: int = 20,
        *,
        domain: str | None = None,
        symbol: str | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[AuditRecord]:
        """The newest records, then each one as it is recorded, until `stop()`; it is asked at least twice a second."""
        query = selection(domain, symbol)
        inserted = {
            "operationType": "insert",
            **{f"fullDocument.{name}": value for name, value in query.items() if name != "$or"},
        }
        if "$or" in query:
            inserted["$or"] = [{f"fullDocument.{name}": value for name, value in one.items()} for one in query["$or"]]
        with (
            reading("following the audit log"),
            self._items.watch([{"$match": inserted}], max_await_time_ms=500) as stream,
        ):
            # The stream is open before the newest are read, so nothing falls between; what is in both is shown once.
            newest = self.tail(count, domain=domain, symbol=symbol)
            yield from newest
            shown = {record.id for record in newest}
            while not stop():
                change = stream.try_next()
                if change is not None and change["documentKey"]["_id"] not in shown:
                    yield from_document(change["fullDocument"])

    def records(self, *, domain: str | None = None, symbol: str | None = None) -> Iterator[AuditRecord]:
        """All records in the order in which they were recorded, without holding them."""
        with reading("the audit log"):
            yield from map(
                from_document, self._items.find(selection(domain, symbol), batch_size=BATCH).sort("$natural", 1)
            )

    def of_step(self, name: str) -> list[AuditRecord]:
        """The records of one step, by domain and key. They are searched for in the whole log."""
        with reading(f"step {name}"):
            return list(map(from_document, self._items.find({"step": name}).sort([("domain", 1), ("label", 1)])))

    def count(self, *, domain: str | None = None, symbol: str | None = None) -> int:
        """How many records `records` will give, about: exact only for a chosen domain or symbol."""
        query = selection(domain, symbol)
        with reading("the audit log"):
            return self._items.count_documents(query) if query else self._items.estimated_document_count()

    def queries(self, key: Key) -> Sequence[Document]:
        """Queries that together find the key's records, in the order of its documents."""
        label = {"domain": key.domain.name, "label": escaped(key.parts), "rev": {"$lte": 1}}
        if key.domain.shape is Shape.SERIES:
            return [label]  # Batches of rows; each is a document with one revision.
        found = self._items.find(label, {"_id": 0, "documentId": 1}).sort("documentId", 1)
        documents = list(dict.fromkeys(record["documentId"] for record in found))
        if not documents:
            # Its first revision may be a gap that does not know its key.
            document = readable(self.database, collection_of(key.domain)).find_one(key.query(), {"_id": 1})
            documents = [] if document is None else [str(document["_id"])]
        return [{"documentId": document, "domain": key.domain.name} for document in documents]

    def _snapshot(self, key: Key, record: AuditRecord) -> Snapshot:
        exists = not is_removal(key.domain, record)
        after = {"documentId": record.document_id, "domain": record.domain, "rev": {"$gt": record.rev}}
        lost: list[int | str] = []
        for following in map(from_document, self._items.find(after, {"payload": 0}).sort(_HISTORY)):
            if following.operation != GAP:
                break
            run = following.first, following.rev
            lost.append(following.rev if run[0] == run[1] else f"{run[0]}-{run[1]}")
        return Snapshot(key, exists, record.payload if exists else None, record, tuple(lost))


def is_removal(domain: Domain, record: AuditRecord) -> bool:
    """Whether reads see nothing after this change: a soft delete, or a foreign one after which nothing is known to
    exist.
    """
    payload = record.payload
    marked = domain.has_removed and isinstance(payload, dict) and payload.get("removed") is True
    done = record.detail if record.operation == CORRECTION else record.operation
    return done in ("remove", DELETE) or marked or (done == FOREIGN and payload is None)


def _earlier(query: Document, place: RecordId) -> Document | None:
    """Of the records of a query those before one; None: all of them came after it."""
    document, named = place.document.partition("/")[2], query.get("documentId")
    if named is None:  # A series, of which each batch is a document.
        return {**query, "documentId": {"$lt": document}}
    if named != document:
        return query if named < document else None
    earlier: list[Document] = [{"rev": {"$lt": place.rev}}]
    if place.foreign is not None:
        earlier += ({"rev": place.rev, "foreign": other} for other in ({"$lt": place.foreign}, None))
    return {**query, "$or": earlier}


def _key(key: Key | str) -> Key:
    if isinstance(key, str):
        return parse_key(key)
    # The same check as for text: an incomplete key must not read as one that was never written.
    return parse_key(format_key(key.domain.name, key.parts))


def _not_later(domain: Domain, when: int | datetime | None, at: datetime | None) -> Document:
    if (when is None) == (at is None):
        raise CallerError("give either when (simulation time) or at (wall clock)")
    if domain.shape is Shape.SERIES:
        raise CallerError(
            f"the audit log has the ranges of {domain.name} rows, not their content; rows never change once stored"
        )
    if when is None:
        moment_ms(at, "at")
        return {"writtenAt": {"$lte": at}}
    if not domain.has_when:
        having = ", ".join(one.name for one in DOMAINS if one.has_when)
        raise CallerError(
            f"{domain.name} stores no simulation time; ask by wall clock (at). Domains with one: {having}"
        )
    return {"when": {"$lte": moment_ms(when, "when")}}


def selection(domain: str | None, symbol: str | None) -> Document:
    """A query for records of a domain and of a symbol.

    Raises:
        CallerError: there is no such domain, or it has no symbol.
    """
    if domain is not None and domain not in BY_NAME:
        raise CallerError(f"no domain {domain!r}; domains: {', '.join(sorted(BY_NAME))}")
    query: Document = {} if domain is None else {"domain": domain}
    if symbol is None:
        return query
    chosen = DOMAINS if domain is None else (BY_NAME[domain],)
    names = {one.name: [column.name for column in columns(one)] for one in chosen}
    places = {name: found.index("symbol") for name, found in names.items() if "symbol" in found}
    if not places:
        raise CallerError(f"{domain} keys have no symbol: {', '.join(names[str(domain)])}")
    return {**query, "$or": [{"domain": name, f"key.{place}": symbol} for name, place in places.items()]}


@contextmanager
def open_log(settings: Settings | None = None) -> Iterator[AuditLog]:
    """The audit log of the database that the settings name (default: those in force, before `setup()` those that it
    would use), over a connection of its own.
    """
    from backtest_kit_mongo.servers import Servers
    from backtest_kit_mongo.setup import get_config, resolve

    used = resolve(get_config()) if settings is None else settings
    with Servers(used, "bkm-audit", find_ms=used.mongo_bound_ms) as servers:
        yield AuditLog(servers.database)
