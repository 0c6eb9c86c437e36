"""Of which strategies the audit log has sessions, and from when to when: for whoever asked for another one."""

from __future__ import annotations

from typing import Any, Final

from backtest_kit_mongo.audit.log import AuditLog
from backtest_kit_mongo.audit.records import from_document, readable
from backtest_kit_mongo.backends.mongo.errors import reading
from backtest_kit_mongo.coherence.moments import iso, millis
from backtest_kit_mongo.domains.table import STRATEGY
from backtest_kit_mongo.stored import AUDIT_ITEMS as ITEMS

__all__ = ["known_sessions"]

PAPER: Final = "~paper"
NAMED_MAX: Final = 10
Span = tuple[int, int]


def known_sessions(log: AuditLog, strategy: str, mode: str) -> str:
    """A sentence: when it wrote, else in which other mode it did, else which strategies did."""
    with reading("the strategies of the audit log"):
        spans = _spans(log)
    for name, of in ((strategy, mode), *(one for one in spans if one[0] == strategy)):
        if (name, of) in spans:
            first, last = spans[name, of]
            return f"In mode {of} it wrote from {iso(first)} to {iso(last)}"
    if not spans:
        return "It has no strategy at all"
    names = [f"{name} ({of})" for name, of in sorted(spans)]
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return f"It has {', '.join(names[:NAMED_MAX])}{more}"


def _spans(log: AuditLog) -> dict[tuple[str, str], Span]:
    """By strategy and mode. A context has one document of its state, so there are as many as contexts."""
    items = readable(log.database, ITEMS)
    found: dict[tuple[str, str], Span] = {}
    for first in items.find({"domain": STRATEGY.name, "label": {"$exists": True}, "rev": {"$lte": 1}}):
        key = list(first.get("key") or ())
        if len(key) != len(STRATEGY.columns):
            continue
        name = str(key[1]), "paper" if str(key[2]).endswith(PAPER) else "live"
        document = {"documentId": first["documentId"], "domain": STRATEGY.name}
        last = items.find_one(document, sort=[("rev", -1)]) or first
        since, until = found.get(name, (_at(first), _at(last)))
        found[name] = min(since, _at(first)), max(until, _at(last))
    return found


def _at(stored: dict[str, Any]) -> int:
    """The simulated minute, or when it was written."""
    record = from_document(stored)
    if record.cause is not None and record.cause.at is not None:
        return record.cause.at
    return 0 if record.written_at is None else millis(record.written_at)
