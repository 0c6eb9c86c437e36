"""Change events: what the writer publishes and the worker consumes. The bytes are a contract; golden copies stay in the
tests.

A stream entry has two fields: `e`, a msgpack map (the header), and `p`, the payload's own bytes, so that one script can
use the payload for the cache entry and for the event without sending it twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, get_args

import msgpack

from backtest_kit_mongo.coherence.causes import Cause, as_fields, from_fields, is_cause
from backtest_kit_mongo.coherence.codec import unpack
from backtest_kit_mongo.coherence.record import Part

SCHEMA_VERSION = 1
Operation = Literal["upsert", "remove", "batch", "conflict", "delete"]
OPERATIONS: Final = frozenset(get_args(Operation))
REV_MAX: Final = 2**53
"""Beyond it a number is no revision: a double could not count it."""
_INT64: Final = range(-(2**63), 2**63)
_WALL_MS: Final = range(253_402_300_800_000)
"""What a calendar date can be made of: the years 1970 to 9999."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Who writes: reported once per process."""

    host: str
    process: int


class Event(NamedTuple):
    """One change of one document, or for `batch` of a run of new rows of a series. A `conflict` is no change: a row was
    offered that conflicts with the stored one.

    A named tuple, as `Record` is: each write makes one.

    Attributes:
        document: MongoDB `_id`; for `batch`, the series' key and the first new timestamp; for `conflict`, the row's key
            and a digest of what was offered.
        rev: revision that this change made. (document, rev) names a change once and for all.
        when: simulation time in ms, None where the domain stores none.
        written_ms: wall clock of the writer, for people; no rule compares it.
        body: packed payload; for `batch`, {"ranges": [[first, last, count], ...], "count": n}; for `conflict`,
            {"timestamp": ms, "stored": {...}, "offered": {...}} with the value columns of both; for `delete`, who
            deleted the document for good and why: {"by": text, "why": text}.
        trace: the writer's span as a W3C `traceparent`, empty if nobody traces. Not part of the change: consumers that
            store changes leave it out.
        step: the step that the change is part of, empty for none.
        cause: what the change belongs to, as its writer said (`causes.py`); not part of the change either.
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
    step: str = ""
    cause: Cause | None = None

    @property
    def id(self) -> str:
        """Identity of the change. A republished event has the same one."""
        return f"{self.domain}/{self.document}/{self.rev}"

    @property
    def payload(self) -> Any:
        """What `body` holds, decoded anew by each access.

        Raises:
            UnknownEvent: it cannot be decoded.
        """
        try:
            return unpack(self.body)
        except Exception as cause:
            raise UnknownEvent(f"its payload cannot be decoded: {cause!r}") from cause

    def header(self) -> bytes:
        fields: dict[str, Any] = {
            "v": SCHEMA_VERSION,
            "id": f"{self.domain}/{self.document}/{self.rev}",
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
        if self.step:
            fields["step"] = self.step
        if self.cause is not None:
            fields["cause"] = as_fields(self.cause)
        packed: bytes = msgpack.packb(fields)
        return packed


class UnknownEvent(ValueError):
    """A stream entry that this version cannot read or apply, whatever the servers do: its own bytes are to blame. It
    must be kept for a version that can.
    """


def decode(fields: Mapping[bytes, bytes]) -> Event:
    """Read a stream entry. Whoever may append to the stream may append anything, so every field is checked for its type
    and
    range: what comes out of here can be stored, compared, and shown.

    Raises:
        UnknownEvent: the entry is malformed or of a newer schema version.
    """
    try:
        header = msgpack.unpackb(fields[b"e"])
        body = fields[b"p"]
        version = header["v"]
    except Exception as cause:
        raise UnknownEvent(f"not a change event: {cause!r}") from cause
    if type(version) is not int or version != SCHEMA_VERSION:
        raise UnknownEvent(f"event schema version {version!r:.50}; this worker reads version {SCHEMA_VERSION}")
    wrong = [name for name, holds in _FIELDS.items() if not holds(header.get(name, _ABSENT))]
    if wrong:
        seen = ", ".join(f"{name} is {f'{header[name]!r:.50}' if name in header else 'missing'}" for name in wrong)
        raise UnknownEvent(f"not a change event: {seen}")
    event = Event(
        domain=header["domain"],
        key=tuple(header["key"]),
        document=header["doc"],
        rev=header["rev"],
        operation=header["op"],
        when=header["when"],
        written_ms=header["at"],
        origin=Origin(header["host"], header["pid"]),
        body=body,
        trace=header.get("trace", ""),
        step=header.get("step", ""),
        cause=from_fields(header.get("cause")),
    )
    if header["id"] != event.id:
        raise UnknownEvent(f"not a change event: id is {header['id']!r:.80}, its other fields say {event.id!r:.80}")
    return event


_ABSENT: Final = object()


def _is_int(value: Any) -> bool:
    return type(value) is int and value in _INT64


def _is_name(value: Any) -> bool:
    return type(value) is str and value != ""


_FIELDS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "id": _is_name,
    "domain": lambda value: _is_name(value) and "/" not in value,
    "key": lambda value: (
        type(value) is list and len(value) > 0 and all(type(part) in (str, bool) or _is_int(part) for part in value)
    ),
    "doc": _is_name,
    "rev": lambda value: type(value) is int and 0 < value < REV_MAX,
    "op": lambda value: type(value) is str and value in OPERATIONS,
    "when": lambda value: value is None or _is_int(value),
    "at": lambda value: type(value) is int and value in _WALL_MS,
    "host": lambda value: type(value) is str,
    "pid": lambda value: _is_int(value) and value >= 0,
    "trace": lambda value: value is _ABSENT or type(value) is str,
    "step": lambda value: value is _ABSENT or type(value) is str,
    "cause": lambda value: value is _ABSENT or is_cause(value),
}
"""What each field of the header must be."""
