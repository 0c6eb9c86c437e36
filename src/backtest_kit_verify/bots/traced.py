"""Whether every signal's trace is whole, and every record belongs to something."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pymongo

from backtest_kit.identity import MINUTE_MS, ContextId, signal_id
from backtest_kit_mongo.audit import AuditLog
from backtest_kit_mongo.audit.tracing import Trace, trace
from backtest_kit_mongo.stored import AUDIT_ITEMS
from backtest_kit_verify.bots.hosts import Seat
from backtest_kit_verify.bots.noted import NAME
from backtest_kit_verify.bots.plan import EXCHANGE

OF_NO_SIGNAL = ("candle", "measure", "log", "state", "strategy", "signal", "schedule")
"""Domains of which a record that lost its stamp may tell no signal: what a context remembers belongs to all of them,
and a context that holds nothing has none. The `signal` of such a state is its key, so the context.
"""


@dataclass(slots=True)
class Traced:
    """Attributes:
    across: traces in which more than one host wrote.
    unstamped: records of them that recovery had to publish.
    orphans: records that belong to no signal and no question.
    """

    signals: int = 0
    records: int = 0
    across: int = 0
    unstamped: int = 0
    problems: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)


def judge(seats: Sequence[Seat]) -> Traced:
    """Trace every signal that the contexts had."""
    outcome = Traced()
    first = seats[0]
    with pymongo.MongoClient[dict[str, Any]](first.settings["mongo_connection_string"], tz_aware=True) as client:
        log = AuditLog(client[first.database])
        rows = list(client[first.database]["storage-items"].find({}, {"payload": 1}))
        traced: set[str] = set()
        for row in rows:
            payload = row["payload"]
            found = trace(log, payload["id"])
            records = found.records()
            traced |= {record.id for record in records}
            outcome.signals += 1
            outcome.records += len(records)
            outcome.across += len({host.partition(":")[0] for host in found.hosts}) > 1
            outcome.unstamped += sum(record.cause is None for record in records)
            outcome.problems += [f"{payload['id']}: {text}" for text in _lacks(found, payload)]
        outcome.orphans = list(_orphans(client[first.database], seats, {row["payload"]["id"] for row in rows}, traced))
    return outcome


def _lacks(found: Trace, row: dict[str, Any]) -> Iterator[str]:
    """What a whole trace has and this one has not."""
    names = {step.what for step in found.walk()}
    told = {f"{step.detail.get('kind')}-{step.detail.get('action', '')}" for step in found.walk() if step.detail}
    domains = {record.domain for record in found.records()}
    if "asked-" not in told or not found.candles:
        yield "what was seen"
    asked = [step for step in found.walk() if step.what == "asked"]
    if not any(one.record.domain == "state" for step in asked for one in step.changes):
        yield "what it remembered when it was asked"
    if row["status"] == "closed":
        yield from (f"the order to {one}" for one in ("open", "close") if f"order-{one}" not in told)
        yield from (f"the mark of its {one}" for one in ("entry", "exit") if one not in {m.kind for m in found.marks})
        yield from (f"a record of {one}" for one in ("strategy", "signal", "storage", "recent") if one not in domains)
        if not any(record.domain == "signal" and record.payload is None for record in found.records()):
            yield "the end of its position"
    if found.status not in ("closed", "cancelled"):
        yield f"an end: it is {found.status}"
    if not names & {row["status"], "not stamped"}:
        yield f"the step {row['status']}"
    yield from (text for text in found.missing if "has no record" in text)


def _orphans(database: Any, seats: Sequence[Seat], signals: set[str], traced: set[str]) -> Iterator[str]:
    questions = {
        signal_id(ContextId(seat.symbol, NAME, EXCHANGE, mode=seat.mode), seat.begin_ms + minute * MINUTE_MS)
        for seat in seats
        for minute in range(-1, seat.minutes + 2)
    }
    known = signals | questions
    for record in database[AUDIT_ITEMS].find({}, {"signal": 1, "domain": 1, "cause": 1}):
        tells = record.keys() & ({"cause"} if record["domain"] == "state" else {"cause", "signal"})
        is_free = record["domain"] in OF_NO_SIGNAL and not tells
        if record["_id"] not in traced and record.get("signal") not in known and not is_free:
            yield str(record["_id"])
