"""From records to steps: by their stamps; what has none stands below its minute, and says so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from backtest_kit_mongo.audit.differences import ABSENT, differences
from backtest_kit_mongo.audit.records import GAP, AuditRecord
from backtest_kit_mongo.audit.tracing.finding import Found, engine_row
from backtest_kit_mongo.coherence.moments import millis

__all__ = ["TraceChange", "TraceStep", "steps_of"]

MINUTE_MS: Final = 60_000
UNSTAMPED: Final = "not stamped"
MINUTES: Final = ("tick", "resumed")
"""Steps that nothing led to: a minute began, or a process went on after a stop.
"""


@dataclass(frozen=True, slots=True)
class TraceChange:
    """Attributes:
    differences: to the revision before, a text a field.
    is_read: the step only read it: a stored answer.
    """

    record: AuditRecord
    differences: tuple[str, ...] = ()
    is_read: bool = False


@dataclass(slots=True)
class TraceStep:
    """Attributes:
    id: `{at}/{what}`, the same when a crash had it done again.
    what: tick, resumed, asked, order-open-0, opened, partial_profit-10, closed, ..
    at: the simulated minute, ms; None: unknown.
    detail: of a question, what was seen and answered; of an order, what was ordered and replied.
    changes: in the order in which they were written.
    steps: what it led to.
    """

    id: str
    what: str
    at: int | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    changes: list[TraceChange] = field(default_factory=list)
    steps: list[TraceStep] = field(default_factory=list)

    @property
    def writers(self) -> tuple[str, ...]:
        """`host:process` of each that wrote."""
        return tuple(dict.fromkeys(writer(one.record) for one in self.changes if not one.is_read and one.record.host))

    @property
    def first_written(self) -> datetime | None:
        return min(self._written(), default=None)

    @property
    def last_written(self) -> datetime | None:
        return max(self._written(), default=None)

    def _written(self) -> list[datetime]:
        return [one.record.written_at for one in self.changes if not one.is_read and one.record.written_at is not None]


def writer(record: AuditRecord) -> str:
    return f"{record.host}:{record.process}"


def steps_of(found: Found, missing: list[str]) -> tuple[TraceStep, ...]:
    """The minutes, oldest first; `missing` gets what they lack."""
    steps: dict[str, TraceStep] = {}
    parents: dict[str, str] = {}
    for change in _changes(found):
        step, parent = _step_of(change.record)
        made = steps.setdefault(step.id, step)
        made.changes.append(change)
        if parent:
            parents.setdefault(step.id, parent)
        if told := engine_row(change.record):
            made.detail = told
            answers = (found.answers.get((bucket, key)) for bucket, key in told.get("measures") or ())
            made.changes[:0] = [TraceChange(one, is_read=True) for one in answers if one is not None]
    roots = _joined(steps, parents, missing)
    return tuple(sorted(roots, key=lambda one: (-1 if one.at is None else one.at, one.what != "resumed")))


def _changes(found: Found) -> Iterable[TraceChange]:
    """Each with how it differs from the revision of the same document before it."""
    last: dict[str, AuditRecord] = dict(found.before)
    for record in found.records:
        document = f"{record.domain}/{record.document_id}"
        before = last.get(document)
        last[document] = record
        if record.operation == GAP:
            yield TraceChange(record)
            continue
        payload = ABSENT if before is None else before.payload
        yield TraceChange(record, tuple(map(str, differences(payload, record.payload))))


def _step_of(record: AuditRecord) -> tuple[TraceStep, str]:
    cause = record.cause
    if cause is not None:
        what = cause.step.partition("/")[2] or cause.step
        return TraceStep(cause.step, what, cause.at), cause.parent
    at = minute_of(record)
    return TraceStep(f"{at}/{UNSTAMPED}", UNSTAMPED, at), "" if at is None else f"{at}/tick"


def minute_of(record: AuditRecord) -> int | None:
    """The simulated minute that a record without a stamp tells: its own time, its payload's, or when it was written,
    which in live runs is nearly the same.
    """
    moment = record.when
    if moment is None and isinstance(record.payload, dict):
        names = ("closeTimestamp", "updatedAt", *(("timestamp",) if "type" in record.payload else ()))
        named = (record.payload.get(name) for name in names)
        moment = next((int(one) for one in named if isinstance(one, int | float) and one), None)
    if moment is None and record.written_at is not None:
        moment = millis(record.written_at)
    return None if moment is None else moment // MINUTE_MS * MINUTE_MS


def _joined(steps: dict[str, TraceStep], parents: Mapping[str, str], missing: list[str]) -> list[TraceStep]:
    """Below its parent each; minutes are made where no record says anything but that they led to something."""
    roots: dict[str, TraceStep] = {}
    below: defaultdict[str, list[TraceStep]] = defaultdict(list)
    for step in steps.values():
        parent = parents.get(step.id, "")
        if parent in steps:
            below[parent].append(step)
            continue
        what = parent.partition("/")[2]
        if parent and what not in MINUTES:
            missing.append(f"the step {what} at {step.at}, which led to {step.what}, has no record in the log")
            parent = f"{step.at}/tick"
        if not parent:
            roots[step.id] = step
            continue
        if parent not in roots:
            roots[parent] = TraceStep(parent, parent.partition("/")[2], step.at)
        below[parent].append(step)
    for name, ones in below.items():
        (steps.get(name) or roots[name]).steps = sorted(ones, key=_first)
    return list(roots.values())


def _first(step: TraceStep) -> tuple[float, str]:
    written = step.first_written
    return (float("inf") if written is None else written.timestamp(), step.id)
