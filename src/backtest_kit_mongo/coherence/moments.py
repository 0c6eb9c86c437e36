"""Every moment that enters the package: its unit, its zone, and whether it can have been meant.

A number is epoch milliseconds. Seconds, microseconds, nanoseconds and dates written as eight digits are distinguished
by their size, because no two of their ranges overlap between 1973 and 2200; what is not milliseconds is refused with
the milliseconds that it would be. Nothing is guessed: a wrong unit would only be found out when a strategy has seen its
own future.
"""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from backtest_kit_mongo.errors import InvalidKey

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
FROM_MS: Final = 10**11
"""1973-03-03. As seconds it would be the year 5138, so no number of seconds that anyone means lies above it."""
UNTIL_MS: Final = 7_289_654_400_000
"""2201-01-01."""
COUNTERS_END: Final = 10**7
"""Below this a number is the clock of a simulation that counts from zero: as a moment it would lie within three hours
of 1970-01-01, it is less than any date in digits, and less than the seconds of any day after 1970-04-26.
"""
_FINE: Final = "microseconds or nanoseconds"
_UNITS: Final = (("seconds", 1_000, 1), (_FINE, 1, 1_000), (_FINE, 1, 1_000_000))
_NUMPY_MS: Final = {"W": 604_800_000, "D": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_NUMPY_PER_MS: Final = {"us": 10**3, "ns": 10**6, "ps": 10**9, "fs": 10**12, "as": 10**15}


def millis(moment: datetime) -> int:
    """Epoch milliseconds; a datetime without a zone is UTC, as in pymongo. For stored values: what a caller passes as a
    moment goes through `moment_ms`.
    """
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    delta = aware - EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1000 + delta.microseconds // 1000


def moment_ms(value: Any, name: str, *, is_counter_too: bool = True) -> int:
    """A moment as epoch milliseconds.

    Args:
        value: milliseconds as an integer (NumPy's too), a datetime with a zone (pandas' Timestamp is one), or a
            `numpy.datetime64`, which is UTC. What is finer than a millisecond is cut.
        name: what the message calls it.
        is_counter_too: whether a simulation may count from zero, that is, 0 to below `COUNTERS_END` is one too.

    Raises:
        InvalidKey: it is of another type, has no zone, is not a time, or lies outside 1973-03-03 to 2200-12-31. The
            message names the milliseconds that were probably meant.
    """
    found = value if type(value) is int else _converted(value, name)
    if FROM_MS <= found < UNTIL_MS or (is_counter_too and 0 <= found < COUNTERS_END):
        return found
    has_unit = isinstance(value, datetime) or is_datetime64(value)
    raise InvalidKey(f"{name}: {_reported(found, has_unit=has_unit)}")


def implausible(found: int) -> str | None:
    """Why a number cannot have been meant as epoch milliseconds; None if it can."""
    return None if FROM_MS <= found < UNTIL_MS or 0 <= found < COUNTERS_END else _reported(found)


def written_ms(text: str, name: str, *, is_counter_too: bool = True) -> int:
    """A moment as people write it: milliseconds, or an ISO date, also as eight digits; UTC unless it has a zone.

    Raises:
        InvalidKey: it is neither, or as in `moment_ms`.
    """
    plain = text.strip()
    if _is_integer(plain):
        day = _date_of_digits(int(plain))
        return moment_ms(int(plain) if day is None else day, name, is_counter_too=is_counter_too)
    try:
        moment = datetime.fromisoformat(plain)
    except ValueError:
        hint = f"; it must be whole milliseconds{_meant(float(plain))}" if _is_number(plain) else ""
        raise InvalidKey(
            f"{name}: not a moment: {text!r:.60}; expected milliseconds or a date as 2024-01-01T12:00{hint}"
        ) from None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return moment_ms(aware, name, is_counter_too=is_counter_too)


def iso(moment_ms: float) -> str:
    """A moment for messages; beyond the calendar the number itself."""
    try:
        moment = EPOCH + timedelta(milliseconds=moment_ms)
    except OverflowError:
        return f"{moment_ms:.0f} ms"
    part_ms = f".{moment.microsecond // 1000:03}" if moment.microsecond >= 1000 else ""
    return f"{moment:%Y-%m-%d %H:%M:%S}{part_ms}Z"


def datetime64_ms(value: Any) -> int:
    """Milliseconds of a `numpy.datetime64`, which is UTC, rounded down.

    Raises:
        ValueError: it is no time (NaT), has no unit, or lies beyond the calendar.
    """
    numpy: Any = sys.modules["numpy"]
    unit, step = numpy.datetime_data(value.dtype)
    if numpy.isnat(value) or unit == "generic":
        raise ValueError("NaT is no moment" if numpy.isnat(value) else "a datetime64 without a unit is no moment")
    # In Python's integers: NumPy's own conversion between units overflows silently.
    count = int(value.astype("int64")) * int(step)
    if unit in ("Y", "M"):
        year, month = divmod(count if unit == "M" else 12 * count, 12)
        return millis(datetime(1970 + year, month + 1, 1, tzinfo=UTC))
    return count * _NUMPY_MS[unit] if unit in _NUMPY_MS else count // _NUMPY_PER_MS[unit]


def is_datetime64(value: Any) -> bool:
    """Whether it is NumPy's; without importing NumPy, which then nobody uses."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.datetime64)


def is_nat(value: Any) -> bool:
    """pandas' NaT: it calls itself a datetime, and is the only one that does not equal itself."""
    return isinstance(value, datetime) and value != value


def _converted(value: Any, name: str) -> int:
    if is_nat(value):
        raise InvalidKey(f"{name}: NaT is no moment")
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidKey(
                f"{name}: {value.isoformat()} has no zone, so which moment it is would depend on the machine. Give it "
                "one, for example .replace(tzinfo=UTC)"
            )
        return millis(value)
    if is_datetime64(value):
        try:
            return datetime64_ms(value)
        except (ValueError, OverflowError) as cause:
            raise InvalidKey(f"{name}: {cause}") from None
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.integer):
        return int(value)
    raise InvalidKey(
        f"{name} must be epoch milliseconds (int) or a datetime with a zone, not {value!r:.80}{_hint(value)}"
    )


def _hint(value: Any) -> str:
    if isinstance(value, date):
        return f"; a day has no zone, its beginning in UTC is {millis(datetime(value.year, value.month, value.day))}"
    if isinstance(value, str) and len(value) < 40:
        try:
            return f"; as a moment in UTC that is {written_ms(value, '')}"
        except InvalidKey:
            return ""
    return _meant(value) if isinstance(value, float) else ""


def _reported(found: int, *, has_unit: bool = False) -> str:
    day = None if has_unit else _date_of_digits(found)
    if day is not None:
        return f"{found} looks like the date {day:%Y-%m-%d}, which is {millis(day)} in milliseconds"
    try:
        named = f"{found} ms is {EPOCH + timedelta(milliseconds=found):%Y-%m-%d %H:%M:%SZ}"
    except OverflowError:
        named = f"{found} ms is beyond the calendar"
    return f"{named}, and moments lie between 1973-03-03 and 2200-12-31{'' if has_unit else _meant(found)}"


def _meant(number: float) -> str:
    """What a number is in the unit that it plausibly has."""
    for unit, times, parts in _UNITS:
        found = int(number * times // parts) if number == number and abs(number) < 1e30 else 0
        if FROM_MS <= found < UNTIL_MS:
            return f"; are these {unit}? Then pass {found} ({iso(found)})"
    if FROM_MS <= number < UNTIL_MS:
        return f"; pass {int(number)}"
    return ""


def _date_of_digits(number: int) -> datetime | None:
    """20240201 as a day, if it can have been meant as one."""
    if not 19_730_303 <= number < 22_000_101:
        return None
    try:
        return datetime(number // 10_000, number // 100 % 100, number % 100, tzinfo=UTC)
    except ValueError:
        return None


def _is_integer(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) < 40


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
