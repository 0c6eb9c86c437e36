"""One change of one document, as recovery carries it from sight to judgement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from typing import Any, Final, Literal

from bson.codec_options import CodecOptions

from backtest_kit_mongo.backends.mongo.decoding import decoded
from backtest_kit_mongo.coherence.record import Domain, Key, Part, Shape
from backtest_kit_mongo.domains.table import DOMAINS

Source = Literal["insert", "update", "replace", "delete", "scan"]
COLLECTIONS: Final = {domain.collection: domain for domain in DOMAINS}
REV_MAX: Final = 2**53
"""Beyond it a number is no revision: a double could not count it."""
OVERHEAD_BYTES: Final = 600
"""Of a change in memory, beside its BSON."""
_PLAIN: Final = CodecOptions[dict[str, Any]](tz_aware=True, tzinfo=UTC)


class Kind(Enum):
    """What must become of a change."""

    OWN = "own"
    """It raised the revision: an event with this identity is due."""
    FOREIGN = "foreign"
    """It did not: no event is due, and the audit log must say that it happened."""
    SKIPPED = "skipped"
    """A revision that no change made, or whose change is lost: recorded as a gap unless a record turns up."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Change:
    """A change that recovery has seen.

    Attributes:
        document: MongoDB `_id` as text.
        rev: OWN: the revision that it made. FOREIGN: the highest that the document had.
        at: MongoDB's cluster time as one integer; 0 for a change that was found by scan.
        key: None: neither the document nor a record of it is left that would tell.
        body: BSON of the whole document as the change made it, or of the fields that an update changed.
        whole: which of the two `body` is.
        intact: an update that only set fields, so that what was before and `body` give what was after.
        found: BSON of the whole document, read soon after an update; emptied when a change in between is sighted.
        doubtful: `found`, or the revision of a FOREIGN change, is of a later moment than the change, and the log is not read
        up to there yet: what it will tell may be in `found`.
        reason: why a SKIPPED revision is missing.
        publish_count: how often its event was republished.
    """

    domain: Domain
    document: str
    rev: int
    kind: Kind
    source: Source
    at: int = 0
    key: Key | None = None
    body: bytes = field(default=b"", repr=False)
    whole: bool = False
    intact: bool = True
    found: bytes = field(default=b"", repr=False)
    doubtful: bool = False
    reason: str = ""
    publish_count: int = 0

    @property
    def revision_id(self) -> str:
        """Identity of the revision's event and audit record."""
        return f"{self.domain.name}/{self.document}/{self.rev}"

    @property
    def id(self) -> str:
        """Identity of the audit record that this change must have."""
        return f"{self.revision_id}~{self.at}" if self.kind is Kind.FOREIGN else self.revision_id

    @property
    def is_row(self) -> bool:
        """A new row of a series: its event is a batch's."""
        return self.kind is Kind.OWN and self.domain.shape is Shape.SERIES

    @property
    def size(self) -> int:
        """Bytes held in memory."""
        return len(self.body) + len(self.found) + OVERHEAD_BYTES


def decode(raw: bytes) -> dict[str, Any]:
    """BSON as Python data, dates in UTC."""
    return decoded(raw, _PLAIN) if raw else {}


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
        if not isinstance(value, column.type) or (isinstance(value, bool) and column.type is not bool):
            return None
        parts.append(column.type(value))
    return Key(domain, tuple(parts))


def cache_key(key: Key) -> Key | None:
    """The key under which the cache knows of this document: a ledger has one entry for all its rows, a series none."""
    if key.domain.shape is Shape.SERIES:
        return None
    return key.scope if key.domain.shape is Shape.LEDGER else key


@lru_cache(maxsize=len(DOMAINS))
def _own_columns(domain: Domain) -> frozenset[str]:
    stored = domain.fields or (domain.payload,)
    return frozenset((*domain.columns, *stored, "when", "removed", "rev"))


def concerns(domain: Domain, paths: Iterable[str]) -> bool:
    """Whether any of these changed fields is one that this package ever reads. A touched `updatedDate` is none."""
    columns = _own_columns(domain)
    return any(path.split(".", 1)[0] in columns for path in paths)


def is_complete(domain: Domain, fields: Mapping[str, Any]) -> bool:
    """Whether changed fields alone tell the payload and its time. MongoDB leaves out a field that was set to what it was."""
    return domain.payload in fields and (not domain.has_when or "when" in fields)


def written_at(change: Change) -> datetime:
    """The writer's wall clock as it stored it, otherwise MongoDB's; now, if neither is left."""
    stored = decode(change.body).get("updatedDate")
    if isinstance(stored, datetime):
        return stored
    return datetime.fromtimestamp(change.at >> 32, UTC) if change.at else datetime.now(UTC)
