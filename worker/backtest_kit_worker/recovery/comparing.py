"""Whether an audit record tells what MongoDB's own log reports the same revision.

Whoever may append to the stream may append an event with the next revision of a document before its writer does; then
that is recorded, and the writer's own event is taken for a second delivery. Only a comparison of contents distinguishes
the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bson.raw_bson import RawBSONDocument

from backtest_kit_mongo.audit.records import ERASED, GAP
from backtest_kit_mongo.backends.mongo.layout import payload_field
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.record import Domain
from backtest_kit_worker.recovery.changes import RAW, LoggedChange, decode, deletion_of, operation_of
from backtest_kit_worker.recovery.payloads import Unrecoverable, moment, plain

FIELDS: Final = {"operation": 1, "when": 1, "payload": 1, ERASED: 1}
"""Of a record, what is compared."""
_ABSENT: Final = object()


def agrees(change: LoggedChange, record: RawBSONDocument) -> bool:
    """Whether a record (its `FIELDS`) can be that of the change, as far as the change tells. A gap claims nothing."""
    operation: Any = record.get("operation")
    if operation == GAP or record.get(ERASED) is not None:
        return True
    if (note := deletion_of(change)) is not None:
        return operation == "delete" and _equal(note, decode(bytes(record.raw)).get("payload"))
    reported = RawBSONDocument(change.body, RAW) if change.body else {}
    # Found later than the change, and no foreign change came in between.
    found = RawBSONDocument(change.found, RAW) if change.found and not change.doubtful else None
    if operation not in ("upsert", "remove") or ("removed" in reported and operation != operation_of(change)):
        return False
    domain = change.domain
    whole = reported if change.whole or (change.intact and payload_field(domain) in reported) else found
    if (
        domain.has_when
        and "when" in (times := found or reported)
        and not _same_moment(times.get("when"), record.get("when"))
    ):
        return False
    if whole is None:
        return _holds(decode(change.body), payload_field(domain), decode(bytes(record.raw)).get("payload"))
    stored, recorded = whole.get(payload_field(domain)), record.get("payload")
    if isinstance(stored, RawBSONDocument) and isinstance(recorded, RawBSONDocument) and stored.raw == recorded.raw:
        return True  # Nearly always, and without decoding.
    return _same(domain, _decoded(whole).get(payload_field(domain)), decode(bytes(record.raw)).get("payload"))


def tells(record: RawBSONDocument, domain: Domain, payload: Any) -> bool:
    """Whether a record (its `FIELDS`) has this payload. A gap claims nothing."""
    return record.get("operation") == GAP or _same(domain, payload, decode(bytes(record.raw)).get("payload"))


def _decoded(document: Any) -> dict[str, Any]:
    return decode(bytes(document.raw)) if isinstance(document, RawBSONDocument) else {}


def _same(domain: Domain, stored: Any, recorded: Any) -> bool:
    try:
        return pack(plain(domain, stored)) == pack(plain(domain, recorded))
    except (Unrecoverable, TypeError, ValueError, OverflowError):
        return False


def _same_moment(stored: Any, recorded: Any) -> bool:
    try:
        return moment(stored) == moment(recorded)
    except Unrecoverable:
        return False


def _holds(fields: Mapping[str, Any], column: str, payload: Any) -> bool:
    """Whether a payload has each of the members that an update set."""
    for path, value in fields.items():
        if not path.startswith(f"{column}."):
            continue
        member = payload
        for name in path.split(".")[1:]:
            if isinstance(member, dict):
                member = member.get(name, _ABSENT)
            elif isinstance(member, list) and name.isdecimal() and int(name) < len(member):
                member = member[int(name)]
            else:
                member = _ABSENT
        if member is _ABSENT or not _equal(member, value):
            return False
    return True


def _equal(one: Any, other: Any) -> bool:
    try:
        return pack(one) == pack(other)
    except (TypeError, ValueError, OverflowError):
        return False
