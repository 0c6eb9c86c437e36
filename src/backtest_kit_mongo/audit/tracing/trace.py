"""The trace itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from backtest_kit_mongo.audit.log import AuditLog
from backtest_kit_mongo.audit.records import AuditRecord
from backtest_kit_mongo.audit.tracing import showing
from backtest_kit_mongo.audit.tracing.finding import (
    ENGINE,
    PAPER,
    context_of,
    contexts_of,
    engine_row,
    find_records,
)
from backtest_kit_mongo.audit.tracing.marks import Mark, marks_of
from backtest_kit_mongo.audit.tracing.tree import UNSTAMPED, TraceStep, steps_of, writer
from backtest_kit_mongo.coherence.texts import plain_text
from backtest_kit_mongo.errors import NotFound

__all__ = ["Trace", "trace"]


@dataclass(frozen=True, slots=True)
class Trace:
    """What became of a signal.

    Attributes:
        exchange: as in keys, so with `~paper` behind it on paper.
        mode: live, paper or backtest; empty: unknown.
        status: asked scheduled opened closed cancelled; empty: unknown.
        row: the newest row of the history, else of the signal; empty if there is none.
        steps: the minutes in which something happened to it, oldest first.
        hosts: `host:process` of all that wrote.
        candles: the five one-minute candles before the question: timestamp open high low close volume.
        missing: what cannot be shown, a sentence each.
    """

    signal: str
    symbol: str
    strategy: str
    exchange: str
    mode: str
    status: str
    row: Mapping[str, Any]
    steps: tuple[TraceStep, ...]
    marks: tuple[Mark, ...]
    hosts: tuple[str, ...]
    candles: tuple[Mapping[str, Any], ...]
    missing: tuple[str, ...]

    def walk(self) -> Iterator[TraceStep]:
        """All steps, parents before what they led to."""
        waiting = list(reversed(self.steps))
        while waiting:
            step = waiting.pop()
            yield step
            waiting += reversed(step.steps)

    def records(self) -> list[AuditRecord]:
        """All records that belong to it."""
        return [change.record for step in self.walk() for change in step.changes if not change.is_read]

    def lines(self, *, is_whole: bool = False) -> Iterator[str]:
        """The tree as text; `is_whole`: with every difference of every revision."""
        return showing.lines(self, is_whole=is_whole)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: times of the simulation in ms, of writers in ISO 8601, payloads as Extended JSON."""
        return showing.to_dict(self)


def trace(log: AuditLog, signal: str) -> Trace:
    """The trace of a signal, or of a question that became none.

    Raises:
        InvalidKey: that is no text.
        NotFound: no record belongs to it.
        ServerUnreachable, ReadFailed.
    """
    signal = plain_text(signal, "a signal's id")
    found = find_records(log, signal)
    records = found.records
    if not records:
        why = f" {found.missing[0]}." if found.missing else ""
        raise NotFound(
            f"no record of the audit log belongs to a signal {signal!r:.80}.{why} `bkm ls storage` lists signals; one "
            "that was written less than a second ago may not be recorded yet"
        )
    missing = found.missing
    steps = steps_of(found, missing)
    missing += _lacks(records)
    context = context_of(records) or {"symbol": "", "strategy": "", "exchange": ""}
    row = _newest_row(records)
    return Trace(
        signal,
        context["symbol"],
        context["strategy"],
        context["exchange"],
        _mode(records, context["exchange"]),
        _status(records, row),
        row,
        steps,
        marks_of(records),
        tuple(dict.fromkeys(writer(record) for record in records if record.host)),
        tuple(found.candles),
        tuple(dict.fromkeys(missing)),
    )


def _lacks(records: list[AuditRecord]) -> Iterator[str]:
    """What a reader would look for and not find."""
    unstamped = sum(record.cause is None for record in records)
    if unstamped:
        yield (
            f"{unstamped} of {len(records)} records say nothing of what caused them (of another program, of an earlier "
            f"version, or published by recovery); they stand in their minutes as {UNSTAMPED!r}"
        )
    told = [engine_row(record).get("kind") for record in records]
    if "asked" not in told:
        yield "what the strategy saw when it was asked: no record tells"
    if "order" not in told and any(record.domain == "signal" for record in records):
        yield "orders and their replies: no record tells"
    if gone := [record for record in records if record.payload is None and record.reason]:
        yield f"the content of {len(gone)} revisions: {gone[0].reason}"
    if len(contexts := contexts_of(records)) > 1:
        names = "; ".join(sorted(" ".join(one) for one in contexts))
        yield f"which of several contexts is meant: the id was given to signals of {names}; all are shown"


def _newest_row(records: list[AuditRecord]) -> Mapping[str, Any]:
    for domain in ("storage", "signal", "schedule"):
        rows = [one.payload for one in records if one.domain == domain and isinstance(one.payload, dict)]
        if rows:
            return dict(rows[-1])
    return {}


def _status(records: list[AuditRecord], row: Mapping[str, Any]) -> str:
    if "status" in row:
        return str(row["status"])
    domains = {record.domain for record in records if record.payload is not None}
    if "signal" in domains:
        return "opened"
    if "schedule" in domains:
        return "scheduled"
    return "asked" if any(record.domain == "memory" and ENGINE in record.key for record in records) else ""


def _mode(records: list[AuditRecord], exchange: str) -> str:
    if exchange.endswith(PAPER):
        return "paper"
    of_lists = (record.key[0] for record in records if record.domain == "storage" and record.key)
    is_backtest = next(of_lists, None)
    return "" if is_backtest is None else "backtest" if is_backtest is True else "live"
