"""One change of one document, as recovery carries it from sight to judgement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from typing import Any, Final, Literal

from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument

from backtest_kit_mongo.backends.mongo.decoding import decoded
from backtest_kit_mongo.backends.mongo.deleting import DELETED
from backtest_kit_mongo.backends.mongo.layout import collection_of, payload_field
from backtest_kit_mongo.coherence.events import REV_MAX, Operation
from backtest_kit_mongo.coherence.record import Domain, Key, Part, Shape
from backtest_kit_mongo.domains.table import DOMAINS

Source = Literal["insert", "update", "replace", "delete", "scan"]
COLLECTIONS: Final = {collection_of(domain): domain for domain in DOMAINS}
OVERHEAD_BYTES: Final = 600
"""Of a change in memory, beside its BSON."""
# Whatever MongoDB holds decodes: dates outside of Python's calendar as numbers, text that is no UTF-8 with its odd
# bytes escaped. Both are distinguished from what this package writes, and refused, where a payload or a key is made of
# them.
PLAIN: Final = CodecOptions[dict[str, Any]](
    tz_aware=True, tzinfo=UTC, datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    unicode_decode_error_handler="surrogateescape",
)  # fmt: skip
RAW: Final = CodecOptions(
    document_class=RawBSONDocument, tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    unicode_decode_error_handler="surrogateescape",
)  # fmt: skip


class ChangeKind(Enum):
    """What must become of a change."""

    OWN = "own"
    """It raised the revision: an event with this identity is due."""
    FOREIGN = "foreign"
    """It did not: no event is due, and the audit log must say that it happened."""
    SKIPPED = "skipped"
    """A revision that no change made, or whose change is lost, or a run of them: recorded as a gap unless a record
    turns up.
    """


@dataclass(slots=True, eq=False, weakref_slot=True)
class LoggedChange:
    """A change that recovery has seen.

    Attributes:
        document: MongoDB `_id` as text.
        rev: OWN: the revision that it made. FOREIGN: the highest that the document had.
        at: MongoDB's cluster time as one integer; 0 for a change that was found by scan.
        key: None: neither the document nor a record of it is left that would tell.
        body: BSON of the whole document as the change made it, or of the fields that an update changed.
        whole: which of the two `body` is.
        intact: an update that only set fields, so that what was before and `body` give what was after.
        found: BSON of the whole document, read soon after an update; emptied when a change in between is classified.
        doubtful: `found`, or the revision of a FOREIGN change, is of a later moment than the change, and the log is not
            read
        up to there yet: what it will tell may be in `found`.
        reason: why a SKIPPED revision is missing.
        first: of a run of SKIPPED revisions up to `rev`, the first; 0 for a single one.
        publish_count: how often its event was republished.
    """

    domain: Domain
    document: str
    rev: int
    kind: ChangeKind
    source: Source
    at: int = 0
    key: Key | None = None
    body: bytes = field(default=b"", repr=False)
    whole: bool = False
    intact: bool = True
    found: bytes = field(default=b"", repr=False)
    doubtful: bool = False
    reason: str = ""
    first: int = 0
    publish_count: int = 0

    @property
    def revision_id(self) -> str:
        """Identity of the revision's event and audit record."""
        run = f"{self.first}-{self.rev}" if self.first else self.rev
        return f"{self.domain.name}/{self.document}/{run}"

    @property
    def id(self) -> str:
        """Identity of the audit record that this change must have."""
        return f"{self.revision_id}~{self.at}" if self.kind is ChangeKind.FOREIGN else self.revision_id

    @property
    def is_row(self) -> bool:
        """A new row of a series: its event is a batch's."""
        return self.kind is ChangeKind.OWN and self.domain.shape is Shape.SERIES

    @property
    def size(self) -> int:
        """Bytes held in memory."""
        return len(self.body) + len(self.found) + OVERHEAD_BYTES


def decode(raw: bytes) -> dict[str, Any]:
    """BSON as Python data, dates in UTC; see `PLAIN` for what Python has no value for."""
    return decoded(raw, PLAIN) if raw else {}


def document_name(document: Mapping[str, Any]) -> str:
    """A document's `_id` as events and records name it."""
    name = document["_id"]
    return id_text(decode(bytes(name.raw)) if isinstance(name, RawBSONDocument) else name)


def id_text(stored: Any) -> str:
    """A decoded `_id` as text that can be sent and stored, whatever it is."""
    text = str(stored)
    return text if is_part(text) else text.encode("ascii", "backslashreplace").decode()


SINGLE_MAX: Final = 100
"""So many missing revisions in a row get a gap record each, which an event that turns up later would meet; more get one
together, or one number set by hand would be as many records.
"""


def skipped(
    domain: Domain, document: str, run: range, reason: str, *, at: int, key: Key | None
) -> Iterator[LoggedChange]:
    """The changes that say of a run of revisions that they are missing."""
    if len(run) <= SINGLE_MAX:
        for rev in run:
            yield LoggedChange(domain, document, rev, ChangeKind.SKIPPED, "scan", at=at, key=key, reason=reason)
        return
    start = run.start
    if start == 1:
        # A document is found by its first revision.
        yield LoggedChange(domain, document, 1, ChangeKind.SKIPPED, "scan", at=at, key=key, reason=reason)
        start = 2
    yield LoggedChange(
        domain, document, run.stop - 1, ChangeKind.SKIPPED, "scan", at=at, key=key, reason=reason, first=start
    )


def revision(value: Any) -> int:
    """A stored revision; 0 if there is none. Foreign writers may have stored it as a double."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    valid = isinstance(value, int) and not isinstance(value, bool) and 0 < value < REV_MAX
    return int(value) if valid else 0


def key_of(domain: Domain, document: Mapping[str, Any]) -> Key | None:
    """The key that a document's columns hold; None if one of them holds what a key cannot."""
    parts: list[Part] = []
    for column in domain.key:
        value = document.get(column.name)
        if column.type is int and isinstance(value, float) and value.is_integer():
            value = int(value)  # The npm package stores doubles.
        if not isinstance(value, column.type) or not is_part(value) or isinstance(value, bool) != (column.type is bool):
            return None
        parts.append(column.type(value))
    return Key(domain, tuple(parts))


def is_part(value: Any) -> bool:
    """Whether a value can be a part of a key, in Redis' names and in events."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
        return True
    return isinstance(value, bool) or (isinstance(value, int) and -(2**63) <= value < 2**63)


def recorded_key(domain: Domain, parts: Any) -> Key | None:
    """The key that an audit record names; None if it names none."""
    is_key = isinstance(parts, list) and 0 < len(parts) <= len(domain.key) and all(map(is_part, parts))
    return Key(domain, tuple(parts)) if is_key else None


def cache_key(key: Key) -> Key | None:
    """The key under which the cache knows of this document: a list has one entry for all its rows, a series none."""
    if key.domain.shape is Shape.SERIES:
        return None
    return key.scope if key.domain.shape is Shape.LIST else key


@cache
def _own_columns(domain: Domain) -> frozenset[str]:
    stored = domain.fields or (payload_field(domain),)
    return frozenset((*domain.columns, *stored, "when", "removed", "rev"))


def concerns(domain: Domain, paths: Iterable[str]) -> bool:
    """Whether any of these changed fields is one that this package ever reads. A touched `updatedDate` is none."""
    columns = _own_columns(domain)
    return any(path.split(".", 1)[0] in columns for path in paths)


def is_complete(domain: Domain, fields: Mapping[str, Any]) -> bool:
    """Whether changed fields alone tell the payload and its time. MongoDB leaves out a field that was set to what it
    was.
    """
    return payload_field(domain) in fields and (not domain.has_when or "when" in fields)


def deletion_of(change: LoggedChange) -> dict[str, Any] | None:
    """Who deleted the document and why, if the change is the first half of a deletion for good."""
    fields = decode(change.body)
    note = fields.get(DELETED)
    # A document that was written again after half a deletion still has the field.
    is_first_half = not change.whole or fields.get(payload_field(change.domain)) is None
    return note if isinstance(note, dict) and is_first_half else None


def operation_of(change: LoggedChange) -> Operation:
    """What a change was. A removal marks the document and leaves its payload's own fields as they are."""
    if deletion_of(change) is not None:
        return "delete"
    fields = decode(change.body)
    marked = change.domain.has_removed and fields.get("removed") is True
    return "remove" if marked and (change.source == "scan" or payload_field(change.domain) not in fields) else "upsert"


def written_at(change: LoggedChange) -> datetime:
    """The writer's wall clock as it stored it, otherwise MongoDB's; now, if neither is left."""
    stored = decode(change.body).get("updatedDate")
    if isinstance(stored, datetime) and stored.year >= 1970:
        return stored
    return datetime.fromtimestamp(change.at >> 32, UTC) if change.at else datetime.now(UTC)
