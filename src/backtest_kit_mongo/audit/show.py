"""Records as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from backtest_kit_mongo.audit.differences import ABSENT, differences
from backtest_kit_mongo.audit.keytext import format_key
from backtest_kit_mongo.audit.records import CORRECTION, DELETE, FOREIGN, GAP, AuditRecord


def line(record: AuditRecord) -> str:
    """One record on one line: when it was written, what was done, to what, and by whom."""
    key = format_key(record.domain, record.key) if record.key else f"{record.domain}/? ({record.document_id})"
    done = f"{_written(record)}  {record.operation:<7}  {key}  {_revision(record)}"
    return f"{done}{_simulated(record)}{_writer(record)}{_step(record)}"


def timeline(records: Iterable[AuditRecord]) -> Iterator[str]:
    """Lines for the changes of one key, oldest first: each revision, then how its payload differs from the one before.

    A payload that follows a gap is compared with the last one that is known.
    """
    document = ""
    rev = 0
    payload: object = ABSENT
    for record in records:
        if record.document_id != document:
            document, rev, payload = record.document_id, 0, ABSENT
            yield f"document {document}"
        if (first := record.first or record.rev) > rev + 1:
            yield f"  rev {rev + 1}{f'..{first - 1}' if first > rev + 2 else ''}  no record yet"
        rev = max(rev, record.rev)
        yield (
            f"  {_revision(record)}  {record.operation}  written "
            f"{_written(record)}{_simulated(record)}{_writer(record)}{_step(record)}"
        )
        if record.operation == DELETE and isinstance(record.payload, dict):
            yield f"    by {record.payload.get('by')}: {record.payload.get('why')}"
            continue
        if record.reason:
            yield f"    {record.reason}"
        if record.operation == GAP or (record.operation == FOREIGN and record.payload is None and record.reason):
            continue
        for difference in differences(payload, record.payload):
            yield f"    {difference}"
        payload = record.payload


def _revision(record: AuditRecord) -> str:
    if record.operation == CORRECTION:
        return f"rev {record.rev}"
    run = f"{record.first}..{record.rev}" if 0 < record.first < record.rev else record.rev
    return f"rev {run}" if record.foreign is None else f"after rev {record.rev}"


def _written(record: AuditRecord) -> str:
    """Seconds would not distinguish neighbours."""
    return "at an unknown time" if record.written_at is None else _iso(record.written_at)


def _simulated(record: AuditRecord) -> str:
    """The simulation time, as a date where it can be one."""
    if record.when is None:
        return ""
    try:
        return f"  when {_iso(datetime.fromtimestamp(record.when / 1000, UTC))}"
    except (ValueError, OverflowError, OSError):
        return f"  when {record.when}"


def _writer(record: AuditRecord) -> str:
    return f"  by {record.host}:{record.process}" if record.host else ""


def _step(record: AuditRecord) -> str:
    return f"  step {record.step}" if record.step else ""


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
