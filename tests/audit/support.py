"""What the tests of the audit log share: a database, the worker's two halves of it, and records."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from bson.int64 import Int64
from pymongo.database import Database

from backtest_kit_mongo.audit import Report, verify
from backtest_kit_mongo.coherence.codec import millis, pack
from backtest_kit_mongo.coherence.events import Event, Operation, Origin
from backtest_kit_worker.fence import Fence, Primary
from backtest_kit_worker.roles.audit import AuditRole, AuditWriter
from backtest_kit_worker.services.seal import SealService

Document = dict[str, Any]
START = datetime(2024, 1, 1, tzinfo=UTC)


def change(
    rev: int,
    payload: Any = None,
    *,
    document: str = "d1",
    domain: str = "state",
    key: tuple[Any, ...] = ("signal", "bucket"),
    operation: Operation = "upsert",
    when: int | None = None,
) -> Event:
    """Revision `rev`, written `rev` minutes after START, at simulation time `rev` * 1,000 unless given."""
    return Event(
        domain=domain,
        key=key,
        document=document,
        rev=rev,
        operation=operation,
        when=rev * 1_000 if when is None else when,
        written_ms=millis(START + timedelta(minutes=rev)),
        origin=Origin("host", 7),
        body=pack({"data": rev} if payload is None else payload),
    )


def gap(rev: int, *, document: str = "d1", key: tuple[Any, ...] = ("signal", "bucket")) -> Document:
    """What recovery records for a revision whose content is lost."""
    return {
        "_id": f"state/{document}/{rev}",
        "domain": "state",
        "key": list(key),
        "documentId": document,
        "rev": Int64(rev),
        "operation": "gap",
        "when": None,
        "payload": None,
        "reason": "the oplog has moved past it",
        "recordedAt": START,
    }


def foreign(rev: int, n: int, payload: Any, *, document: str = "d1", when: int | None = None) -> Document:
    """What recovery records for a change that another program made after revision `rev`."""
    return {
        **gap(rev, document=document),
        "_id": f"state/{document}/{rev}~{n}",
        "operation": "foreign",
        "payload": payload,
        "foreign": Int64(n),
        "when": when,
        "writtenAt": START + timedelta(minutes=rev, seconds=30),
        "reason": "",
    }


def restart(patch: pytest.MonkeyPatch) -> None:
    """As far as workers can tell, MongoDB's process has ended, and another is the primary."""
    primary = Primary(ObjectId(), None)
    patch.setattr(Fence, "primary", lambda _: primary)


class Worker:
    """The audit role and a sealer on one database, driven by hand."""

    def __init__(self, database: Database[Document], records_max: int = 10_000) -> None:
        self.database = database
        self.role = AuditRole(database)
        self.writer = AuditWriter(database)
        self.sealer = SealService(database, records_max=records_max, rest_ms=0)
        self.role.open()
        self.sealer.open()

    def record(self, events: Iterable[Event]) -> int:
        """Deliver events in one batch."""
        return self.role.apply([(f"{number}-0", event) for number, event in enumerate(events)])

    def seal(self) -> int:
        """Seal until nothing is left; returns how many records were sealed."""
        total = 0
        while count := self.sealer.run_once():
            total += count
        return total

    def give_up_waiting(self) -> int:
        """A sealer to which every unconfirmed batch is old; returns how many records it sealed."""
        impatient = SealService(self.database, rest_ms=0, grace_ms=0)
        return sum(iter(impatient.run_once, 0))

    def sealed(self, events: Iterable[Event]) -> None:
        self.record(events)
        self.seal()

    def verify(self, **options: Any) -> Report:
        return verify(self.database, **options)

    def finds(self, **options: Any) -> list[tuple[str, str]]:
        """(kind, where) of all that `verify` finds."""
        return [(found.kind.value, found.where) for found in self.verify(findings_max=100, **options).findings]
