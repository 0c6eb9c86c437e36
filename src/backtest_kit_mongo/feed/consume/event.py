"""One change as a consumer sees it, and the receipt with which it is acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from backtest_kit_mongo.backends.mongo.decoding import unreferenced
from backtest_kit_mongo.coherence.codec import pack, unpack
from backtest_kit_mongo.coherence.events import Event, Operation
from backtest_kit_mongo.coherence.record import Part
from backtest_kit_mongo.domains.table import BY_NAME
from backtest_kit_mongo.errors import CorruptData


@dataclass(slots=True, eq=False)
class Receipt:
    """What an acknowledgement needs to know about one event.

    Attributes:
        entries: (stream, entry id) of each delivery; a republished event has several.
        record: the audit record that it was read from, if it was not read from the stream.
        given_s: when it was last handed to the caller (monotonic); None until it is.
    """

    event_id: str
    settle: Callable[[Receipt], None]
    entries: list[tuple[str, str]] = field(default_factory=list)
    record: str | None = None
    given_s: float | None = None
    acknowledged: bool = False


@dataclass(frozen=True, slots=True)
class ChangeEvent:
    """One change of one document, or for `batch` of a run of new rows of a series. A `conflict` reports a row that was
    offered although it is stored with other values; nothing was changed.

    Attributes:
        key: key columns by stored name, for example {"symbol": "BTCUSDT", ...}.
        parts: the same values in the order of the domain's key.
        document: MongoDB `_id` as text.
        rev: revision that this change made. (document, rev) names a change once and for all; a consumer that keeps
            the newest state of a document ignores what is not above the revision it has.
        when: simulation time in ms, None where the domain stores none.
        written_at: the writer's wall clock, UTC.
        host, process: who wrote.
        replayed: it came from the audit log, not from the stream.
    """

    domain: str
    key: Mapping[str, Part] = field(hash=False)
    parts: tuple[Part, ...]
    document: str
    rev: int
    operation: Operation
    when: int | None
    written_at: datetime
    host: str
    process: int
    replayed: bool = field(compare=False)
    body: bytes = field(repr=False)
    receipt: Receipt = field(repr=False, compare=False)

    @property
    def id(self) -> str:
        """Identity of the change; a second delivery has the same one."""
        return self.receipt.event_id

    @property
    def payload(self) -> Any:
        """What was written, decoded anew by each access; for `batch`, {"ranges": [[first, last, count], ...], "count":
        n}; for `conflict`, {"timestamp": ms, "stored": {...}, "offered": {...}} with the value columns of both; for
        `delete` (for good), who did it and why: {"by": text, "why": text}.

        Raises:
            CorruptData: the bytes cannot be decoded. Acknowledge the event to go on without it.
        """
        try:
            return unpack(self.body)
        except Exception as cause:
            raise CorruptData(f"{self.id}: the payload cannot be decoded: {cause!r}") from cause

    def ack(self) -> None:
        """Say that the event has been dealt with, so that its group never gets it again. May be repeated, in any order.

        If Redis cannot be reached just now, it is informed as soon as it can; if this process ends before that, the
        event comes again.

        Raises:
            FeedClosed: its feed is closed; the event will be delivered again.
        """
        self.receipt.settle(self.receipt)


def from_stream(event: Event, receipt: Receipt) -> ChangeEvent:
    """A decoded stream entry."""
    return ChangeEvent(
        domain=event.domain,
        key=_named(event.domain, event.key),
        parts=event.key,
        document=event.document,
        rev=event.rev,
        operation=event.operation,
        when=event.when,
        written_at=datetime.fromtimestamp(event.written_ms / 1000, UTC),
        host=event.origin.host,
        process=event.origin.process,
        replayed=False,
        body=event.body,
        receipt=receipt,
    )


def from_audit(record: Mapping[str, Any], receipt: Receipt) -> ChangeEvent:
    """A record of the audit log.

    Raises:
        CorruptData: it holds what the worker never writes.
    """
    try:
        parts = tuple(record["key"])
        return ChangeEvent(
            domain=record["domain"],
            key=_named(record["domain"], parts),
            parts=parts,
            document=record["documentId"],
            rev=int(record["rev"]),
            operation=record["operation"],
            when=None if record["when"] is None else int(record["when"]),
            written_at=record["writtenAt"].astimezone(UTC),
            host=record["host"],
            process=int(record["process"]),
            replayed=True,
            body=pack(unreferenced(record["payload"])),
            receipt=receipt,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as cause:
        raise CorruptData(f"audit record {record.get('_id')!r} cannot be read as a change: {cause!r}") from cause


def _named(domain: str, parts: tuple[Part, ...]) -> dict[str, Part]:
    """Parts by column; a domain that only a newer release knows has numbers for names."""
    known = BY_NAME.get(domain)
    columns = known.columns if known is not None else tuple(map(str, range(len(parts))))
    return dict(zip(columns, parts, strict=False))
