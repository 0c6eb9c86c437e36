"""What tells stored documents apart, whatever a foreign program chose for their `_id`: the bytes of it.

Decoded values would not do. A document as `_id` cannot be hashed, NaN differs from itself, and text that is no UTF-8
cannot be sent back.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import unpack_from
from typing import Any, Final

import bson
from bson import ObjectId
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument

Raw = RawBSONDocument
RAW: Final[CodecOptions[Raw]] = CodecOptions(
    document_class=RawBSONDocument, tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    unicode_decode_error_handler="surrogateescape",
)  # fmt: skip
"""Whatever is stored can be looked at: dates outside of Python's calendar, text that is no UTF-8."""
_FIRST: Final = 9
"""Where the value begins of a stored document's first element: behind the size, the type and `_id` with its end."""
_SIZES: Final = {1: 8, 6: 0, 7: 12, 8: 1, 9: 8, 10: 0, 16: 4, 17: 8, 18: 8, 19: 16, 127: 0, 255: 0}
_COUNTED: Final = {2: 4, 3: 0, 4: 0, 5: 5, 12: 16, 13: 4, 14: 4, 15: 0}
"""Types whose value begins with a size, and how many bytes that does not count."""


def identity(document: Raw) -> bytes:
    """The type and the bytes of a stored document's `_id`, which MongoDB keeps as its first field."""
    raw = bytes(document.raw)
    kind = raw[4]
    if kind == 11:  # A regex: two texts.
        size = raw.index(b"\0", raw.index(b"\0", _FIRST) + 1) + 1 - _FIRST
    else:
        size = _SIZES[kind] if kind in _SIZES else unpack_from("<i", raw, _FIRST)[0] + _COUNTED[kind]
    return raw[4:5] + raw[_FIRST : _FIRST + size]


def named(value: Any) -> bytes:
    """The identity of a document with this `_id`."""
    return identity(Raw(bson.encode({"_id": value})))


def id_of(document: str) -> ObjectId | str:
    """The `_id` that an event names. Foreign programs may use text."""
    return ObjectId(document) if ObjectId.is_valid(document) else document


def among(identities: Iterable[bytes]) -> Raw:
    """A filter: documents with one of these identities."""
    values = b"".join(each[:1] + str(number).encode() + b"\0" + each[1:] for number, each in enumerate(identities))
    return Raw(_document(b"\x03_id\0" + _document(b"\x04$in\0" + _document(values))), RAW)


def is_sendable(value: Any) -> bool:
    """Whether a decoded value is still the one that is stored."""
    try:
        bson.encode({"_id": value})
    except (UnicodeEncodeError, bson.errors.BSONError):
        return False
    return True


def _document(elements: bytes) -> bytes:
    return (len(elements) + 5).to_bytes(4, "little") + elements + b"\0"
