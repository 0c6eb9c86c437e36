"""What is checked before anything is written: key parts, payloads, simulation times. All errors here mean that nothing
happened yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

import bson
from bson.errors import BSONError
from msgpack import packb, unpackb
from pydantic import BaseModel, ValidationError

from backtest_kit_mongo.coherence.codec import dump, no_extension, pack, plain_scalar, plain_value, unpack
from backtest_kit_mongo.coherence.moments import moment_ms
from backtest_kit_mongo.coherence.record import Change, Column, Domain, Key, Part
from backtest_kit_mongo.coherence.showing import shown
from backtest_kit_mongo.coherence.texts import plain_text
from backtest_kit_mongo.domains import payloads
from backtest_kit_mongo.errors import InvalidKey, InvalidPayload

INT64_MAX = 2**63 - 1
DOCUMENT_MAX_BYTES = 16 * 1024 * 1024
OVERHEAD_BYTES = 64 * 1024
"""Room for key columns and bookkeeping beside the payload."""
NESTING_MAX = 96
"""MongoDB stops at 100 levels; the document itself and a feed or audit record around the payload take the rest."""


def make_key(domain: Domain, parts: tuple[Part, ...]) -> Key:
    """A checked key or scope. An enumeration of texts and another library's texts, numbers and booleans become plain.

    Raises:
        InvalidKey: a part is not of its column's type or not among its choices.
    """
    plain = tuple(_checked_part(domain, column, part) for column, part in zip(domain.key, parts, strict=False))
    return Key(domain, (*plain, *parts[len(plain) :]))


@lru_cache(maxsize=65_536, typed=True)
def make_child(scope: Key, item: Part) -> Key:
    """A checked key below a checked scope. Cached: a read that finds a copy in this process takes a microsecond or two,
    and would spend a third of them here.

    Raises:
        InvalidKey: as `make_key`.
        TypeError: `item` cannot be hashed.
    """
    return make_key(scope.domain, (*scope.parts, item))


def _checked_part(domain: Domain, column: Column, given: Part) -> Part:
    part: Part = given if type(given) is column.type else plain_scalar(given)
    if type(part) is not column.type:
        raise InvalidKey(
            f"{domain.name}: {column.name} must be {column.type.__name__}, not {type(given).__name__} ({given!r:.80})"
        )
    if column.choices is not None and part not in column.choices:
        raise InvalidKey(f"{domain.name}: {column.name} must be one of {sorted(column.choices)}, not {part!r:.80}")
    if type(part) is str:
        plain_text(part, f"{domain.name}: {column.name}")
    elif type(part) is int and not -INT64_MAX <= part <= INT64_MAX:
        raise InvalidKey(f"{domain.name}: {column.name} does not fit 64 bits: {part!r:.80}")
    return part


def make_when(domain: Domain, when: Any, *, required: bool = True) -> int | None:
    """Simulation time in epoch milliseconds: a moment, or the number of a step where a simulation counts its own.

    Raises:
        InvalidKey: it is missing, or what `moment_ms` refuses.
    """
    if when is None and not required:
        return None
    return moment_ms(when, f"{domain.name}: `when`")


def make_change(key: Key, payload: Any, when: int | None = None) -> Change:
    """Check and encode one payload: its bytes for cache and feed, and as BSON, each once for all. What no MongoDB
    document can hold is refused, on every backend alike: a run on files must not fail only in production.

    Raises:
        InvalidPayload: it does not fit the domain's model, holds something that cannot be stored, or is too large.
    """
    try:
        body: bytes = packb(payload, default=plain_value, strict_types=True)  # `encode`, without its calls.
        plain = unpackb(body, timestamp=3, ext_hook=no_extension)
    except UNSTORABLE as cause:
        raise _refusal(key, payload, cause) from cause
    try:
        payloads.adapter(key.domain.model).validate_python(plain, context=payloads.AS_STORED)  # `check`, as well.
    except ValidationError as cause:
        raise _misfit(key, cause) from cause
    # Who has not so many containers has not so many levels; most payloads need no closer look.
    if len(body) - len(body.translate(None, _CONTAINERS)) > NESTING_MAX and _too_deep(plain):
        raise InvalidPayload(f"{key}: nested deeper than {NESTING_MAX} levels. Nothing was written.")
    try:
        stored: bytes = bson.encode({"payload": plain})
    except (BSONError, OverflowError) as cause:
        raise _refusal(key, plain, cause) from cause
    if len(stored) > DOCUMENT_MAX_BYTES - OVERHEAD_BYTES:
        raise _too_large(key, stored)
    removed = key.domain.has_removed and isinstance(plain, dict) and plain.get("removed") is True
    return Change(key, plain, body, when, removed, stored)


def encode(key: Key, payload: Any) -> tuple[bytes, Any]:
    """The payload's bytes, and the plain data that they mean (nothing of it shared with the caller).

    Raises:
        InvalidPayload: it holds something that cannot be stored; the message says where.
    """
    try:
        body = pack(payload)
        return body, unpack(body)
    except UNSTORABLE as cause:
        raise _refusal(key, payload, cause) from cause


UNSTORABLE: Final = (TypeError, ValueError, OverflowError, RecursionError)
"""What `pack` and `unpack` raise of a payload that cannot be stored."""


def _refusal(key: Key, payload: Any, cause: Exception) -> InvalidPayload:
    """The message says where in the payload it is."""
    where = next(_unstorable(payload, "", 0), "")
    return InvalidPayload(f"{key}: {where or cause}. Nothing was written.")


def check(key: Key, plain: Any) -> None:
    """Validate plain data against the domain's model.

    Raises:
        InvalidPayload: with every field that does not fit.
    """
    try:
        payloads.adapter(key.domain.model).validate_python(plain, context=payloads.AS_STORED)
    except ValidationError as cause:
        raise _misfit(key, cause) from cause


def _misfit(key: Key, cause: ValidationError) -> InvalidPayload:
    errors = cause.errors(include_url=False, include_input=False)
    shown = "; ".join(f"{'.'.join(map(str, error['loc'])) or 'value'}: {error['msg']}" for error in errors[:5])
    return InvalidPayload(f"{key}: {shown}. Nothing was written.")


_CONTAINERS: Final = bytes((*range(0x80, 0xA0), *range(0xDC, 0xE0)))
"""The bytes that begin an object or a list in msgpack; they may stand elsewhere too."""


def _too_large(key: Key, stored: bytes) -> InvalidPayload:
    return InvalidPayload(
        f"{key}: the payload takes {len(stored):,} bytes; MongoDB's limit for a document is "
        f"{DOCUMENT_MAX_BYTES:,}. Nothing was written. Split it over several keys."
    )


def _too_deep(value: Any) -> bool:
    """Level by level, containers only."""
    containers = [value] if type(value) in (dict, list) else []
    for _ in range(NESTING_MAX):
        containers = [
            member
            for container in containers
            for member in (container.values() if type(container) is dict else container)
            if type(member) is dict or type(member) is list
        ]
        if not containers:
            return False
    return True


def _unstorable(value: Any, path: str, level: int) -> Iterator[str]:
    """The first place that cannot be encoded, found only after that failed."""
    if level > NESTING_MAX:
        yield f"nested deeper than {NESTING_MAX} levels, or containing itself"
        return
    if isinstance(value, BaseModel):
        value = dump(value)
    if isinstance(value, dict):
        for name, member in value.items():
            reported = shown(repr(name))
            if not isinstance(name, str):
                yield f"{path or 'value'} has the key {reported}; keys must be text"
            elif "\0" in name:
                yield f"{path or 'value'} has the key {reported}; keys must not hold a zero byte"
            elif not _is_unicode(name):
                yield f"{path or 'value'} has the key {reported}; keys must be valid Unicode text"
            yield from _unstorable(member, f"{path}.{shown(str(name))}" if path else shown(str(name)), level + 1)
    elif isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        for index, member in enumerate(value):
            yield from _unstorable(member, f"{path}[{index}]", level + 1)
    elif isinstance(value, int) and not -INT64_MAX <= value <= INT64_MAX:
        yield f"{path or 'value'}: {value!r:.40} does not fit 64 bits; store it as text"
    else:
        try:
            unpack(pack(value))
        except (TypeError, ValueError, OverflowError) as cause:
            yield f"{path or 'value'}: {cause}"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def row_item(domain: Domain, payload: Any) -> Part:
    """The row's own id, which is the last key column of a list.

    Raises:
        InvalidPayload: the row has none, or it is not a non-empty text.
    """
    if isinstance(payload, dict):
        item = payload.get(domain.row_id)
    elif isinstance(payload, BaseModel):
        item = getattr(payload, domain.row_id, None)
    else:
        item = None
    item = plain_scalar(item)
    if type(item) is not str or not item:
        raise InvalidPayload(
            f"{domain.name}: each row needs a non-empty text `{domain.row_id}`, not {item!r:.80}. Nothing was written."
        )
    return item
