"""Payload bytes: msgpack with dates, and nothing that MongoDB could not hold as well.

`pack` is also how a caller's value becomes plain data: packing and unpacking gives dicts, lists, str, int, float, bool,
None, bytes and UTC datetimes with millisecond precision, whatever models, tuples or NumPy scalars went in, and shares
no object with the caller. What is of another type becomes the plain value that it is one of (an enumeration of texts, a
`float64`, an ordered dict), or is refused: nothing is ever stored as something else than it was.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgpack
from pydantic import BaseModel

from backtest_kit_mongo.coherence.moments import EPOCH as EPOCH
from backtest_kit_mongo.coherence.moments import datetime64_ms, is_nat
from backtest_kit_mongo.coherence.moments import millis as millis

TIMESTAMP_EXT = -1
"""msgpack's own extension number for timestamps."""


def dump(model: BaseModel) -> dict[str, Any]:
    """Exactly the fields that were given, under their stored names: the original tells an absent field from a null
    one.
    """
    # serialize_as_any: a field typed with a base row may hold a derived one, whose own fields must not be dropped.
    return model.model_dump(by_alias=True, exclude_unset=True, serialize_as_any=True)


def plain_value(value: Any) -> Any:
    """What msgpack should encode in place of a value that is not exactly of a plain type."""
    if isinstance(value, BaseModel):
        return dump(value)
    if isinstance(value, datetime) and not is_nat(value):
        return _timestamp(millis(value))
    if isinstance(value, _BASES):
        return _base(value)
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        if is_masked(value):
            raise TypeError("a masked value is missing, and cannot be stored")
        kind = _kind(value)
        if kind == "M":
            return _timestamp(datetime64_ms(value))
        # Neither a duration nor a record has a value here that still says what it was.
        inner = None if kind in ("m", "V") else value.item()
        if type(inner) in _PLAIN:
            return inner
        if type(inner) is not type(value) and inner is not None:
            return plain_value(inner)
    raise TypeError(f"a {type(value).__name__} cannot be stored")


def _timestamp(moment_ms: int) -> msgpack.Timestamp:
    # BSON dates carry milliseconds. Cut before it is stored, or the cached copy would differ from the stored one.
    seconds, ms = divmod(moment_ms, 1000)
    return msgpack.Timestamp(seconds, ms * 1_000_000)


def _kind(scalar: Any) -> str:
    """NumPy's letter for a scalar's type. `item()` of a datetime64 ("M") or timedelta64 ("m") may be a bare integer."""
    return str(getattr(getattr(scalar, "dtype", None), "kind", ""))


def is_masked(value: Any) -> bool:
    """Whether a value of NumPy, or one of an array's, is marked as missing: `item()` gives what lies below the mask."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ma.MaskedArray) and bool(numpy.ma.is_masked(value))


_PLAIN = (str, bool, int, float, bytes)
_BASES = (str, int, float, bytes, tuple, list, dict)
_MEANS_MORE = {str: "scope", bytes: "subtype", tuple: "_fields"}
"""By which attribute an instance of a subclass is more than its base: BSON's code and marked bytes, tuples with
names.
"""


def _base(value: Any) -> Any:
    """The plain value that an instance of a subclass is, unless it says more than that."""
    base: Any = next(base for base in _BASES if isinstance(value, base))
    if getattr(value, _MEANS_MORE.get(base, ""), False) not in (False, 0):
        raise TypeError(f"a {type(value).__name__} cannot be stored")
    # Not by calling `base`: an enumeration has a text of its own.
    own: Any = {str: str.__str__, int: int.__index__, float: float.__float__, tuple: list}.get(base, base)
    return own(value)


def plain_scalar(value: Any) -> Any:
    """A text, number or boolean of another library or of an enumeration as Python's own; anything else as it is."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, (str, int, float)):
        return _base(value)
    is_scalar = (
        hasattr(value, "item")
        and getattr(value, "shape", None) == ()
        and _kind(value) not in ("m", "M")
        and not is_masked(value)
    )
    if is_scalar and type(inner := value.item()) in _PLAIN:
        return inner
    return value


def pack(value: Any) -> bytes:
    """Encode plain data, pydantic models and datetimes.

    Raises:
        TypeError, ValueError, OverflowError: the value holds something that cannot be stored.
    """
    packed: bytes = msgpack.packb(value, default=plain_value, strict_types=True)
    return packed


class _Exactly:
    """A truth value, or a number that Python takes for one: True equals 1, and neither is stored as the other."""

    __slots__ = ("_value",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: float) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, bool) is isinstance(self._value, bool) and other == self._value


_SCALARS = (str, bool, int, float, bytes, datetime)


def detached(value: Any) -> Any:
    """A copy that later changes of the caller's containers do not reach. It shares the scalars, so comparing it with
    its unchanged original mostly compares identities.
    """
    if isinstance(value, dict):
        return {name: detached(member) for name, member in value.items()}
    if isinstance(value, list):
        return [detached(member) for member in value]
    if isinstance(value, BaseModel):
        return value.model_copy(deep=True)
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return _Exactly(value)
    # Whatever else may be changed in place equals nothing, so it is looked at anew each time.
    return value if value is None or isinstance(value, _SCALARS) else object()


def unpack(body: bytes | memoryview) -> Any:
    """Decode what `pack` made; always a fresh object."""
    return msgpack.unpackb(body, timestamp=3, ext_hook=no_extension)


def no_extension(code: int, _: bytes) -> Any:
    """No extension of msgpack but its timestamps is stored."""
    raise ValueError(f"extension type {code} of msgpack cannot be stored")


def maker(value: Any) -> Callable[[], Any]:
    """A function that makes `value` (plain data, not shared with anyone) anew: containers are copied, scalars shared.

    What to copy is found out once, so making it costs no more than the containers: decoding would cost four times that.
    """
    if not isinstance(value, dict | list):
        return lambda: value
    members = value.items() if isinstance(value, dict) else enumerate(value)
    inner = [(place, maker(member)) for place, member in members if isinstance(member, dict | list)]
    if not inner:
        return value.copy

    def make() -> Any:
        made: Any = value.copy()
        for place, make_member in inner:
            made[place] = make_member()
        return made

    return make
