"""Audit: the newest records, what happened to a key, and whether the log is what was sealed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from backtest_kit_console import words
from backtest_kit_console.sources import Sources
from backtest_kit_mongo.audit import gaps
from backtest_kit_mongo.audit.differences import ABSENT, Difference, differences
from backtest_kit_mongo.audit.keytext import format_key, parse_key
from backtest_kit_mongo.audit.log import Revisions
from backtest_kit_mongo.audit.records import DELETE, FOREIGN, GAP, AuditRecord, readable
from backtest_kit_mongo.domains.table import BY_NAME
from backtest_kit_mongo.feed.troubles import ALTERED, MISMATCHED
from backtest_kit_mongo.feed.workers import service_leases
from backtest_kit_mongo.stored import AUDIT_HEADS, AUDIT_ITEMS, AUDIT_PENDING, AUDIT_SEALS, WORKER_TROUBLES

from .anchored import anchored
from .asking import ROWS, Answer, Asked

__all__ = ["show", "show_key"]

DIFFERENCES_MAX: Final = 40
"""Of one revision."""
CHANGES_MAX: Final = 1_000
"""Counted at most."""
HOLES_MAX: Final = 20
STATE_S: Final = 5.0


class Revision(NamedTuple):
    """A record, and what it changed.

    Attributes:
        changes: field by field against the newest older payload that is known.
        left: how many more there are.
        is_cleared: the payload is null now, and was none before.
    """

    record: AuditRecord
    changes: Sequence[Difference]
    left: int
    is_cleared: bool


def show(asked: Asked) -> Answer:
    if asked.text("key"):
        return show_key(asked)
    sources, domain = asked.sources, asked.text("domain")
    records = sources.log.tail(ROWS, domain=domain or None) if domain in BY_NAME else sources.log.tail(ROWS)
    values = {
        "records": [(record, _key_text(record)) for record in reversed(records)],
        "state": sources.look("audit", lambda: _state(sources), STATE_S, 0.5),
        "anchors": anchored(sources),
        "domains": list(BY_NAME),
        "domain": domain if domain in BY_NAME else "",
    }
    return Answer("audit.html", values)


def show_key(asked: Asked) -> Answer:
    key = parse_key(asked.exact("key"))
    found: Revisions = asked.sources.log.revisions(key, ROWS, before=asked.exact("before"))
    values = {
        "key": format_key(key.domain.name, key.parts),
        "columns": list(zip(key.domain.columns, key.parts, strict=False)),
        "revisions": list(_compared(found.records, found.older)),
        "older": found.next,
        "is_first_page": not asked.text("before"),
    }
    return Answer("timeline.html", values)


def _compared(records: Sequence[AuditRecord], older: AuditRecord | None) -> Iterator[Revision]:
    """Newest first, each with its differences."""
    before = {record.document_id: record for record in (older,) if record is not None and _has_payload(record)}
    found = []
    for record in reversed(records):
        last = before.get(record.document_id)
        payload: Any = ABSENT if last is None else last.payload
        changes = list(islice(differences(payload, record.payload), 1_000)) if _has_payload(record) else []
        found.append(Revision(record, changes[:DIFFERENCES_MAX], max(0, len(changes) - DIFFERENCES_MAX), last is None))
        if _has_payload(record):
            before[record.document_id] = record
    return reversed(found)


def _changes(before: Any, record: AuditRecord) -> list[Difference]:
    """Field by field, also of what was null before; of what is null now, none."""
    after = record.payload
    if after is None:
        return []
    if before is None:
        before = {} if isinstance(after, dict) else ABSENT
    return list(islice(differences(before, after), CHANGES_MAX))


def _has_payload(record: AuditRecord) -> bool:
    return record.operation not in (GAP, DELETE) and not (record.operation == FOREIGN and record.payload is None)


def _key_text(record: AuditRecord) -> str:
    """What a link to its timeline names; empty where the record does not know its key."""
    if not record.key or record.domain not in BY_NAME:
        return ""
    return format_key(record.domain, record.key)


def _state(sources: Sources) -> dict[str, Any]:
    """Whether the log is what was sealed, as far as the workers have looked."""
    database = sources.database
    wanted = {"hash": 1, "sealedAt": 1, "total": 1}
    last = readable(database, AUDIT_SEALS).find_one({}, wanted, sort=[("_id", -1)]) or {}
    leases = {lease.service: lease for lease in service_leases(database)}
    found = list(database[WORKER_TROUBLES].find({"_id": {"$in": [ALTERED, MISMATCHED]}}))
    return {
        "records": database[AUDIT_ITEMS].estimated_document_count(),
        "batches": database[AUDIT_PENDING].estimated_document_count(),
        "documents": database[AUDIT_HEADS].estimated_document_count(),
        "seal": last.get("_id"),
        "sealed_at": last.get("sealedAt"),
        "sealed": last.get("total"),
        "hash": bytes(last["hash"]).hex() if isinstance(last.get("hash"), bytes) else "",
        "verifier": leases.get("verify"),
        "troubles": [(str(one["_id"]), one.get("count"), one.get("at"), _examples(one)) for one in found],
        "holes": [(_hole(one), one.since) for one in islice(gaps(database), HOLES_MAX)],
    }


def _examples(note: dict[str, Any]) -> str:
    return "; ".join(words.cut(one) for one in (note.get("examples") or [])[-2:])


def _hole(gap: Any) -> str:
    runs = ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in gap.missing)
    return f"{format_key(gap.domain, gap.key)}: revision {runs}"
