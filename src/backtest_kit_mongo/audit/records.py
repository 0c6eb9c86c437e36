"""What a record is, where records are, and the digest that makes a change of one visible.

| field       | meaning |
|-------------|---------|
| _id         | "{domain}/{documentId}/{rev}"; of a foreign change "{domain}/{documentId}/{rev}~{n}" |
| domain, key | the key's parts; of candles the series |
| label       | the same parts as one escaped text, so that an index entry is one key |
| documentId  | MongoDB's `_id` as text; of candles the series and the first new open time |
| rev         | the revision that the change made |
| operation   | upsert, remove, delete (for good; payload = who and why), batch (candles; payload = ranges), conflict (a candle came with other values; it was not changed), |
|             | gap (content lost, `reason` says why), foreign (another program), correction (the record of `rev` reported something else |
|             | than MongoDB's own log; this one tells what the revision was), restore (the database went back: `domain` is |
|             | "restore", `documentId` the era that it ended or a name of its own, `reason` what was seen or done; revisions after it may be given out again) |
| foreign     | foreign changes and corrections only: n, the cluster time as an integer; the revision they came after is `rev` |
| first       | gaps only: the first of the revisions up to `rev`, if it stands for several; then `_id` ends in "{first}-{rev}" |
| when        | simulation time in ms |
| payload     | the payload after the change |
| host, process, writtenAt | who wrote it, and when by the writer's clock |
| recordedAt, entry | when it was recorded, and from which stream entry |
| step        | of a change that is part of a step (`docs/steps.md`): its id; a change that recovery found has none |
| cause       | what the writer said that the change belongs to (`coherence/causes.py`); a change that recovery found has none |
| signal      | the signal of that, or the one that the document itself names (`belonging.py`); absent where there is none |

| erased      | the payload was erased: who, why, when, and the digest of the record before (`erasing.py`) |

No other field is ever changed, nor is any added; of records that were dropped into a segment `step`, `cause` and
`signal` go too (`operate/segments.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final, NamedTuple, cast

from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference

from backtest_kit_mongo.backends.mongo.decoding import unreferenced
from backtest_kit_mongo.coherence.causes import Cause, from_fields
from backtest_kit_mongo.coherence.record import Part

DELETE: Final = "delete"
GAP: Final = "gap"
FOREIGN: Final = "foreign"
CORRECTION: Final = "correction"
RESTORE: Final = "restore"
ERASED: Final = "erased"

_ERASED_FIELD: Final = b"\x03erased\0"
"""As it stands in a record's bytes."""
IDENTITY: Final = (("documentId", 1), ("rev", 1), ("foreign", 1), ("domain", 1))
"""Unique, so no second record of a revision fits in under another `_id`; its order is a document's history."""
KEYS: Final = (("domain", 1), ("label", 1), ("documentId", 1))
"""Finds the documents of a key, of which there are several if one was deleted and made again. Only first revisions are
in it: each index over all records costs the audit role about a tenth of its throughput.
"""
IN_KEYS: Final = {"rev": {"$lte": 1}}
SIGNALS: Final = (("signal", 1),)
"""Sparse: only records that belong to a signal are in it. What `bkm trace` reads."""

Document = dict[str, Any]

READABLE: Final[CodecOptions[Document]] = CodecOptions(
    tz_aware=True,
    tzinfo=UTC,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    unicode_decode_error_handler="backslashreplace",
)
"""Any date and any text decodes, or a record with a forged one could not even be shown."""
RAW: Final[CodecOptions[RawBSONDocument]] = CodecOptions(
    RawBSONDocument,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    unicode_decode_error_handler="surrogateescape",
)


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


def sealed_digest(record: RawBSONDocument) -> bytes:
    """What the chain has of a record: its digest, and if its payload was erased since, that of before."""
    if _ERASED_FIELD in bytes(record.raw):
        erased: Any = record.get(ERASED)
        kept = erased.get("digest") if isinstance(erased, Mapping) and record.get("payload") is None else None
        if isinstance(kept, bytes) and len(kept) == sha256().digest_size:
            return bytes(kept)
    return digest(record.raw)


class RecordId(NamedTuple):
    """What a record's `_id` tells.

    Attributes:
        document: "domain/documentId".
        first, rev: the revisions that it stands for, mostly one.
        foreign: n of a foreign change or correction.
    """

    document: str
    first: int
    rev: int
    foreign: int | None


def split_id(record_id: Any) -> RecordId:
    """Read a record's `_id`.

    Raises:
        ValueError: the worker writes no such records.
    """
    document, mark, revision = record_id.rpartition("/") if isinstance(record_id, str) else ("", "", "")
    found = re.fullmatch(r"(?:([1-9][0-9]*)-)?([0-9]+)(?:~([0-9]+))?", revision)
    if not mark or found is None:
        raise ValueError(f"not the id of an audit record: {record_id!r:.200}")
    first, rev, n = found.groups()
    return RecordId(document, int(first or rev), int(rev), None if n is None else int(n))


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One change.

    Attributes:
        id: the change's identity; a republished event has the same one.
        rev: revision that the change made; for `foreign`, the one it came after.
        foreign: order among foreign changes, None for changes made through this package.
        when: simulation time in ms, None where the domain stores none.
        written_at: wall clock of the writer; None if it is unknown.
        reason: of a `gap`, why the content is lost; of a `correction`, what it corrects.
        first: of a `gap` that stands for several revisions up to `rev`, the first; otherwise `rev`.
        detail: what a foreign writer did; of a `correction`, what the revision was: upsert or remove.
        step: the step that the change is part of; empty for none, or none that is known.
        cause: what the writer said that it belongs to.
        signal: the signal that it belongs to, also where only the row itself tells; empty for none.
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
    first: int = 0
    detail: str = ""
    step: str = ""
    cause: Cause | None = None
    signal: str = ""


def from_document(stored: Mapping[str, Any]) -> AuditRecord:
    """A stored record. Fields that a tamperer took away read as empty."""
    rev = _whole(stored.get("rev"))
    return AuditRecord(
        id=str(stored["_id"]),
        domain=str(stored.get("domain", "")),
        key=tuple(key) if isinstance(key := stored.get("key"), list) else (),
        document_id=str(stored.get("documentId", "")),
        rev=rev,
        first=_whole(stored.get("first")) or rev,
        operation=str(stored.get("operation", "")),
        payload=unreferenced(stored.get("payload")),
        when=_optional(stored.get("when")),
        foreign=_optional(stored.get("foreign")),
        host=str(stored.get("host") or ""),
        process=_whole(stored.get("process")),
        written_at=_moment(stored.get("writtenAt")),
        recorded_at=_moment(stored.get("recordedAt")),
        entry=str(stored.get("entry") or ""),
        reason=_erasure(stored.get(ERASED)) or str(stored.get("reason") or ""),
        detail=str(stored.get("detail") or ""),
        step=str(stored.get("step") or ""),
        cause=from_fields(stored.get("cause")),
        signal=str(stored.get("signal") or ""),
    )


def _erasure(erased: Any) -> str:
    if not isinstance(erased, Mapping):
        return ""
    return f"its payload was erased at {erased.get('at')} by {erased.get('by')}: {erased.get('why')}"


def _whole(number: Any) -> int:
    """A number as it was written; 0 for what is none."""
    return int(number) if isinstance(number, int | float) and abs(number) < 2**63 else 0


def _optional(number: Any) -> int | None:
    return None if number is None else _whole(number)


def _moment(value: Any) -> datetime | None:
    """A date, None where there is none or it is outside Python's calendar."""
    return value if isinstance(value, datetime) else None
