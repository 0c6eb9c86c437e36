"""Stored documents as records. Documents of other programs may hold anything that BSON can: what this package cannot
give back exactly makes its own document unreadable, and no other.

Documents are asked for as bytes, because the driver fails at the whole answer if one of them holds a date beyond
Python's calendar or text that is no UTF-8, and because it makes a `DBRef` of every object with `$ref` and `$id`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.dbref import DBRef
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.mongo.layout import payload_field
from backtest_kit_mongo.coherence.codec import EPOCH, pack, unpack
from backtest_kit_mongo.coherence.record import Domain, Key, Record, Shape
from backtest_kit_mongo.coherence.restoring import restoration, restore
from backtest_kit_mongo.errors import CorruptData

logger = locks.logger(__name__)

Document = dict[str, Any]
Raw = RawBSONDocument

RAW: Final[CodecOptions[Raw]] = CodecOptions(
    document_class=RawBSONDocument,
    tz_aware=True,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    unicode_decode_error_handler="backslashreplace",
)
"""Bytes, whose fields can always be looked at one by one, if only to name the document."""
TOLERANT: Final[CodecOptions[Document]] = CodecOptions(
    tz_aware=True,
    tzinfo=UTC,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    unicode_decode_error_handler="backslashreplace",
)
"""For documents of which a few fields are checked one by one: nothing else in them can make a batch undecodable."""
_EXACT: Final[CodecOptions[Document]] = CodecOptions(tz_aware=True, tzinfo=UTC)
_REFERENCE: Final = b"\x02$ref\0"
NAMED_MAX: Final = 5
"""How many unreadable documents a message names."""


def decoded(body: bytes | memoryview, options: CodecOptions[Document] = _EXACT) -> Document:
    """BSON as dicts and lists, an object with `$ref` and `$id` as the object that it is.

    Raises:
        BSONError, ValueError, OverflowError: it holds what has no counterpart in Python.
    """
    body = bytes(body)
    if _REFERENCE in body:
        of_parts: CodecOptions[Raw] = options.with_options(document_class=RawBSONDocument)
        made: Document = _unfolded(RawBSONDocument(body, of_parts))
        return made
    return bson.decode(body, options)


def _unfolded(value: Any) -> Any:
    if isinstance(value, RawBSONDocument):
        return {name: _unfolded(member) for name, member in value.items()}
    return [_unfolded(member) for member in value] if isinstance(value, list) else value


def unreferenced(value: Any) -> Any:
    """What the driver has decoded, with the objects that it took for references."""
    if isinstance(value, DBRef):
        return unreferenced(value.as_doc().to_dict())
    if isinstance(value, dict):
        return {name: unreferenced(member) for name, member in value.items()}
    return [unreferenced(member) for member in value] if isinstance(value, list) else value


def fields(domain: Domain) -> dict[str, int]:
    """A projection to what `record` needs."""
    return {payload_field(domain): 1, "rev": 1, "when": 1, "removed": 1}


def record(key: Key, raw: Raw, *, keys_only: bool = False) -> Record:
    """A document as a record of plain data: BSON's own number types and the npm package's doubles become Python's.

    Raises:
        CorruptData: it holds what cannot be given back as it is.
    """
    domain = key.domain
    try:
        document = decoded(raw.raw)
        payload = restore(unpack(pack(document.get(payload_field(domain)))), restoration(domain.model, "integer"))
        if domain.shape is Shape.LIST and not keys_only and not isinstance(payload, dict):
            raise ValueError("a row must be an object")
        when = document.get("when")
        rev, moment = whole("rev", document.get("rev") or 0), None if when is None else whole("when", when)
    except (TypeError, ValueError, OverflowError, RecursionError, BSONError) as cause:
        raise CorruptData(
            f"{key}: the stored document holds what this package never stores: {cause}. It was left as it is."
        ) from cause
    return Record(key, rev, payload, moment, document.get("removed") is True, str(document["_id"]))


def whole(name: str, value: Any) -> int:
    """A number that another program may have stored as a float.

    Raises:
        TypeError: it is no number that counts: MongoDB's decimals and what is beyond 64 bits do not either.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not -(2.0**63) <= value < 2.0**63:
        raise TypeError(f"{name} is {value!r:.40}")
    return int(value)


def record_or_unread(key: Key, raw: Raw) -> Record:
    """A document that cannot be read can be written over all the same: then its record's payload is None, which equals
    nothing that is written.
    """
    try:
        return record(key, raw)
    except CorruptData as cause:
        logger.warning("%s", cause)
        rev = raw.get("rev")
        return Record(key, rev if isinstance(rev, int) and not isinstance(rev, bool) else 0, id=str(raw["_id"]))


def listed(scope: Key, documents: Iterable[Raw], *, keys_only: bool) -> Iterator[Record]:
    """The records of a list. Documents that cannot be read are left out, and named in the log."""
    left_out: list[CorruptData] = []
    for raw in documents:
        try:
            found = _row(scope, raw, keys_only)
        except CorruptData as cause:
            left_out.append(cause)
        else:
            yield found
    if left_out:
        named = " ".join(str(cause) for cause in left_out[:NAMED_MAX])
        more = f" And {len(left_out) - NAMED_MAX} more." if len(left_out) > NAMED_MAX else ""
        logger.warning("%s: %d document(s) were left out of the list: %s%s", scope, len(left_out), named, more)


def _row(scope: Key, raw: Raw, keys_only: bool) -> Record:
    column = scope.domain.key[-1]
    item = raw.get(column.name)
    if type(item) is not column.type:
        raise CorruptData(f"{scope}: {column.name} of the document {raw['_id']} is {item!r:.40}. It was left as it is.")
    return record(scope.child(item), raw, keys_only=keys_only)


class Moments:
    """Times for the rows of one bulk: in the order of the rows, which is the order in which the npm package lists them.

    Milliseconds apart, and later than those of this process's bulks before. They end now, if there were fewer rows than
    milliseconds since.
    """

    def __init__(self) -> None:
        self._lock = locks.Lock()
        self._last_ms = 0

    def take(self, count: int) -> list[datetime]:
        with self._lock:
            first_ms = max(self._last_ms + 1, time.time_ns() // 1_000_000 - count + 1)
            self._last_ms = first_ms + count - 1
        return [EPOCH + timedelta(milliseconds=first_ms + place) for place in range(count)]
