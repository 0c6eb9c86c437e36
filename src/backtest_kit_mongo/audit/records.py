"""What a record is, where records are, and the digest that makes a change of one visible.

| field       | meaning |
|-------------|---------|
| _id         | "{domain}/{documentId}/{rev}"; of a foreign change "{domain}/{documentId}/{rev}~{n}" |
| domain, key | the key's parts; of candles the series |
| label       | the same parts as one escaped text, so that an index entry is one key |
| documentId  | MongoDB's `_id` as text; of candles the series and the first new open time |
| rev         | the revision that the change made |
| operation   | upsert, remove, batch (candles; payload = ranges), conflict (a candle came with other values; it was not changed), |
|             | gap (content lost, `reason` says why), foreign (another program) |
| foreign     | foreign changes only: n, the cluster time as an integer; the revision they came after is `rev` |
| when        | simulation time in ms |
| payload     | the payload after the change |
| host, process, writtenAt | who wrote it, and when by the writer's clock |
| recordedAt, entry | when it was recorded, and from which stream entry |

No field is ever changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final, cast

from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference

from backtest_kit_mongo.backends.mongo.decoding import unreferenced
from backtest_kit_mongo.coherence.record import Part

ITEMS: Final = "audit-items"
PENDING: Final = "audit-pending"
SEALS: Final = "audit-seals"
HEADS: Final = "audit-heads"
GAP: Final = "gap"
FOREIGN: Final = "foreign"

IDENTITY: Final = (("documentId", 1), ("rev", 1), ("foreign", 1), ("domain", 1))
"""Unique, so no second record of a revision fits in under another `_id`; its order is a document's history."""
KEYS: Final = (("domain", 1), ("label", 1), ("documentId", 1))
"""Finds the documents of a key, of which there are several if one was deleted and made again. Only first revisions are in it:
each index over all records costs the audit role about a tenth of its throughput.
"""
IN_KEYS: Final = {"rev": {"$lte": 1}}

Document = dict[str, Any]

READABLE: Final[CodecOptions[Document]] = CodecOptions(
    tz_aware=True, tzinfo=UTC, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)
"""Any date decodes, or a record with a forged one could not even be shown."""
RAW: Final[CodecOptions[RawBSONDocument]] = CodecOptions(RawBSONDocument)


def readable(database: Database[Document], name: str) -> Collection[Document]:
    """A collection as the reading side sees it: the primary, and only what cannot be rolled back."""
    return database.get_collection(name, READABLE, ReadPreference.PRIMARY, read_concern=ReadConcern("majority"))


def raw(database: Database[Document], name: str) -> Collection[RawBSONDocument]:
    """The same, as bytes."""
    of_bytes = cast("Database[RawBSONDocument]", database)
    return of_bytes.get_collection(name, RAW, ReadPreference.PRIMARY, read_concern=ReadConcern("majority"))


def digest(stored: bytes | memoryview) -> bytes:
    """SHA-256 of a record's BSON bytes, which MongoDB keeps as they were sent, and so do dump, restore and replication.

    Not of a re-encoding: that would cost the audit role and `verify` more than all the rest.
    """
    return sha256(stored).digest()


def split_id(record_id: str) -> tuple[str, int, int | None]:
    """A record's document ("domain/documentId"), revision, and n if it is a foreign change."""
    document, _, revision = record_id.rpartition("/")
    rev, mark, n = revision.partition("~")
    return document, int(rev), int(n) if mark else None


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One change.

    Attributes:
        id: the change's identity; a republished event has the same one.
        rev: revision that the change made; for `foreign`, the one it came after.
        foreign: order among foreign changes, None for changes made through this package.
        when: simulation time in ms, None where the domain stores none.
        written_at: wall clock of the writer; None if it is unknown.
        reason: of a `gap`, why the content is lost.
    """

    id: str
    domain: str
    key: tuple[Part, ...]
    document_id: str
    rev: int
    operation: str
    payload: Any
    when: int | None = None
    foreign: int | None = None
    host: str = ""
    process: int = 0
    written_at: datetime | None = None
    recorded_at: datetime | None = None
    entry: str = ""
    reason: str = ""


def from_document(stored: Mapping[str, Any]) -> AuditRecord:
    """A stored record. Fields that a tamperer took away read as empty."""
    return AuditRecord(
        id=str(stored["_id"]),
        domain=str(stored.get("domain", "")),
        key=tuple(stored.get("key") or ()),
        document_id=str(stored.get("documentId", "")),
        rev=int(stored.get("rev") or 0),
        operation=str(stored.get("operation", "")),
        payload=unreferenced(stored.get("payload")),
        when=_optional(stored.get("when")),
        foreign=_optional(stored.get("foreign")),
        host=str(stored.get("host") or ""),
        process=int(stored.get("process") or 0),
        written_at=_moment(stored.get("writtenAt")),
        recorded_at=_moment(stored.get("recordedAt")),
        entry=str(stored.get("entry") or ""),
        reason=str(stored.get("reason") or ""),
    )


def _optional(number: Any) -> int | None:
    return None if number is None else int(number)


def _moment(value: Any) -> datetime | None:
    """A date, None where there is none or it is outside Python's calendar."""
    return value if isinstance(value, datetime) else None
