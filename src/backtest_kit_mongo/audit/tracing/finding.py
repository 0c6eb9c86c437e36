"""The records of a signal, by the index over signals, and what has no stamp but stands between or right after them.

A stamp is lost where recovery had to publish a change, and was never there in records of other programs or of earlier
versions. What such a record's key or payload says is in the index as well, so what is missing there is the row that
says nothing: a closed position is stored as null. It has the revision after one that belongs to the signal.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pymongo.errors import OperationFailure

from backtest_kit_mongo.audit.belonging import SIGNAL_COLUMN
from backtest_kit_mongo.audit.keytext import format_key
from backtest_kit_mongo.audit.log import AuditLog
from backtest_kit_mongo.audit.records import SIGNALS, AuditRecord, from_document, readable
from backtest_kit_mongo.audit.tracing.older import OlderRecords
from backtest_kit_mongo.backends.mongo.errors import reading
from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.coherence.keys import escaped
from backtest_kit_mongo.coherence.record import Key, Shape
from backtest_kit_mongo.domains.table import BY_NAME, CANDLE, MEASURE, STORAGE
from backtest_kit_mongo.stored import AUDIT_ITEMS as ITEMS

__all__ = ["PAPER", "Found", "find_records"]

PAPER: Final = "~paper"
"""Behind names of what a paper run stores."""
ENGINE: Final = "engine"
"""Bucket of the rows in which an engine tells what it saw, asked and ordered."""
BATCH: Final = 1_000
CONTEXT: Final = {"symbol": "symbol", "strategyName": "strategy", "exchangeName": "exchange"}
"""Columns that name one, and what `context_of` calls them."""
WINDOW_MS: Final = 5 * 60_000
"""Of candles that are shown with a question."""


@dataclass(slots=True)
class Found:
    """Attributes:
    before: the record before each first one of a document, by document.
    answers: newest records of stored answers that questions read, by (bucket, key).
    candles: rows of the minutes that the first question saw.
    missing: what could not be found and why.
    """

    records: list[AuditRecord] = field(default_factory=list)
    before: dict[str, AuditRecord] = field(default_factory=dict)
    answers: dict[tuple[str, str], AuditRecord] = field(default_factory=dict)
    candles: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def find_records(log: AuditLog, signal: str) -> Found:
    """Everything of a signal, in the order in which it was written."""
    finder = _Finder(log)
    with reading(f"the trace of {signal}"):
        found = finder.of_signal(signal)
    found.records.sort(key=_order)
    return found


def asked_of(records: Iterable[AuditRecord]) -> list[Mapping[str, Any]]:
    """What the engine's rows tell of questions."""
    told = (engine_row(record) for record in records)
    return [row for row in told if row.get("kind") == "asked"]


def engine_row(record: AuditRecord) -> Mapping[str, Any]:
    """A question or an order; empty for any other record."""
    if record.domain != "memory" or record.key[1:2] != (ENGINE,) or not isinstance(record.payload, dict):
        return {}
    data = record.payload.get("data")
    return data if isinstance(data, dict) else {}


class _Finder:
    def __init__(self, log: AuditLog) -> None:
        self._log, self._items = log, readable(log.database, ITEMS)

    def of_signal(self, signal: str) -> Found:
        found = Found()
        names = [signal, f"{signal}{PAPER}"]
        try:
            found.records = self._named(names)
        except OperationFailure as cause:
            if "hint" not in str(cause):
                raise
            found.missing.append(
                "the index over signals is not there yet: a worker of this version makes it when it starts. What keys "
                "and contents tell is shown"
            )
        self._add_older(found, names)
        questions = {str(row["question"]) for row in map(engine_row, found.records) if row.get("question")} - {signal}
        if questions:
            found.records += self._named(sorted(questions))
        found.records += self._unstamped(found.records)
        found.before = self._before(found.records)
        self._seen(found)
        return found

    def _named(self, names: list[str]) -> list[AuditRecord]:
        query = self._items.find({"signal": {"$in": names}}, batch_size=BATCH).hint(list(SIGNALS))
        return list(map(from_document, query))

    def _add_older(self, found: Found, names: list[str]) -> None:
        """What a release recorded that did not say whose a record is. The first row of the history tells whether it was
        one.
        """
        if any(record.domain == STORAGE.name and record.rev <= 1 for record in found.records):
            return
        older: dict[str, AuditRecord] = {}
        for name in names:
            keys = (Key(STORAGE, (is_backtest, name)) for is_backtest in (False, True))
            history = [record for key in keys for record in self._log.timeline(key)]
            context = context_of([*history, *found.records])
            if history or not found.records:
                named = {column: context[field] for column, field in CONTEXT.items() if context}
                older |= {record.id: record for record in OlderRecords(self._log, name, named)}
        known = {record.id for record in found.records}
        added = [record for record in older.values() if record.id not in known]
        found.records += added
        if unmarked := sum(not record.signal for record in added):
            found.missing.append(
                f"{unmarked} records are of a release that did not say whose they are; they were found by keys and "
                "contents"
            )

    def _unstamped(self, records: list[AuditRecord]) -> list[AuditRecord]:
        known = {record.id for record in records}
        ranges = [
            {"documentId": name, "rev": {"$gte": min(revisions), "$lte": max(revisions) + 1}, "domain": domain}
            for (domain, name), revisions in _revisions(records).items()
        ]
        if not ranges:
            return []
        found = map(from_document, self._items.find({"$or": ranges, "cause": {"$exists": False}}, batch_size=BATCH))
        return [one for one in found if one.id not in known and (not one.signal or _has_owner(one))]

    def _before(self, records: list[AuditRecord]) -> dict[str, AuditRecord]:
        """What differences of a document's first record are told against."""
        wanted = [
            f"{domain}/{name}/{min(revisions) - 1}"
            for (domain, name), revisions in _revisions(records).items()
            if min(revisions) > 1
        ]
        found = self._items.find({"_id": {"$in": wanted}}, batch_size=BATCH)
        return {f"{one.domain}/{one.document_id}": one for one in map(from_document, found)}

    def _seen(self, found: Found) -> None:
        """What questions read: stored answers, and candles."""
        for row in asked_of(found.records):
            for bucket, key in row.get("measures") or ():
                newest = self._answer(str(bucket), str(key))
                if newest is None:
                    found.missing.append(f"the stored answer {bucket}/{key}: the audit log has no record of it")
                else:
                    found.answers[bucket, key] = newest
        asked = asked_of(found.records)
        context = context_of(found.records)
        if asked and context.get("symbol"):
            at = int(asked[0]["at"])
            found.candles = self._candles(context["symbol"], context["exchange"].removesuffix(PAPER), at)
            if not found.candles:
                found.missing.append("candles that it saw: they are not in this database any more")

    def _answer(self, bucket: str, key: str) -> AuditRecord | None:
        label = {"domain": MEASURE.name, "label": escaped((bucket, key)), "rev": {"$lte": 1}}
        first = self._items.find_one(label, sort=[("documentId", -1)])
        return None if first is None else from_document(first)

    def _candles(self, symbol: str, exchange: str, at: int) -> list[dict[str, Any]]:
        query = {
            "exchangeName": exchange, "symbol": symbol, "interval": "1m",
            "timestamp": {"$gte": at - WINDOW_MS, "$lt": at},
        }  # fmt: skip
        fields = {"_id": 0, "timestamp": 1, **dict.fromkeys(CANDLE.fields, 1)}
        found = readable(self._log.database, collection_of(CANDLE)).find(query, fields).sort("timestamp", 1)
        return [{name: row.get(name) for name in ("timestamp", *CANDLE.fields)} for row in found]


def _has_owner(record: AuditRecord) -> bool:
    """Whether what it says of a signal is its key, which of a context's own state is the context."""
    return SIGNAL_COLUMN in BY_NAME[record.domain].columns


def _revisions(records: Iterable[AuditRecord]) -> dict[tuple[str, str], list[int]]:
    """By (domain, document) of the domains with one document a context: others are whole, or rows of lists."""
    found: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for record in records:
        domain = BY_NAME.get(record.domain)
        if domain is not None and domain.shape is not Shape.SERIES and record.rev > 0:
            found[record.domain, record.document_id].append(record.rev)
    return found


def context_of(records: Iterable[AuditRecord]) -> dict[str, str]:
    """Symbol, strategy and exchange, as keys have them; empty if no record tells."""
    for record in records:
        domain = BY_NAME.get(record.domain)
        if domain is None:
            continue
        named = dict(zip(domain.columns, record.key, strict=False))
        if not CONTEXT.keys() <= named.keys() and isinstance(record.payload, dict):
            named = record.payload
        if all(isinstance(named.get(column), str) for column in CONTEXT):
            return {name: str(named[column]) for column, name in CONTEXT.items()}
    return {}


def contexts_of(records: Iterable[AuditRecord]) -> set[tuple[str, str, str]]:
    """All of them: a strategy may give an id of its own to several signals."""
    found = (context_of([record]) for record in records)
    return {(one["symbol"], one["strategy"], one["exchange"]) for one in found if one}


def key_text(record: AuditRecord) -> str:
    return format_key(record.domain, record.key) if record.key else f"{record.domain}/? ({record.document_id})"


def _order(record: AuditRecord) -> tuple[float, str, int]:
    written = record.written_at or record.recorded_at
    return (0.0 if written is None else written.timestamp(), record.document_id, record.rev)
