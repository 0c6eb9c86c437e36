"""What strangers put into the servers: documents, and entries of the feed, of every kind that a worker must set
aside.
"""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import bson
import msgpack
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.raw_bson import RawBSONDocument

from backtest_kit_mongo.backends.mongo.layout import payload_field
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.events import Event, Origin, UnknownEvent, decode
from backtest_kit_mongo.coherence.record import Domain, Shape
from backtest_kit_mongo.testing.handles import parts

__all__ = ["MOMENTS", "NAMES", "STRANGER", "VALUES", "forged", "no_utf8", "odd_document", "odd_entries"]

STRANGER = Origin("stranger", 0)
"""By this the checks know a forged event. The product does not look at it."""


def beyond_the_calendar() -> RawBSONDocument:
    """A date of the year 292278994."""
    return RawBSONDocument(bson.encode({"d": bson.DatetimeMS(2**63 - 1)}))


def no_utf8(**fields: Any) -> RawBSONDocument:
    """The fields, with each `?` in them replaced by a byte that is no UTF-8."""
    return RawBSONDocument(bson.encode(fields).replace(b"?", b"\xff"))


MOMENTS: list[Any] = [
    float("nan"), float("inf"), 1e300, "soon", True, [1], bson.DatetimeMS(2**62), Decimal128("NaN"), 5.5, MinKey(),
    None,
]  # fmt: skip
VALUES: list[Any] = [
    beyond_the_calendar(), Decimal128("1"), Regex("a"), DBRef("c", 1), Code("x"), Timestamp(1, 1), Binary(b"x", 5),
    MaxKey(),
    no_utf8(a="?"), no_utf8(**{"?": 1}), ["x" * 1000] * 1000, Code("x", {"y": 1}), ObjectId(), {"$ref": "c", "$id": 1},
]  # fmt: skip
NAMES: list[Any] = [
    beyond_the_calendar(), no_utf8(a="?"), "x" * 100_000, float("nan"), Decimal128("1"), {"a": {"b": 1}}, True,
]  # fmt: skip
REVISIONS: list[Any] = [
    None,
    Int64(1),
    Int64(3),
    5.5,
    True,
    "7",
    Int64(10**9),
    Int64(-1),
    float("nan"),
    Decimal128("1"),
]
KINDS = ("payload", "part of payload", "when", "dates", "key", "name", "rev")


def odd_document(domain: Domain, number: int, choose: Any) -> Any:
    """A document under a key of its own that nobody else uses, odd in one way. `choose` picks one of a sequence."""
    document: dict[str, Any] = {
        "_id": ObjectId(),
        **dict(zip(domain.columns, parts(domain, f"odd{number}"), strict=True)),
    }
    if domain.shape is Shape.LIST:
        document[domain.columns[0]] = bool(number % 2)  # Among the rows that clients read.
    document.update({payload_field(domain): {"data": number}, "when": 1, "createDate": 1})
    kind = choose(KINDS)
    if kind == "payload":
        document[payload_field(domain)] = choose(VALUES)
    elif kind == "part of payload":
        document[payload_field(domain)] = {"data": choose(VALUES)}
    elif kind == "when":
        document["when"] = choose(MOMENTS)
    elif kind == "dates":
        document["createDate"] = document["updatedDate"] = choose(VALUES)
    elif kind == "key":
        document[choose(domain.columns)] = choose(VALUES)
    elif kind == "name":
        document["_id"] = choose([*NAMES, f"{number}", number])
    rev = choose(REVISIONS) if kind == "rev" else choose([None, Int64(1), Int64(3)])
    return document if rev is None else {**document, "rev": rev}


FIELDS: Mapping[str, Any] = {
    "v": 1, "id": "state/odd/1", "domain": "state", "key": ["signal", "b"], "doc": "odd", "rev": 1, "op": "upsert",
    "when": 1,
    "at": 1_700_000_000_000, "host": STRANGER.host, "pid": STRANGER.process,
}  # fmt: skip
WRONG: list[Any] = [None, True, 5.5, -1, 0, "7", 2**60, [1], b"\xff", {"a": 1}]


def odd_entries() -> Iterator[dict[bytes, bytes]]:
    """Entries of the feed that are no events."""
    return (entry for entry in _entries() if not _is_event(entry))


def _entries() -> Iterator[dict[bytes, bytes]]:
    for name, value in product(FIELDS, WRONG):
        yield {b"e": msgpack.packb({**FIELDS, name: value}), b"p": pack({"data": 1})}
    for name in FIELDS:
        yield {b"e": msgpack.packb({one: value for one, value in FIELDS.items() if one != name}), b"p": pack(1)}
    yield {b"e": b"\xff" * 100}
    yield {b"x": b"1", b"y": b"2"}
    yield {b"e": b"\xff", b"p": b"x" * 2**21}


def _is_event(entry: dict[bytes, bytes]) -> bool:
    try:
        decode(entry)
    except UnknownEvent:
        return False
    return True


def forged(domain: str, key: tuple[Any, ...], document: str, rev: int, body: bytes) -> dict[bytes, bytes]:
    """An event that is well-formed, has a field more than any writer gives it, and tells what nobody wrote."""
    event = Event(domain, key, document, rev, "upsert", 1, 1_700_000_000_000, STRANGER, body)
    header = msgpack.packb({**msgpack.unpackb(event.header()), "unknown": "field"})
    return {b"e": header, b"p": body}
