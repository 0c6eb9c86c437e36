"""What a replica's target must offer. Documents are raw BSON, so that a copy is exact."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple, Protocol

from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument

from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.coherence.codec import millis
from backtest_kit_mongo.coherence.record import Domain, Key
from backtest_kit_mongo.errors import CorruptData
from backtest_kit_worker.recovery.changes import revision

Identity = Any
"""What a target calls a stored document: the bytes of its `_id`, or a path below the directory."""


class ReplicaFailed(OSError):
    """A target refused something. Some of the batch may have been written, repeating it is safe; nothing may be
    acknowledged.
    """


class ReplicaUnreachable(ReplicaFailed, ConnectionError):
    """A target is away, or is not to be written to for now; this says nothing about what was to be written."""


class Verdict(Enum):
    """How a copy compares with its document."""

    SAME = "same"
    MISSING = "missing"
    BEHIND = "behind"
    AHEAD = "ahead"
    """Of a revision that the source does not have."""
    ALTERED = "altered"
    """Of the same revision, but with other content."""
    EXTRA = "extra"
    """The source has no such document."""


class Seen(NamedTuple):
    """A copy as it was found; `rev` is 0 if there is none."""

    verdict: Verdict
    rev: int


class Version(NamedTuple):
    """What orders the states of one document. `updated_ms` distinguishes writes that do not raise `rev`."""

    rev: int
    updated_ms: int


class Marker(NamedTuple):
    """Whose replica a target is: the source, and the run of the copy that fills it."""

    source: str
    run: str


class Target(Protocol):
    """A place for copies. All methods raise `ReplicaFailed` if the place fails; it may then be tried again."""

    name: str
    place: str
    """For people; carries no secret."""

    def open(self) -> None:
        """Connect and build indexes. May be repeated.

        Raises:
            EnvironmentFault: the target cannot hold a replica.
        """

    def close(self) -> None:
        """Let go of what is held. It may be opened again."""

    def marker(self) -> Marker | None: ...

    def mark(self, marker: Marker) -> None: ...

    def is_empty(self) -> bool: ...

    def put(self, domain: Domain, documents: Sequence[RawBSONDocument], *, force: bool = False) -> int:
        """Write those that are newer than their copy, or all of them with `force`. Durable on return.

        Returns how many were written.

        Raises:
            CorruptData, CallerError: a document cannot be stored here; the others of the call may have been.
        """

    def look(self, domain: Domain, documents: Sequence[RawBSONDocument]) -> list[Seen]:
        """How the copies compare with these documents."""

    def named_by(self, domain: Domain, key: Key, document: str) -> Identity:
        """What the copy of a document is called here, by the key and `_id` that an event tells."""

    def stored(self, domain: Domain) -> Iterator[list[Identity]]:
        """Everything that the target holds of a domain, in batches."""

    def absent(self, domain: Domain, identities: Collection[Identity]) -> list[Identity]:
        """Those that are stored here but not in the source."""

    def discard(self, domain: Domain, identities: Sequence[Identity]) -> None: ...


def version(document: Mapping[str, Any]) -> Version:
    """The version of a document; revision 0 if only foreign programs wrote it."""
    rev, updated = revision(document.get("rev")), document.get("updatedDate")
    if isinstance(updated, datetime):
        return Version(rev, millis(updated))
    return Version(rev, int(updated) if isinstance(updated, DatetimeMS) else 0)


def key_of(domain: Domain, document: Mapping[str, Any]) -> Key:
    """The key that a stored document has.

    Raises:
        CorruptData: it lacks a key column, or has one of another type.
    """
    try:
        parts = tuple(document[column.name] for column in domain.key)
    except KeyError as cause:
        raise CorruptData(f"{collection_of(domain)} {document['_id']}: the key column {cause} is missing") from None
    # Foreign programs store whole numbers as doubles, and ours come back as Int64.
    plain = tuple(
        int(part) if column.type is int and isinstance(part, int | float) and part == part // 1 else part
        for column, part in zip(domain.key, parts, strict=True)
    )
    if any(type(part) is not column.type for column, part in zip(domain.key, plain, strict=True)):
        raise CorruptData(f"{collection_of(domain)} {document['_id']}: a key column has the wrong type: {plain!r:.200}")
    return Key(domain, plain)
