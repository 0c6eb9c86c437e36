"""Change events: what the writer publishes and the worker consumes. The bytes are a contract; golden copies stay in the
tests.

A stream entry has two fields: `e`, a msgpack map (the header), and `p`, the payload's own bytes, so that one script can
use the payload for the cache entry and for the event without sending it twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgpack

from backtest_kit_mongo.coherence.codec import unpack
from backtest_kit_mongo.coherence.record import Part

SCHEMA_VERSION = 1
Operation = Literal["upsert", "remove", "batch", "conflict"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Who writes: told once per process."""

    host: str
    process: int


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one document, or for `batch` of a run of new rows of a series. A `conflict` is no change: a row was
    offered that contradicts the stored one.

    Attributes:
        document: MongoDB `_id`; for `batch`, the series' key and the first new timestamp; for `conflict`, the row's key
            and a digest of what was offered.
        rev: revision that this change made. (document, rev) names a change once and for all.
        when: simulation time in ms, None where the domain stores none.
        written_ms: wall clock of the writer, for people; no rule compares it.
        body: packed payload; for `batch`, {"ranges": [[first, last, count], ...], "count": n}; for `conflict`,
            {"timestamp": ms, "stored": {...}, "offered": {...}} with the value columns of both.
        trace: the writer's span as a W3C `traceparent`, empty if nobody traces. Not part of the change: consumers that
            store changes leave it out.
    """

    domain: str
    key: tuple[Part, ...]
    document: str
    rev: int
    operation: Operation
    when: int | None
    written_ms: int
    origin: Origin
    body: bytes
    trace: str = ""

    @property
    def id(self) -> str:
        """Identity of the change. A republished event has the same one."""
        return f"{self.domain}/{self.document}/{self.rev}"

    @property
    def payload(self) -> Any:
        return unpack(self.body)

    def header(self) -> bytes:
        fields: dict[str, Any] = {
            "v": SCHEMA_VERSION,
            "id": self.id,
            "domain": self.domain,
            "key": self.key,
            "doc": self.document,
            "rev": self.rev,
            "op": self.operation,
            "when": self.when,
            "at": self.written_ms,
            "host": self.origin.host,
            "pid": self.origin.process,
        }
        if self.trace:
            # Readers of version 1 take the fields that they know, so one more needs no new version.
            fields["trace"] = self.trace
        packed: bytes = msgpack.packb(fields)
        return packed


class UnknownEvent(ValueError):
    """A stream entry that this version cannot read. It must be kept for one that can."""


def decode(fields: Mapping[bytes, bytes]) -> Event:
    """Read a stream entry.

    Raises:
        UnknownEvent: the entry is malformed or of a newer schema version.
    """
    try:
        header = msgpack.unpackb(fields[b"e"])
        if header["v"] != SCHEMA_VERSION:
            raise UnknownEvent(f"event schema version {header['v']!r}; this worker reads version {SCHEMA_VERSION}")
        return Event(
            domain=header["domain"],
            key=tuple(header["key"]),
            document=header["doc"],
            rev=header["rev"],
            operation=header["op"],
            when=header["when"],
            written_ms=header["at"],
            origin=Origin(header["host"], header["pid"]),
            body=fields[b"p"],
            trace=header.get("trace", ""),
        )
    except UnknownEvent:
        raise
    except Exception as cause:
        raise UnknownEvent(f"not a change event: {cause!r}") from cause
